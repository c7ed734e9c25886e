/** The HTTP client of a nextchar service. */

export class NextcharError extends Error {
  constructor(message, { code, status = 0, type = "connection_error", param = null, retryAfter = null, cause } = {}) {
    super(message, { cause });
    Object.assign(this, { name: "NextcharError", code, status, type, param, retryAfter });
  }
}

// The service this file is from, else this page's origin.
const DEFAULT_URL = /\/clients\/js\/[^/]*$/.test(import.meta.url)
  ? new URL("../../", import.meta.url).href
  : (globalThis.location?.origin ?? "http://127.0.0.1:8000");

export class Nextchar {
  constructor({ url = DEFAULT_URL, key = null, retries = 2, timeout = 30_000 } = {}) {
    Object.assign(this, { url: String(url).replace(/\/+$/, ""), key, retries, timeout, document: randomId() });
  }

  async models(options) {
    const models = [];
    for (let query = "", page; !page || page.has_more; query = `?after=${encodeURIComponent(models.at(-1)?.id)}`) {
      page = await this.#json(`models${query}`, options);
      models.push(...page.data);
    }
    return models;
  }

  complete(model, prompt, options) {
    return this.#json(call(model, "complete"), options, { prompt });
  }

  next(model, prompt, options) {
    return this.#json(call(model, "next"), options, { prompt });
  }

  suggest(model, prefix, options) {
    return this.#json(call(model, "suggest"), options, { prefix });
  }

  score(model, text, options) {
    return this.#json(call(model, "score"), options, Array.isArray(text) ? { lines: text } : { text });
  }

  async *stream(model, prompt, { signal, retries, ...fields } = {}) {
    const body = { prompt, ...fields, stream: true };
    const response = await this.#fetch(call(model, "complete"), body, { signal, retries });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    try {
      for (let text = ""; ; ) {
        const { value, done } = await reader.read().catch((cause) => {
          throw signal?.aborted ? signal.reason : connectionLost(cause);
        });
        if (done) throw connectionLost();
        const events = (text += value).split(/\r?\n\r?\n/);
        text = events.pop();
        for (const event of events) {
          const type = /^event: ?(.*)$/m.exec(event)?.[1];
          const data = /^data: ?(.*)$/m.exec(event)?.[1];
          if (!data) continue; // comment
          const body = JSON.parse(data);
          if (type === "error") throw errorFrom(body, 200);
          yield { type, ...body };
          if (type === "done") return;
        }
      }
    } finally {
      reader.cancel().catch(() => {}); // stops generating
    }
  }

  async #json(path, { signal, retries, timeout = this.timeout, ...fields } = {}, input) {
    const deadline = AbortSignal.timeout(timeout);
    try {
      const either = signal ? AbortSignal.any([signal, deadline]) : deadline;
      const end = Date.now() + timeout;
      const response = await this.#fetch(path, input && { ...input, ...fields }, { retries, signal: either, end });
      return await response.json();
    } catch (error) {
      signal?.throwIfAborted();
      if (deadline.aborted) throw new NextcharError(`no response within ${timeout} ms`, { code: "timeout", cause: error });
      throw error instanceof NextcharError ? error : connectionLost(error);
    }
  }

  async #fetch(path, body, { signal, retries = this.retries, end = Infinity }) {
    const headers = body ? { "Content-Type": "application/json", "X-Document": this.document } : {};
    if (this.key) headers.Authorization = `Bearer ${this.key}`;
    const request = { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal };
    for (let attempt = 0; ; attempt++) {
      const response = await fetch(`${this.url}/v1/${path}`, request).catch(async (cause) => {
        signal?.throwIfAborted();
        const error = await this.#diagnose(cause, signal);
        signal?.throwIfAborted();
        throw error;
      });
      if (response.ok) return response;
      const retryAfter = Number(response.headers.get("Retry-After")) || null;
      const error = errorFrom(await response.json().catch(() => null), response.status, retryAfter);
      const wait = 1000 * (retryAfter ?? 2 ** attempt / 2);
      if (response.status !== 429 || attempt >= retries || Date.now() + wait > end) throw error;
      await sleep(wait, signal);
    }
  }

  // If the service responds without CORS only, it is CORS.
  async #diagnose(cause, signal) {
    const { origin, href } = globalThis.location ?? {};
    const isCrossOrigin = origin && new URL(this.url, href).origin !== origin;
    const setting = `NEXTCHAR_ALLOWED_ORIGINS=${origin === "null" ? "*" : origin}`;
    const responds = (mode) => fetch(`${this.url}/healthz`, { mode, signal }).then(() => true, () => false);
    if (isCrossOrigin && !(await responds("cors")) && (await responds("no-cors"))) {
      const message = `the page's origin ${origin} may not call ${this.url}: start the service with ${setting}`;
      return new NextcharError(message, { code: "origin_not_allowed", cause });
    }
    const fix = isCrossOrigin ? `start the service, with ${setting} to allow this page` : "check that the service runs";
    return new NextcharError(`${this.url} does not respond: ${fix}`, { code: "unreachable", cause });
  }
}

export const randomId = () => crypto.getRandomValues(new Uint32Array(4)).join("-");
const call = (model, name) => `models/${encodeURIComponent(model)}/${name}`;

export function errorFrom(body, status, retryAfter = null) {
  const error = body?.error ?? { code: `http_${status}`, message: `HTTP status ${status}` };
  return new NextcharError(error.message, { ...error, status, retryAfter });
}

function connectionLost(cause) {
  return new NextcharError("the connection to the service was lost", { code: "unreachable", cause });
}

export function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => (clearTimeout(timer), reject(signal.reason));
    const timer = setTimeout(() => (signal?.removeEventListener("abort", stop), resolve()), ms);
    if (signal?.aborted) stop();
    signal?.addEventListener("abort", stop, { once: true });
  });
}
