/** Completion without a service, in a page or in Node.js: a packed model, in a thread of its own. */

import { NextcharError, randomId } from "./client.js";

const TIMEOUT_MS = 30_000;
const SHORT = 256; // UTF-16 code units: with such a prompt what was remembered since is read, too
const IS_PAGE = Boolean(globalThis.document);
// Node.js's own modules, without an import that bundlers for pages would follow.
const builtin = (name) => (IS_PAGE ? undefined : globalThis.process?.getBuiltinModule?.(name));

export async function load(source, { integrity, name, remember = false, cache = false, worker = true, wasm, signal } = {}) {
  const stop = new AbortController();
  const either = signal ? AbortSignal.any([signal, stop.signal]) : stop.signal;
  const thread = new Thread(worker);
  try {
    const runtime = contents(wasm ?? new URL("./nextchar.wasm", import.meta.url), { signal: either });
    const [file] = await Promise.all([
      contents(source, { integrity, signal: either }),
      runtime.then((input) => thread.call({ name: "start", input }, { signal, transfer: [input] })), // while the file is fetched
      thread.started,
    ]);
    const input = { file, cache: cache && !builtin("node:fs") && fileNameOf(name ?? source) };
    const info = await thread.call({ name: "open", input }, { signal, transfer: [file] });
    return new Model(thread, info, remember && (await (await import("./offline-memory.js")).Memory.open(name ?? info.name)));
  } catch (error) {
    stop.abort();
    thread.end();
    signal?.throwIfAborted();
    if (error instanceof NextcharError) throw error;
    const hint = /eval/.test(error.message) ? ": a Content-Security-Policy must have 'wasm-unsafe-eval' in script-src" : "";
    throw new NextcharError(`the model cannot be opened: ${error.message}${hint}`,
      { code: error.isRefused ? "invalid_file" : "unsupported", cause: error });
  }
}

export class Model {
  #thread;
  #memory;
  #remembered = ""; // what of it is read before prompts

  constructor(thread, info, memory) {
    Object.assign(this, { info });
    this.#thread = thread;
    this.#memory = memory || null;
    const call = (name) => (_, ...input) => this[name](...input);
    this.client = Object.fromEntries(["complete", "stream", "next", "suggest", "score"].map((name) => [name, call(name)]));
  }

  complete(prompt, { onText, ...options } = {}) {
    const onEvent = onText && (({ type, text, index }) => type === "piece" && onText(text, index));
    return this.#call("complete", prompt, options, onEvent);
  }

  async *stream(prompt, options) {
    const stop = new AbortController();
    const signal = options?.signal ? AbortSignal.any([options.signal, stop.signal]) : stop.signal;
    const events = [];
    let wake, failure;
    const tell = (event) => (events.push(event), wake?.());
    this.#call("complete", prompt, { timeout: null, ...options, signal }, tell).then(
      ({ model, early, usage, unknown_characters }) => tell({ type: "done", model, early, usage, unknown_characters }),
      (error) => ((failure = { error }), wake?.()),
    );
    try {
      for (let event; event?.type !== "done"; ) {
        while (!events.length && !failure) await new Promise((resolve) => (wake = resolve));
        if (!events.length) throw failure.error;
        yield (event = events.shift());
      }
    } finally {
      stop.abort(); // stops generating
    }
  }

  next(prompt, options) {
    return this.#call("next", prompt, options);
  }

  // Completes the prompt with each of the `top` likeliest characters after it, and tells the prompt and the response of each,
  // until another call is made.
  async ahead(prompt, onResponse, options) {
    await this.#call("ahead", prompt, { timeout: null, ...options }, onResponse);
  }

  async suggest(prefix, options) {
    const response = await this.#call("suggest", prefix, options);
    const id = `sug_${randomId()}`;
    const ranked = this.#memory?.rank(prefix, response.suggestions, options) ?? response.suggestions;
    return { ...response, id, suggestions: ranked.map((one, i) => ({ id: `${id}.${i}`, ...one })) };
  }

  score(text, options) {
    return this.#call("score", text, options);
  }

  // Text that the user has written is read before prompts from now on.
  async remember(text) {
    await this.#kept().add(text);
  }

  // A line that the user has accepted is suggested before others.
  async accept(line) {
    await this.#kept().count(line);
  }

  async forget() {
    this.#remembered = "";
    await this.#kept().forget();
  }

  close() {
    this.#thread.end();
  }

  #kept() {
    if (this.#memory) return this.#memory;
    throw new NextcharError("the model was loaded without remember", { code: "invalid_option", param: "remember" });
  }

  async #call(name, input, { signal, timeout = TIMEOUT_MS, retries, ...options } = {}, onEvent) {
    const isPrompt = ["complete", "next", "ahead"].includes(name);
    if (isPrompt && input.length < SHORT) this.#remembered = this.#memory?.text ?? "";
    const memory = isPrompt ? this.#remembered && this.#remembered.replace(/\n?$/, input.startsWith("\n") ? "" : "\n") : "";
    const deadline = timeout === null ? undefined : AbortSignal.timeout(timeout);
    const signals = [signal, deadline].filter(Boolean);
    try {
      const sent = { name, input, options, memory, streams: Boolean(onEvent) };
      return await this.#thread.call(sent, { signal: signals.length ? AbortSignal.any(signals) : undefined, onEvent });
    } catch (error) {
      signal?.throwIfAborted();
      if (deadline?.aborted) throw new NextcharError(`no result within ${timeout} ms`, { code: "timeout", cause: error });
      if (error instanceof NextcharError) throw error;
      throw error.isRefused ? new NextcharError(error.message, { code: "invalid_request", type: "invalid_request_error" })
        : new NextcharError(`the model has failed: ${error.message}`, { code: "model_failed" });
    }
  }
}

