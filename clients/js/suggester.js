/** When to request a suggestion, and what to suggest. */

import { sleep } from "./client.js";

const PROMPT_STEP = 8192; // UTF-16 code units; a prompt has between one and two steps
const MIN_SAVED_KEYS = 0.2; // expected
const MAX_DEBOUNCE_MS = 250;
const TIMEOUT_MS = 5000;
const MAX_BACKOFF_MS = 30_000;

// A text starts after a line break. The start of a long prompt moves in large steps: moved at each key, the prompt
// would miss the service's prefix cache each time.
export function promptOf(before) {
  const from = (Math.floor(before.length / PROMPT_STEP) - 1) * PROMPT_STEP;
  if (from <= 0) return "\n" + before;
  const line = before.indexOf("\n", from);
  if (line >= 0 && line < from + PROMPT_STEP) return before.slice(line);
  return before.slice(/[\udc00-\udfff]/.test(before[from]) ? from + 1 : from);
}

// Maximizes the expected number of keys saved: n characters for one key save n - 1, if all (or only a word) are right.
export function likelyLength(logprobs, wordLength = 1) {
  let sum = 0, best = MIN_SAVED_KEYS, length = 0, word = 0;
  logprobs.forEach((logprob, i) => {
    sum += logprob;
    const all = Math.exp(sum);
    if (i + 1 === wordLength) word = all;
    const saved = i * all + (i < wordLength ? 0 : (wordLength - 1) * (word - all));
    if (saved > best) [best, length] = [saved, i + 1];
  });
  return length;
}

export function firstWord(text) {
  const [found] = /^\s*(?:[\p{L}\p{M}\p{N}_'’]+|[^\s\p{L}\p{M}\p{N}_'’]+)/u.exec(text) ?? [text];
  const space = found.length - found.trimStart().length;
  const word = found.slice(space); // scripts without spaces need a dictionary
  if (!/[\p{sc=Han}\p{sc=Hira}\p{sc=Kana}\p{sc=Thai}\p{sc=Laoo}\p{sc=Khmr}\p{sc=Mymr}]/u.test(word)) return found;
  const [first] = new Intl.Segmenter(undefined, { granularity: "word" }).segment(word);
  return found.slice(0, space) + first.segment;
}

export class Suggester {
  acceptsWords = false;
  #completer;
  #cached = null; // {prompt, text, logprobs or null, end}: text.slice(0, end) is what was suggested

  constructor(client, model, { until = "likely", max = 40, temperature = 0, expert, debounce = null, onError } = {}) {
    this.#completer = new DebouncedCompleter(client, model, { debounce, onError });
    this.fields = { max_characters: max, temperature, ...(until === "likely" ? { logprobs: 0 } : { until }) };
    if (expert) this.fields.expert = expert;
  }

  recall(prompt) {
    const cached = this.#cached;
    if (!cached || !prompt.startsWith(cached.prompt)) return null;
    const typed = prompt.slice(cached.prompt.length);
    if (!cached.text.startsWith(typed)) return null;
    if (typed.length >= cached.end) cached.end = this.#endOf(cached, typed.length);
    // An empty suggestion is a response at its own prompt; after more typing it is used up.
    if (typed && cached.end <= typed.length) return null;
    return cached.text.slice(typed.length, cached.end);
  }

  async suggest(prompt, { signal } = {}) {
    this.#completer.abort();
    const cached = this.recall(prompt);
    if (cached !== null) return cached;
    const response = await this.#completer.complete(prompt, this.fields, signal);
    if (!response) return response === null ? null : "";
    const [{ text, logprobs }] = response.completions;
    this.#cached = { prompt, text, logprobs: logprobs && logprobs.map((one) => one.logprob), end: 0 };
    return this.recall(prompt);
  }

  abort() {
    this.#completer.abort();
  }

  forget() {
    this.#cached = null;
  }

  #endOf({ text, logprobs }, start) {
    const line = start + /^\s*[^\r\n]*/.exec(text.slice(start))[0].length;
    if (!logprobs) return line;
    const skip = [...text.slice(0, start)].length; // one log-probability per code point
    const characters = [...text.slice(start, line)];
    const word = this.acceptsWords ? [...firstWord(characters.join(""))].length : 1;
    const length = likelyLength(logprobs.slice(skip, skip + characters.length), word);
    return start + characters.slice(0, length).join("").length;
  }
}

// One request at a time, after a pause that fits the service, with back-off after errors.
export class DebouncedCompleter {
  #inFlight = null;
  #latency = 20; // milliseconds, a moving average
  #failures = 0;
  #pausedUntil = 0;

  constructor(client, model, { debounce = null, onError = () => {} }) {
    Object.assign(this, { client, model, debounce, onError });
  }

  abort() {
    this.#inFlight?.abort();
    this.#inFlight = null;
  }

  // Returns null if a newer call or `outer` aborted this one, undefined after an error.
  async complete(prompt, fields, outer) {
    this.abort();
    if (performance.now() < this.#pausedUntil) return undefined;
    const own = (this.#inFlight = new AbortController());
    const signal = outer ? AbortSignal.any([own.signal, outer]) : own.signal;
    try {
      // A fast service is asked at each key, a slow one when the typing pauses.
      const wait = this.debounce ?? Math.min(MAX_DEBOUNCE_MS, this.#latency);
      if (wait) await sleep(wait, signal);
      const start = performance.now();
      const options = { ...fields, signal, retries: 0, timeout: TIMEOUT_MS };
      const response = await this.client.complete(this.model, prompt, options);
      this.#latency += 0.3 * (performance.now() - start - this.#latency);
      this.#failures = 0;
      return response;
    } catch (error) {
      if (signal.aborted) return null;
      const pause = Math.max(1000 * (error.retryAfter ?? 0), Math.min(MAX_BACKOFF_MS, 1000 * 2 ** this.#failures++));
      this.#pausedUntil = performance.now() + pause;
      this.onError(error, pause);
      return undefined;
    } finally {
      if (this.#inFlight === own) this.#inFlight = null;
    }
  }
}
