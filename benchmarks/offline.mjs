// Measures a packed model in WebAssembly for benchmarks/offline.py, and prints JSON:
// node offline.mjs nextchar.wasm model.nextchar cases.json

import { readFileSync } from "node:fs";

const [, , runtime, file, cases] = process.argv;
const cpuMs = () => process.cpuUsage().user / 1000 + process.cpuUsage().system / 1000;
const [wall, cpu] = [performance.now(), cpuMs()];
const { instance } = await WebAssembly.instantiate(readFileSync(runtime), {});
const nc = instance.exports;
const data = readFileSync(file);
const at = nc.nc_alloc(data.length);
new Uint8Array(nc.memory.buffer, at, data.length).set(data);
const model = nc.nc_load(at, data.length, 0, 0);
const buffer = nc.nc_alloc(1 << 16);
const [encoder, decoder] = [new TextEncoder(), new TextDecoder()];

function complete({ prompt, max_characters, temperature, seed }) {
  const { written } = encoder.encodeInto(prompt, new Uint8Array(nc.memory.buffer, buffer, 1 << 16));
  const none = [0, 0, 1, 0, 0, 2, 0, 0]; // index, top_k, top_p, min_p, until, confidence_bits, stops
  if (!nc.nc_complete_start(model, buffer, written, max_characters, temperature, seed, 0, ...none)) throw file;
  const parts = [];
  for (let bytes; (bytes = nc.nc_complete_next(model, buffer, 1 << 16)) > 0; ) {
    parts.push(new Uint8Array(nc.memory.buffer, buffer, bytes).slice());
  }
  return decoder.decode(Buffer.concat(parts));
}

const first = { prompt: "In the ", max_characters: 20, temperature: 0.7, seed: 1 };
complete(first);
const cold = { cold_ms: performance.now() - wall, cold_cpu_ms: cpuMs() - cpu };

let step = Infinity;
for (let seed = 0; seed < 12; seed++) {
  nc.nc_forget(model);
  const started = cpuMs();
  complete({ prompt: "In the ", max_characters: 1000, temperature: 1, seed });
  step = Math.min(step, (cpuMs() - started) / 1007);
}

// Keys: one character more each time, of which 20 are completed.
const document = "The beginning of a text that is typed, key by key, and completes.";
const keys = [];
for (let n = 1; n <= document.length; n++) {
  const started = performance.now();
  complete({ prompt: document.slice(0, n), max_characters: 20, temperature: 0.7, seed: n });
  keys.push(performance.now() - started);
}
keys.sort((a, b) => a - b);

const texts = JSON.parse(readFileSync(cases, "utf8")).map((one) => {
  nc.nc_forget(model);
  return complete(one);
});
const key = { key_p50_ms: keys[keys.length >> 1], key_p95_ms: keys[Math.floor(keys.length * 0.95)] };
console.log(JSON.stringify({ ...cold, step_us: step * 1000, ...key, texts }));