// A worker, or with `worker: false` this thread, and the calls that it has not answered.
class Thread {
  #calls = new Map();
  #count = 0;
  #ended = null; // by this error
  #port;
  #worker;

  constructor(worker) {
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    port1.onmessage = ({ data }) => this.#take(data);
    port1.unref?.(); // Node.js ends, unless a call is made
    this.started = worker === false ? serveHere(port2) : this.#start(worker, port2);
    this.started.catch(() => {});
  }

  async #start(address, port) {
    const { Worker: NodeWorker } = builtin("node:worker_threads") ?? {};
    if (NodeWorker) {
      this.#worker = new NodeWorker(new URL("./offline-worker.js", import.meta.url), { execArgv: [] });
      this.#worker.unref();
      this.#worker.on("error", (error) => this.end(error));
    } else {
      this.#worker = workerAt(address);
      this.#worker.onerror = (cause) => this.end(new NextcharError("the worker cannot be started: a Content-Security-Policy must"
        + " allow it by worker-src", { code: "unsupported", cause }));
    }
    this.#worker.postMessage({ nextcharPort: port }, [port]);
  }

  async call(sent, { signal, onEvent, transfer = [] }) {
    signal?.throwIfAborted();
    if (this.#ended) throw this.#ended;
    const id = ++this.#count;
    const calls = this.#calls;
    const cancel = () => (this.#port.postMessage({ cancel: id }), calls.get(id)?.reject(signal.reason), this.#settle(id));
    signal?.addEventListener("abort", cancel, { once: true });
    try {
      return await new Promise((resolve, reject) => {
        calls.set(id, { resolve, reject, onEvent });
        this.#port.ref?.();
        this.#port.postMessage({ id, ...sent }, transfer);
      });
    } finally {
      signal?.removeEventListener("abort", cancel);
    }
  }

  end(error = new NextcharError("the model is closed", { code: "closed" })) {
    this.#ended ??= error;
    for (const { reject } of this.#calls.values()) reject(error);
    this.#port.close();
    this.#worker?.terminate();
  }

  #take({ id, value, error, isRefused, event }) {
    const call = this.#calls.get(id);
    if (!call) return; // cancelled
    if (event) return call.onEvent?.(event);
    if (error === undefined) call.resolve(value);
    else call.reject(Object.assign(new Error(error), { isRefused }));
    this.#settle(id);
  }

  #settle(id) {
    this.#calls.delete(id);
    if (!this.#calls.size) this.#port.unref?.();
  }
}

async function serveHere(port) {
  const { serve } = await import("./offline-worker.js");
  serve(port);
  port.unref?.();
}

function workerAt(address) {
  if (address !== true) return new Worker(address, { type: "module" });
  try {
    return new Worker(new URL("./offline-worker.js", import.meta.url), { type: "module" });
  } catch { // these modules are of another origin than the page
    const script = `import ${JSON.stringify(new URL("./offline-worker.js", import.meta.url).href)}`;
    return new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })), { type: "module" });
  }
}

// One that differs, as a rule, for another source.
const fileNameOf = (source) =>
  [...String(source).slice(0, 1000)].reduce((hash, one) => Math.imul(hash ^ one.codePointAt(0), 0x01000193), 1).toString(36);

// The bytes of an address, a file or an array, which are not the caller's own.
async function contents(source, { integrity, signal }) {
  const files = builtin("node:fs/promises");
  let bytes = source instanceof ArrayBuffer || ArrayBuffer.isView(source) ? new Uint8Array(source.buffer ?? source, source.byteOffset,
    source.byteLength).slice() : null;
  if (files && !bytes && !/^(?!file:)[a-z]{2,}:/i.test(source)) {
    const path = /^file:/i.test(source) ? new URL(source) : String(source);
    bytes = new Uint8Array(await files.readFile(path, { signal }).catch((cause) => missing(source, cause.message, cause)));
  }
  if (bytes && !integrity) return bytes.buffer;
  const address = bytes ? URL.createObjectURL(new Blob([bytes])) : source;
  try {
    const response = await fetch(address, { integrity, signal });
    if (!response.ok) missing(source, `HTTP status ${response.status}`);
    return await response.arrayBuffer();
  } catch (cause) {
    signal.throwIfAborted();
    if (cause instanceof NextcharError) throw cause;
    return missing(source, integrity ? "it cannot be fetched, or integrity does not fit it" : "it cannot be fetched", cause);
  } finally {
    if (bytes) URL.revokeObjectURL(address);
  }
}

function missing(source, why, cause) {
  const name = typeof source === "string" && !source.startsWith("data:") ? source : (source.href ?? "the file");
  throw new NextcharError(`${name} cannot be loaded: ${why}`, { code: "unreachable", cause });
}
