/** Fields with a file: one model for all fields with the same file, with the service before or after it. */

import { isFocused } from "./field-helper.js";
import { forgetAll } from "./offline-memory.js";
import { load } from "./offline.js";
import { promptOf } from "./suggester.js";

const MAX_PAUSE_MS = 30_000;
const LOW_BATTERY = 0.2; // of its capacity
const FEW = 4; // characters that are completed ahead after all keys, and all after the likeliest half of them
const SAME = 16; // UTF-16 code units: a text that begins otherwise is another one

const models = new Map(); // by file, integrity and whether something is kept: fields share them

function open({ file, integrity, remember, cache }) {
  const key = JSON.stringify([new URL(file, document.baseURI).href, integrity, remember, cache]);
  if (!models.has(key)) {
    const opening = load(file, { integrity, remember, cache });
    models.set(key, opening);
    opening.catch((error) => error.code === "unreachable" && models.delete(key)); // the next call tries again
  }
  return models.get(key);
}

// Deletes what the models of this origin have kept.
export async function forget() {
  await Promise.allSettled([...models.values()].map(async (model) => (await model).forget()));
  await forgetAll();
}

export class FieldModel {
  #listening = new AbortController();
  #value;
  #lines; // that are not new

  // `service`: a client, or null.
  constructor(field, options, service) {
    Object.assign(this, { field, options });
    const opened = () => open(options), ahead = new Ahead(opened, options.ahead);
    const suggest = async (...input) => (await opened()).client.suggest(...input);
    const offline = { complete: (_, ...input) => ahead.complete(...input), suggest };
    this.#on(field, "beforeinput", () => ahead.stop());
    this.#on(field, "input", () => ahead.follow(promptOf(field.value.slice(0, field.selectionEnd))));
    const [first, second] = options.first === "file" ? [offline, service] : [service, offline];
    this.client = service ? new Fallback(first, second) : offline;
    if (isFocused(field)) this.#prepare();
    this.#on(field, "focus", () => this.#prepare());
    if (options.remember) this.#remember();
  }

  end() {
    this.#keep();
    this.#listening.abort();
  }

  #on(target, name, listener) {
    target.addEventListener(name, listener, { signal: this.#listening.signal });
  }

  #prepare() {
    open(this.options).catch(() => {}); // the first call tells it
  }

  #remember() {
    const { field, options } = this;
    if (options.mode === "list") {
      const accept = ({ detail: { whole, text } }) => whole && this.#tell((model) => model.accept(text));
      return this.#on(field, "nextchar:accept", accept);
    }
    this.#value = field.value;
    this.#lines = new Set(linesOf(field.value));
    this.#on(field, "input", () => {
      const { value } = field, last = this.#value, same = Math.min(SAME, value.length, last.length);
      // The page has emptied the field, such as one of a message that was sent.
      const isOther = value.slice(0, same) !== last.slice(0, same) || (last.length > SAME && value.length < last.length / 2);
      if (isOther) this.#keep();
      this.#value = value;
    });
    this.#on(field, "change", () => this.#keep());
    this.#on(document, "submit", ({ target }) => target === field.form && this.#keep());
    this.#on(document, "visibilitychange", () => document.hidden && this.#keep());
  }

  // Lines that were written since the last time.
  #keep() {
    const added = linesOf(this.#value ?? "").filter((line) => line.trim() && !this.#lines.has(line));
    for (const line of added) this.#lines.add(line);
    if (added.length) this.#tell((model) => model.remember(added.join("\n")));
  }

  #tell(what) {
    open(this.options).then(what).catch(() => {});
  }
}

// Completions for the keys that are likely next, which are there when one of them is pressed.
class Ahead {
  #responses = new Map(); // by prompt and options
  #last = { prompt: "", text: "" }; // the last completion
  #stop = new AbortController();

  // `opened` returns the model; `count`: of the keys.
  constructor(opened, count) {
    Object.assign(this, { opened, count });
  }

  stop() {
    this.#stop.abort();
  }

  // A response of which a part is there has the promise of `rest`, the whole.
  async complete(prompt, { signal, timeout, retries, ...options }) {
    this.stop();
    const known = this.#responses.get(keyOf(prompt, options)), isPart = known?.isPart;
    const keep = (response) => ((this.#last = { prompt, options, text: response.completions[0].text }), response);
    if (known) keep(known), this.#start(prompt);
    if (known && !isPart) return known;
    const how = { signal: isPart ? this.#stop.signal : signal, timeout, ...options };
    const whole = (await this.opened()).complete(prompt, how).then(keep);
    if (isPart) return { ...known, rest: whole };
    await whole;
    this.#start(prompt);
    return whole;
  }

  // The prompt, if the user types along the last completion, which needs no call.
  follow(prompt) {
    const { prompt: before, text } = this.#last;
    if (prompt.length > before.length && (before + text).startsWith(prompt)) this.#start(prompt);
  }

  #start(prompt) {
    this.stop();
    const { signal } = (this.#stop = new AbortController());
    // What is shown is painted first.
    const compute = () => this.#compute(prompt, signal).catch(() => {}); // another key was pressed
    if (this.count && !this.#last.options.suffix) requestAnimationFrame(() => setTimeout(compute));
  }

  async #compute(prompt, signal) {
    const battery = await navigator.getBattery?.().catch(() => null);
    const isSaving = document.hidden || (battery && !battery.charging && battery.level <= LOW_BATTERY);
    if (signal.aborted || isSaving || navigator.hardwareConcurrency < 2) return;
    const { options } = this.#last, { max_characters, temperature } = options, model = await this.opened();
    this.#responses.clear();
    const compute = (top, most) => model.ahead(prompt, ({ prompt, response }) => {
      response.isPart = most < max_characters && response.completions[0].finish_reason === "length";
      this.#responses.set(keyOf(prompt, options), response);
    }, { ...options, max_characters: most, top, signal });
    if (!temperature) await compute(this.count, Math.min(FEW, max_characters));
    await compute(Math.ceil(this.count / 2), max_characters);
  }
}

const keyOf = (prompt, options) => JSON.stringify([prompt, options]);

const linesOf = (text) => text.split(/\r?\n/);

// Calls of the first client, or of the second while the first is away.
class Fallback {
  #awayUntil = 0; // in milliseconds; 0: it is there
  #pause = 1000;

  constructor(first, second) {
    const call = (name) => (...input) => this.#call(first, second, name, input);
    Object.assign(this, { complete: call("complete"), suggest: call("suggest") });
  }

  async #call(first, second, name, input) {
    if (!this.#awayUntil) {
      try {
        return await first[name](...input);
      } catch (error) {
        if (!this.#isAway(error)) throw error;
      }
    } else if (performance.now() > this.#awayUntil) { // the user does not wait for it
      first[name](...input).then(() => ([this.#awayUntil, this.#pause] = [0, 1000]), (error) => this.#isAway(error));
    }
    return second[name](...input);
  }

  #isAway({ name, code, status }) {
    if (name !== "NextcharError" || (status ? status !== 429 && status < 500 : code === "invalid_request")) return false;
    this.#awayUntil = performance.now() + this.#pause;
    this.#pause = Math.min(MAX_PAUSE_MS, 2 * this.#pause);
    return true;
  }
}
