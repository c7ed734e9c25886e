/**
 * Calls of the service. Every failure is an ApiError whose message a user can act on.
 *
 * A refused key is asked for once, however many calls find it missing, and kept for this tab only.
 */

const KEY = "nextchar.key";
const RETRY_MS = 1000;

/**
 * @typedef {{body?: any, signal?: AbortSignal, headers?: Record<string, string>}} CallOptions
 */

/** What the service refused, or that it was not reached (status 0). */
export class ApiError extends Error {
  /** @param {number} status @param {{code?: string, message?: string, param?: string | null}} detail */
  constructor(status, { code = "unknown", message = "", param = null }) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
  }
}

let askForKey = null;
let asking = null;

/** Let `ask(wasWrong)` return a promise of a key, or of null, when the service wants one. */
export function onKeyWanted(ask) {
  askForKey = ask;
}

/** The headers that carry this tab's key, if it has one. @returns {Record<string, string>} */
export function keyHeaders() {
  const key = apiKey();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** @returns {string | null} */
export function apiKey() {
  return sessionStorage.getItem(KEY);
}

/** Keep a key for this tab, or with null none. @param {string | null} key */
export function setApiKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

export const get = (path, options = {}) => call("GET", path, options);
export const post = (path, body, options = {}) => call("POST", path, { ...options, body });
export const patch = (path, body, options = {}) => call("PATCH", path, { ...options, body });
export const remove = (path, options = {}) => call("DELETE", path, options);

/** A path with its parts made safe: at('/v1/models', 'a@1', 'score'). @param {...string} parts */
export function at(base, ...parts) {
  return [base, ...parts.map(encodeURIComponent)].join("/").replaceAll("%40", "@");
}

/**
 * Return the whole list behind a path that answers with pages, at most `most` things.
 *
 * @param {string} path
 * @param {{signal?: AbortSignal, most?: number}} [options]
 * @returns {Promise<any[]>}
 */
export async function list(path, { signal, most = 2000 } = {}) {
  const found = [];
  for (let more = true; more && found.length < most;) {
    const after = found.length ? `&after=${encodeURIComponent(found.at(-1).id)}` : "";
    const page = await get(`${path}?limit=200${after}`, { signal });
    found.push(...page.data);
    more = page.has_more && page.data.length > 0;
  }
  return found;
}

/**
 * Return the parsed answer of a call. Raises ApiError; an abort by `signal` raises its AbortError.
 *
 * @param {string} method
 * @param {string} path
 * @param {CallOptions} [options]
 */
export async function call(method, path, { body, signal } = {}) {
  const answer = await raw(method, path, { body, signal });
  return answer.json();
}

/**
 * Return the Response of a call, whose status is good. Raises as `call`.
 *
 * @param {string} method
 * @param {string} path
 * @param {CallOptions} [options]
 */
export async function raw(method, path, { body, signal, headers = {} } = {}) {
  const send = () =>
    reach(path, {
      method,
      signal,
      headers: {
        ...(body === undefined ? {} : { "Content-Type": "application/json" }),
        ...keyHeaders(),
        ...headers,
      },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  let answer = await send();
  while (answer.status === 401 && (await newKey())) answer = await send();
  if (!answer.ok) throw await errorOf(answer);
  return answer;
}

/**
 * Yield {id, event, data} of a stream of server-sent events until its `done`; comes back after a break,
 * behind the last event it has seen. Raises as `call`, and for an `error` event.
 *
 * @param {string} path
 * @param {{signal: AbortSignal}} options
 */
export async function* follow(path, { signal }) {
  let last = null;
  while (!signal.aborted) {
    try {
      const headers = { Accept: "text/event-stream", ...(last === null ? {} : { "Last-Event-ID": last }) };
      const answer = await raw("GET", path, { signal, headers });
      for await (const event of events(answer)) {
        last = event.id ?? last;
        yield event;
        if (event.event === "done") return;
      }
    } catch (error) {
      if (signal.aborted || (error.status ?? 0) !== 0) throw error;
    }
    await pause(RETRY_MS, signal);
  }
}

/** Yield the events of one streamed answer. Raises ApiError for an event named `error`, or a break. */
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        throw error.name === "AbortError" ? error : unreachable();
      });
      if (done) return;
      const parts = (waiting + value).split("\n\n");
      waiting = parts.pop() ?? "";
      for (const part of parts) {
        const event = parse(part);
        if (event?.event === "error") throw new ApiError(500, event.data.error);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Return after `ms` milliseconds, or at once when `signal` is aborted. */
export function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        resolve(undefined);
      },
      { once: true },
    );
  });
}

/** What a refusal says, whatever refused: the service, or a proxy before it. @param {Response} answer */
export async function errorOf(answer) {
  const told = await answer.json().catch(() => null);
  return new ApiError(
    answer.status,
    told?.error ?? {
      code: "unreadable",
      message: `The answer has status ${answer.status} and is not the service's own; is a proxy in between?`,
    },
  );
}

export function unreachable() {
  window.dispatchEvent(new Event("nextchar:gone"));
  return new ApiError(0, { code: "unreachable", message: "The service does not answer. Is it running?" });
}

/** Ask for a key and keep it; false when none is given. Calls that come meanwhile wait for the same one. */
export async function newKey() {
  if (!askForKey) return false;
  asking ??= askForKey(apiKey() !== null).finally(() => {
    asking = null;
  });
  const key = await asking;
  if (key) sessionStorage.setItem(KEY, key);
  return Boolean(key);
}

async function reach(path, options) {
  try {
    const answer = await fetch(path, options);
    window.dispatchEvent(new Event("nextchar:back"));
    return answer;
  } catch (error) {
    throw error.name === "AbortError" ? error : unreachable();
  }
}

function parse(text) {
  const fields = {};
  for (const line of text.split("\n")) {
    const colon = line.indexOf(":");
    if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 1).replace(/^ /, "");
  }
  if (!fields.data) return null; // a comment that keeps the connection open
  return { id: fields.id ?? null, event: fields.event ?? "message", data: JSON.parse(fields.data) };
}
