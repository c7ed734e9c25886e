/**
 * Calls of the service. Every failure is an ApiError whose message a user can act on.
 *
 * The window gets `nextchar:unreachable` when a call does not reach the service, `nextchar:reachable` when one does.
 */

import { keyHeaders, requestKey } from "./api-key.js";

/** A random id of this tab: the service shares nothing that it caches between ids. `crypto.randomUUID` needs TLS. */
const TAB = crypto.getRandomValues(new Uint32Array(4)).join("-");

/**
 * @typedef {{body?: any, signal?: AbortSignal, headers?: Record<string, string>}} CallOptions
 */

/** An error response of the service, or a connection that failed (status 0). */
export class ApiError extends Error {
  /** @param {number} status @param {{code?: string, message?: string, param?: string | null}} detail */
  constructor(status, { code = "unknown", message = "", param = null }) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
  }
}

export const get = (path, options = {}) => requestJson("GET", path, options);
export const post = (path, body, options = {}) => requestJson("POST", path, { ...options, body });
export const put = (path, body, options = {}) => requestJson("PUT", path, { ...options, body });
export const patch = (path, body, options = {}) => requestJson("PATCH", path, { ...options, body });
export const remove = (path, options = {}) => requestJson("DELETE", path, options);

/**
 * Return a path with its segments escaped.
 *
 * @example apiPath('/v1/models', 'a@1', 'score') // '/v1/models/a@1/score'
 * @param {string} base
 * @param {...string} segments
 */
export function apiPath(base, ...segments) {
  return [base, ...segments.map(encodeURIComponent)].join("/").replaceAll("%40", "@");
}

/**
 * Return all items of a paginated list, up to `maxItems`.
 *
 * @param {string} path
 * @param {{signal?: AbortSignal, maxItems?: number}} [options]
 * @returns {Promise<any[]>}
 */
export async function listAll(path, { signal, maxItems = 2000 } = {}) {
  const items = [];
  for (let hasMore = true; hasMore && items.length < maxItems;) {
    const after = items.length ? `&after=${encodeURIComponent(items.at(-1).id)}` : "";
    const page = await get(`${path}${path.includes("?") ? "&" : "?"}limit=200${after}`, { signal });
    items.push(...page.data);
    hasMore = page.has_more && page.data.length > 0;
  }
  return items;
}

/**
 * Return the Response of a call if its status is below 400. Raises ApiError; an abort by `signal` raises AbortError.
 * A body is sent as JSON; bytes are sent as they are, with the content type of `headers`.
 *
 * @param {string} method
 * @param {string} path
 * @param {CallOptions} [options]
 */
export async function request(method, path, { body, signal, headers = {} } = {}) {
  const isBinary = body instanceof Uint8Array;
  const send = () =>
    fetchOrFail(path, {
      method,
      signal,
      headers: {
        ...(body === undefined || isBinary ? {} : { "Content-Type": "application/json", "X-Document": TAB }),
        ...keyHeaders(),
        ...headers,
      },
      body: body === undefined || isBinary ? body : JSON.stringify(body),
    });
  let response = await send();
  while (response.status === 401 && (await requestKey())) response = await send();
  if (!response.ok) throw await errorOfResponse(response);
  return response;
}

async function requestJson(method, path, options) {
  return (await request(method, path, options)).json();
}

async function fetchOrFail(path, options) {
  try {
    const response = await fetch(path, options);
    window.dispatchEvent(new Event("nextchar:reachable"));
    return response;
  } catch (error) {
    throw isAbort(error) ? error : connectionError();
  }
}

/** Return the ApiError of an error response, which may come from the service or from a proxy in front of it. */
async function errorOfResponse(response) {
  const body = await response.json().catch(() => null);
  return new ApiError(
    response.status,
    body?.error ?? {
      code: "unreadable",
      message:
        `The response (status ${response.status}) is not from nextchar. ` +
        "Check whether a proxy in front of the service responded instead.",
    },
  );
}

/** Return the ApiError of a service that does not respond, and notify the window. */
export function connectionError() {
  window.dispatchEvent(new Event("nextchar:unreachable"));
  return new ApiError(0, { code: "unreachable", message: "The service does not respond." });
}

/** Whether an error only says that a call was aborted on purpose. @param {any} error */
export function isAbort(error) {
  return error?.name === "AbortError";
}

/** Call `action` every `ms` milliseconds while the page is shown, until `signal` is aborted. */
export function repeat(action, ms, signal) {
  const timer = setInterval(() => document.hidden || action(), ms);
  signal.addEventListener("abort", () => clearInterval(timer));
}

/** Return after `ms` milliseconds, or at once when `signal` is aborted. */
export function delay(ms, signal) {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
      resolve(undefined);
    };
    const timer = setTimeout(end, signal?.aborted ? 0 : ms);
    signal?.addEventListener("abort", end, { once: true });
  });
}
