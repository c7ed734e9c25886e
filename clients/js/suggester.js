/** When to request a suggestion, and what to suggest. */

import { sleep } from "./client.js";

const PROMPT_STEP = 8192; // UTF-16 code units
const MIN_SAVED_KEYS = 0.1; // expected
const MAX_DEBOUNCE_MS = 250;
const TIMEOUT_MS = 5000;
const MAX_BACKOFF_MS = 30_000;
const MAX_SUFFIX = 1000; // UTF-16 code units

// A text starts after a line break. A long prompt's start moves in large steps, for the prefix cache.
export function promptOf(before) {
  const from = (Math.floor(before.length / PROMPT_STEP) - 1) * PROMPT_STEP;
  if (from <= 0) return "\n" + before;
  const line = before.indexOf("\n", from);
  if (line >= 0 && line < from + PROMPT_STEP) return before.slice(line);
  return before.slice(/[\udc00-\udfff]/.test(before[from]) ? from + 1 : from);
}

// n characters for one key save n - 1, if all (or a word) are right. Later suggestions save more.
export function likelyLength(logprobs, wordLength = 1, acceptance = 0.5) {
  const chances = logprobs.map(Math.exp), best = [...chances, 0].fill(0); // saved from a character on
  let length = 0;
  for (let start = chances.length; start--; ) {
    let all = 1, word = 0;
    length = 0;
    for (let i = 0; start + i < chances.length; ) {
      all *= chances[start + i];
      let saved = i++ * all;
      if (i === wordLength) word = all;
      if (!start && i > wordLength) saved += (wordLength - 1) * (word - all);
      const total = saved + all * best[start + i];
      if (total > best[start]) [best[start], length] = [total, acceptance * saved < MIN_SAVED_KEYS ? 0 : i];
    }
  }
  return length;
}

// A break at the end would not be seen.
export const visible = (text) => text.replace(/\n$/, "↵");

export function firstWord(text) {
  const [found] = /^\s*(?:[\p{L}\p{M}\p{N}_'’]+|(?:[^\s\p{L}\p{M}\p{N}_'’]\p{M}*)+)/u.exec(text) ?? [text];
  const space = found.length - found.trimStart().length;
  const word = found.slice(space); // scripts without spaces need a dictionary
  if (!/[\p{sc=Han}\p{sc=Hira}\p{sc=Kana}\p{sc=Thai}\p{sc=Laoo}\p{sc=Khmr}\p{sc=Mymr}]/u.test(word)) return found;
  const [first] = new Intl.Segmenter(undefined, { granularity: "word" }).segment(word);
  return found.slice(0, space) + first.segment;
}

export class Suggester {
  #acceptance = 0.5; // the fraction of right suggestions that the user accepts
  #acceptsWords = false;
  #calls;
  #cached = null; // {prompt, text, logprobs, typed, end}: text.slice(0, end) was suggested

  constructor(client, model, { until = "likely", max = 40, temperature = 0, expert, clientId, debounce, onError } = {}) {
    const complete = ([prompt, suffix], how) => {
      // Candidates are compared as whole lines, without log-probabilities.
      const between = /^.*\S/.test(suffix) && { suffix: suffix.slice(0, MAX_SUFFIX), until: "line", logprobs: undefined };
      return client.complete(model, prompt, { ...this.fields, ...between, ...how });
    };
    this.#calls = new DebouncedCalls(complete, { debounce, onError });
    this.fields = { max_characters: max, temperature, ...(until === "likely" ? { logprobs: 0 } : { until }), expert,
      client_id: clientId };
  }

  recall(prompt, suffix = "") {
    const cached = this.#cached;
    if (!cached || !prompt.startsWith(cached.prompt) || cached.suffix !== suffix) return null;
    const typed = prompt.slice(cached.prompt.length);
    if (!cached.text.startsWith(typed)) return null;
    const { length } = typed;
    const isAccepted = length > cached.typed + 1, isPart = length < cached.end;
    if (cached.typed < cached.end && (isAccepted || !isPart)) {
      this.#acceptance += 0.1 * ((isAccepted || 0.05) - this.#acceptance);
      this.#acceptsWords ||= isPart;
    }
    cached.typed = length;
    if (!isPart) cached.end = this.#endOf(cached, length);
    // An empty suggestion is for its prompt only.
    if (typed && cached.end <= length) return null;
    return cached.text.slice(length, cached.end);
  }

  async suggest(prompt, { suffix = "", signal } = {}) {
    this.#calls.abort();
    const cached = this.recall(prompt, suffix);
    if (cached !== null) return cached;
    const response = await this.#calls.call([prompt, suffix], signal);
    if (!response) return response;
    Object.assign(this, { model: response.model, tookMs: this.#calls.tookMs });
    const part = this.#keep(prompt, suffix, response);
    response.rest?.then((whole) => {
      if (this.#cached !== part) return;
      this.#keep(prompt, suffix, whole);
      this.onRest();
    }, () => {});
    return this.recall(prompt, suffix);
  }

  #keep(prompt, suffix, { completions: [{ text, logprobs }] }) {
    return (this.#cached = { prompt, suffix, text, logprobs: logprobs?.map((one) => one.logprob), typed: 0, end: 0 });
  }

  abort() {
    this.#calls.abort();
  }

  forget() {
    this.#cached = null;
  }

  #endOf({ prompt, suffix, text, logprobs }, start) {
    const typed = text.slice(0, start);
    let line = start + /^\s*[^\r\n]*/.exec(text.slice(start))[0].length;
    // With its break, where several lines end.
    if (text[line] === "\n" && !suffix && (prompt + typed).includes("\n", 1)) line++;
    if (!logprobs) return line;
    const skip = [...typed].length; // one log-probability per code point
    const characters = [...text.slice(start, line)];
    const word = this.#acceptsWords ? [...firstWord(characters.join(""))].length : 1;
    const length = likelyLength(logprobs.slice(skip, skip + characters.length), word, this.#acceptance);
    return start + characters.slice(0, length).join("").length;
  }
}

// One request at a time, after a pause that fits; backs off after errors.
export class DebouncedCalls {
  #inFlight = null;
  #latency = 20; // a moving average
  tookMs = null; // the last response
  #failures = 0;
  #pausedUntil = 0;

  constructor(request, { debounce, onError = () => {} }) {
    Object.assign(this, { request, debounce, onError });
  }

  abort() {
    this.#inFlight?.abort();
    this.#inFlight = null;
  }

  // Returns null if a newer call or `outer` aborted this one, "" after an error.
  async call(asked, outer) {
    this.abort();
    const began = performance.now();
    if (began < this.#pausedUntil) return "";
    const own = (this.#inFlight = new AbortController());
    const signal = outer ? AbortSignal.any([own.signal, outer]) : own.signal;
    try {
      const wait = this.debounce ?? Math.min(MAX_DEBOUNCE_MS, this.#latency);
      if (wait) await sleep(wait, signal);
      const start = performance.now();
      const response = await this.request(asked, { signal, retries: 0, timeout: TIMEOUT_MS });
      const now = performance.now();
      this.tookMs = now - began;
      this.#latency += 0.3 * (now - start - this.#latency);
      this.#failures = 0;
      return response;
    } catch (error) {
      if (signal.aborted) return null;
      const pause = Math.max(1000 * (error.retryAfter ?? 0), Math.min(MAX_BACKOFF_MS, 1000 * 2 ** this.#failures++));
      this.#pausedUntil = performance.now() + pause;
      this.onError(error, pause);
      return "";
    } finally {
      if (this.#inFlight === own) this.#inFlight = null;
    }
  }
}
