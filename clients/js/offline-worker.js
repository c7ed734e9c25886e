/** A packed model in `nextchar.wasm`, behind a message port: one call after another, each of which can be cancelled. */

const UNTIL = [null, "word", "line", "confidence"];
const REASONS = [null, "length", "stop", "word", "line", "confidence"];
const MAX_READ = 256; // bytes of a prompt between two looks for messages
const MAX_MS = 8; // the same, of a completion
const MAX_AHEAD_MS = 0.5; // the same, of one that is computed ahead
const MAX_ALL_AHEAD_MS = 150; // of all of them
const KEPT = "nextchar-tables"; // the folder of the origin's files
const KEEP_AFTER_MS = 1000; // after the model is opened: the first call does not wait for it
const [SUM_AT, SUM] = [24, 8]; // the checksum in a file, with which kept tables begin
const POINTS = 3; // the section of the file with the vocabulary

class Refused extends Error {}

const fail = (message) => {
  throw new Refused(message);
};

// Options that are not null, with defaults; those that this runtime does not have are refused.
function given(options, defaults) {
  for (const [name, value] of Object.entries(options)) {
    if (value != null && !(name in defaults)) fail(`${name}: a model without a service has no such option`);
  }
  return Object.fromEntries(Object.entries(defaults).map(([name, usual]) => [name, options[name] ?? usual]));
}

function integer(name, value, low, high) {
  if (!(Number.isInteger(value) && value >= low && value <= high)) fail(`${name} must be an integer from ${low} to ${high}`);
  return value;
}

// Runs what waits, such as the message that cancels this call.
const { port1, port2 } = globalThis.setImmediate ? {} : new MessageChannel();
const pause = () => new Promise((resolve) => {
  if (!port1) return setImmediate(resolve);
  port1.onmessage = resolve;
  port2.postMessage(null);
});

class Runtime {
  #nc;
  #model;
  #areas = {}; // of memory, by name: {at, size}
  #read = new Uint8Array(); // the last prompt
  #known; // code points of the vocabulary; null: bytes
  info;

  static async start(wasm) {
    const runtime = new Runtime();
    runtime.#nc = await instanceOf(wasm);
    return runtime;
  }

  // `cache`: the name of a file in which the browser keeps the tables for the next time.
  async open({ file, cache }) {
    const at = this.#take(file.byteLength), tables = cache ? await this.#kept(cache, file) : [0, 0];
    this.#bytes(at, file.byteLength).set(new Uint8Array(file));
    this.#model = this.#nc.nc_load(at, file.byteLength, ...tables) || this.#fail();
    if (cache && !tables[0]) setTimeout(() => this.#make(cache), KEEP_AFTER_MS);
    this.info = { ...this.#json("nc_info", 1 << 16), bytes: file.byteLength };
    if (this.info.alphabet === "characters") this.#known = pointsOf(file);
    return this.info;
  }

  // Returns where the tables of a file that were kept are in memory, and their size.
  async #kept(cache, file) {
    return withKept(cache, false, (kept) => {
      const of = new Uint8Array(SUM), size = kept.getSize();
      kept.read(of, { at: 0 });
      if (of.some((byte, i) => byte !== new Uint8Array(file)[SUM_AT + i])) return [0, 0]; // of an earlier model
      const at = this.#take(size);
      return kept.read(this.#bytes(at, size), { at: 0 }) === size ? [at, size] : [0, 0];
    }).catch(() => [0, 0]);
  }

  // Makes what is left of the tables, between calls.
  #make(cache) {
    if (this.#nc.nc_make(this.#model)) setTimeout(() => this.#make(cache));
    else this.#keep(cache);
  }

  async #keep(cache) {
    const { at: sizeAt } = this.#area("size", 4), at = this.#nc.nc_tables(this.#model, sizeAt);
    if (!at) return; // they are in the file
    const [size] = new Uint32Array(this.#nc.memory.buffer, sizeAt, 1);
    const write = (kept) => (kept.truncate(size), kept.write(this.#bytes(at, size), { at: 0 }), kept.flush());
    await withKept(cache, true, write).catch(() => {}); // there is no room: they are made again the next time
  }

  async complete(prompt, options, call) {
    const {
      n, max_characters, temperature, top_k, top_p, min_p, until, confidence_bits, suffix, ...rest
    } = given(options, { n: 1, max_characters: 40, temperature: 1, top_k: 0, top_p: 1, min_p: 0, seed: null, stop: [],
      until: null, confidence_bits: 2, logprobs: null, suffix: "", expert: "mixture", precision: "auto", client_id: "" });
    const stops = [rest.stop].flat().filter(Boolean);
    const seed = rest.seed ?? Math.floor(Math.random() * 2 ** 48);
    integer("n", n, 1, 128);
    integer("max_characters", max_characters, 1, 1e6);
    integer("top_k", top_k, 0, 65536);
    integer("seed", seed, 0, Number.MAX_SAFE_INTEGER);
    if (!UNTIL.includes(until)) fail(`until must be ${UNTIL.slice(1).join(" or ")}`);
    if (rest.expert !== "mixture") fail("expert: a model without a service predicts by its mixture only");
    if (rest.precision === "float32") fail("precision: a model without a service is int8");
    const hasLogprobs = rest.logprobs !== null;
    if (hasLogprobs && (rest.logprobs !== 0 || stops.length)) fail("logprobs must be 0, and without stop, where no service is");
    const [text, length] = await this.#prompt(prompt, call);
    const [ends, endsLength] = this.#write("stops", encode(stops.map((stop) => `${stop.normalize()}\0`).join("")));
    const completions = [];
    for (let index = 0; index < n; index++) {
      const start = [text, length, max_characters, temperature, seed >>> 0, Math.floor(seed / 2 ** 32), index, top_k, top_p,
        min_p, UNTIL.indexOf(until), confidence_bits, ends, endsLength];
      completions.push(await this.#one(start, { index, hasLogprobs, suffix, call }));
    }
    const unknown = this.#unknownIn(prompt);
    const counted = completions.reduce((sum, { text }) => sum + [...text].length, 0);
    const usage = { prompt_characters: [...prompt].length, completion_characters: counted };
    return { object: "completion", model: this.info.name, early: false, completions, usage, unknown_characters: unknown };
  }

  async #one(start, { index, hasLogprobs, suffix, call }) {
    const nc = this.#nc, model = this.#model, decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    if (!nc.nc_complete_start(model, ...start)) this.#fail();
    const logprobs = hasLogprobs ? [] : null;
    const { at } = this.#area("piece", 16);
    let text = "", began = performance.now(), bits = 0;
    for (let size = 1; size; ) {
      size = nc.nc_complete_next(model, at, 16);
      if (size < 0) this.#fail();
      const piece = decoder.decode(this.#bytes(at, size), { stream: size > 0 });
      const sum = nc.nc_complete_bits(model);
      if (piece) { // not a part of a character
        const own = hasLogprobs ? [{ character: piece, logprob: (bits - sum) * Math.LN2, top: [] }] : null;
        logprobs?.push(...own);
        [text, bits] = [text + piece, sum];
        if (call.streams && !suffix) call.tell({ type: "piece", index, text: piece, logprobs: own });
      }
      if (performance.now() - began < call.maxMs) continue;
      await call.check();
      began = performance.now();
    }
    const finish_reason = REASONS[nc.nc_complete_reason(model)];
    if (suffix) {
      const end = text.indexOf(suffix.split(/[\r\n]/, 1)[0].slice(0, 4));
      text = text.slice(0, Math.max(0, end)); // what does not lead to the text after the caret is not shown
      if (call.streams) call.tell({ type: "piece", index, text, logprobs: null });
    }
    if (call.streams) call.tell({ type: "finished", index, finish_reason, bits, characters: [...text].length });
    return { index, text, finish_reason, bits, logprobs };
  }

  async next(prompt, options, call) {
    const { top, temperature, expert } = given(options, { top: 10, temperature: 1, expert: "mixture" });
    integer("top", top, 1, 65536);
    if (expert !== "mixture") fail("expert: a model without a service predicts by its mixture only");
    const [text, length] = await this.#prompt(prompt, call);
    const found = this.#json("nc_next", 256 + 100 * Math.min(top, this.info.characters), text, length, temperature, top);
    return { object: "distribution", model: this.info.name, early: false, ...found,
      unknown_characters: this.#unknownIn(prompt) };
  }

  // Tells the completions of the prompt with each of the likeliest characters after it, until another call arrives.
  async ahead(prompt, { top, ...options }, call) {
    const end = performance.now() + MAX_ALL_AHEAD_MS, own = { ...call, streams: false, maxMs: MAX_AHEAD_MS };
    const { candidates } = await this.next(prompt, { top }, own);
    this.#nc.nc_keep(this.#model, 0);
    try {
      for (const { character } of candidates) {
        if (performance.now() > end) return;
        if (!this.#known && character > "\x7f") continue; // a part of one
        const longer = prompt + character;
        call.tell({ prompt: longer, response: await this.complete(longer, options, own) });
      }
    } finally {
      this.#nc.nc_keep(this.#model, 1);
    }
  }

  async suggest(prefix, options) {
    const { limit, constrain, exclude, context, typos } = given(options, { limit: 10, constrain: "lines", exclude: [],
      context: "", typos: -1, client_id: "" });
    integer("limit", limit, 1, 50);
    if (constrain !== "lines") fail("constrain: a model without a service suggests its lines only");
    const texts = [prefix, context, exclude.map((one) => `${one}\0`).join("")].flatMap((one, i) => (
      this.#write(`text${i || ""}`, encode(one.normalize()))));
    const suggestions = this.#json("nc_suggest", 1 << 18, ...texts, limit, typos);
    return { object: "suggestions", model: this.info.name, early: false, prefix, suggestions };
  }

  async score(text, options, call) {
    const { false_alarms } = given(options, { false_alarms: 0, repeats: "flag" });
    const lines = [];
    for (const line of [text].flat()) {
      const written = this.#write("text", encode(line.normalize()));
      lines.push({ lines: line.split("\n").length, ...this.#json("nc_score", 1024, ...written, false_alarms) });
      await call.check();
    }
    this.#read = new Uint8Array();
    const [characters, total_bits] = ["characters", "total_bits"].map((name) => lines.reduce((sum, one) => sum + one[name], 0));
    return { object: "score", model: this.info.name, ...(Array.isArray(text) ? {} : lines[0]), characters, total_bits,
      bits_per_character: total_bits / (characters || 1), lines: Array.isArray(text) ? lines : null };
  }

  // Reads a prompt in parts, so that a newer call need not wait for it; returns where it is.
  async #prompt(prompt, call) {
    const memory = encode(call.memory ?? ""), bytes = encode(`${call.memory ?? ""}${prompt}`.normalize());
    // The state after what is remembered stays in the runtime's cache by being used.
    if (memory.length && bytes.length - memory.length < MAX_READ) await this.#readTo(memory, memory.length, call);
    return this.#readTo(bytes, bytes.length - MAX_READ, call);
  }

  async #readTo(bytes, end, call) {
    const [at, length] = this.#write("text", bytes);
    let read = commonLength(this.#read, bytes);
    this.#read = bytes.subarray(0, read);
    while (read < end) {
      await call.check();
      for (read += MAX_READ; (bytes[read] & 0xc0) === 0x80; ) read++;
      read = Math.min(read, length);
      if (!this.#nc.nc_complete_start(this.#model, at, read, 1, 0, 0, 0, 0, 0, 1, 0, 0, 2, 0, 0)) this.#fail();
      this.#read = bytes.subarray(0, read);
    }
    await call.check();
    this.#read = bytes;
    return [at, length];
  }

  #unknownIn(text) {
    const known = this.#known;
    if (!known) return [];
    const bytes = encode(text.normalize());
    const read = this.info.masked ? this.#text("nc_mask", 3 * bytes.length + 4, ...this.#write("text", bytes)) : text.normalize();
    return [...new Set(read)].filter((one) => !known.has(one.codePointAt(0)));
  }

  // Memory of at least this size; it is never freed, so it doubles.
  #area(name, size) {
    const area = this.#areas[name];
    if (area?.size >= size) return area;
    const room = Math.max(1024, 2 * size);
    return (this.#areas[name] = { at: this.#take(room), size: room });
  }

  #take(size) {
    return this.#nc.nc_alloc(size) || fail("there is too little memory");
  }

  #bytes(at, size) {
    return new Uint8Array(this.#nc.memory.buffer, at, size); // which memory that grows replaces
  }

  #write(name, bytes) {
    const { at } = this.#area(name, bytes.length);
    this.#bytes(at, bytes.length).set(bytes);
    return [at, bytes.length];
  }

  #json(...call) {
    return JSON.parse(this.#text(...call));
  }

  #text(name, size, ...input) {
    const { at, size: capacity } = this.#area("json", size);
    const length = this.#nc[name](this.#model, ...input, at, capacity);
    if (length < 0) this.#fail();
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(this.#bytes(at, length));
  }

  #fail() {
    const at = this.#nc.nc_error();
    const all = new Uint8Array(this.#nc.memory.buffer, at);
    fail(new TextDecoder().decode(all.subarray(0, all.indexOf(0))));
  }
}

async function instanceOf(wasm) {
  try {
    return (await WebAssembly.instantiate(wasm, {})).instance.exports;
  } catch (error) {
    throw /eval/.test(error.message) ? error : new Error("this browser has no WebAssembly with SIMD");
  }
}

// Calls `use` with a file of the origin, which no other page uses meanwhile; one that cannot be written is deleted.
async function withKept(name, isNew, use) {
  const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle(KEPT, { create: isNew });
  const kept = await (await folder.getFileHandle(name, { create: isNew })).createSyncAccessHandle();
  try {
    return use(kept);
  } catch (error) {
    kept.close();
    await folder.removeEntry(name);
    throw error;
  } finally {
    kept.close();
  }
}

const encode = (text) => new TextEncoder().encode(text);

function commonLength(a, b) {
  const most = Math.min(a.length, b.length);
  let n = 0;
  while (n < most && a[n] === b[n]) n++;
  while (n && (b[n] & 0xc0) === 0x80) n--; // the beginning of a character
  return n;
}

// The vocabulary of a file that the runtime has accepted.
function pointsOf(file) {
  const view = new DataView(file);
  for (let entry = 32; entry < 32 + 24 * view.getUint32(12, true); entry += 24) {
    if (view.getUint32(entry, true) !== POINTS) continue;
    const at = Number(view.getBigUint64(entry + 8, true)), bytes = Number(view.getBigUint64(entry + 16, true));
    return new Set(new Uint32Array(file, at, bytes / 4));
  }
}

export function serve(port) {
  const cancelled = new Set();
  let runtime, newest, last = Promise.resolve();

  async function answer({ id, name, input, options, memory, streams }) {
    const check = async () => {
      await pause();
      if (cancelled.has(id) || (name === "ahead" && id !== newest)) throw new Refused("cancelled");
    };
    const call = { check, memory, streams, maxMs: MAX_MS, tell: (event) => port.postMessage({ id, event }) };
    try {
      if (cancelled.has(id)) return;
      if (name === "start") runtime = await Runtime.start(input);
      port.postMessage({ id, value: name === "start" ? null : await runtime[name](input, options, call) });
    } catch (error) {
      port.postMessage({ id, error: error.message, isRefused: error instanceof Refused });
    } finally {
      cancelled.delete(id);
    }
  }

  port.onmessage = ({ data }) => {
    if (data.cancel) cancelled.add(data.cancel);
    else [newest, last] = [data.id, last.then(() => answer(data))];
  };
}

// A worker is sent the port that it serves.
const parent = globalThis.WorkerGlobalScope ? globalThis : globalThis.process?.getBuiltinModule?.("node:worker_threads").parentPort;
parent?.addEventListener("message", ({ data }) => data?.nextcharPort && serve(data.nextcharPort));
