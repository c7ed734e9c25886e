/** Reports to the service what becomes of a field's suggestions: ids and lengths, in batches. */

import { errorFrom, randomId } from "./client.js";
import { emitError } from "./events.js";

const SEND_AFTER_MS = 5000;
const RETRY_AFTER_MS = 30_000;
const KEPT_AFTER_MS = 60_000;
const MAX_BATCH = 100; // a browser lets a page that is left send 64 kB
const MAX_QUEUED = 1000; // while the service does not respond

export class Reporter {
  #shown = null; // {id, model, typed, tookMs, value, accepted}: what is not reported yet
  #lastId = null;
  #queue = [];
  #sending = null;
  #keeping = new Map(); // from the timer of an accepted text to a function that reports it if it is still there
  #listening = new AbortController();
  #page = randomId();
  #count = 0;

  constructor(field, options) {
    Object.assign(this, { field, options });
    const on = (target, name, listener) => target.addEventListener(name, listener, { signal: this.#listening.signal });
    // After the event that inserts a suggestion, which the next one may follow at once.
    on(field, "nextchar:suggestion", ({ detail }) => queueMicrotask(() => this.#show(detail)));
    on(field, "nextchar:accept", ({ detail }) => this.#accept(detail));
    on(field, "nextchar:dismiss", () => this.#finish("dismissed"));
    on(field, "blur", () => this.#finish("typed", true));
    on(document, "submit", ({ target }) => target === field.form && [...this.#keeping.values()].forEach((check) => check()));
    on(document, "visibilitychange", () => document.hidden && this.#leave());
    on(globalThis, "pagehide", () => this.#leave());
  }

  end() {
    this.#listening.abort();
    this.#leave();
    [...this.#keeping.keys()].forEach(clearTimeout);
  }

  #show({ id, model, typed, tookMs }) {
    if (id === this.#lastId) return; // drawn again
    this.#finish("typed");
    this.#lastId = id;
    this.#shown = { id, model, typed, tookMs, value: this.field.value, accepted: "" };
  }

  #accept({ id, text, whole }) {
    if (!this.#shown) return;
    this.#shown.id = id; // of a list, the one that was chosen: the list counts as one suggestion
    this.#shown.accepted += text;
    if (whole || this.options.mode === "list") this.#finish();
  }

  #finish(type, isLeft = false) {
    const shown = this.#shown;
    if (!shown) return;
    this.#shown = null;
    this.#add("shown", shown, { latency_ms: shown.tookMs });
    const { value } = this.field;
    if (!shown.accepted) return (type === "dismissed" || value !== shown.value) && this.#add(type, shown, { text: isLeft ? value : null });
    const characters = Math.max(0, [...shown.accepted].length - shown.typed); // inserted
    this.#add("accepted", shown, { characters, text: shown.accepted });
    const check = () => {
      clearTimeout(timer);
      this.#keeping.delete(timer);
      if (this.field.isConnected && this.field.value.includes(shown.accepted)) this.#add("kept", shown);
    };
    const timer = setTimeout(check, KEPT_AFTER_MS);
    this.#keeping.set(timer, check);
  }

  #leave() {
    this.#finish("typed", true);
    this.#send();
  }

  #add(type, { id, model, typed }, { text = null, ...fields } = {}) {
    const { report, clientId } = this.options;
    this.#queue.push({ id: `${this.#page}.${++this.#count}`, type, suggestion_id: id, model, typed, ...fields,
      client: "nextchar-js", client_id: clientId, text: report === "text" ? text : null });
    this.#queue.splice(0, this.#queue.length - MAX_QUEUED);
    this.#sending ??= setTimeout(() => this.#send(), SEND_AFTER_MS);
  }

  async #send() {
    clearTimeout(this.#sending);
    this.#sending = null;
    const events = this.#queue.splice(0, MAX_BATCH);
    if (!events.length) return;
    const { url, key } = this.options.client;
    const address = `${url}/v1/events`, body = JSON.stringify({ events });
    // Every browser sends a beacon of a page that is left, but without a key.
    if (document.hidden && !key && navigator.sendBeacon(address, body)) return;
    const headers = { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
    const response = await fetch(address, { method: "POST", headers, body, keepalive: true }).catch(() => null);
    if (!response || response.status === 429 || response.status >= 500) this.#queue.unshift(...events);
    else if (!response.ok) emitError(this.field, errorFrom(await response.json().catch(() => null), response.status));
    if (this.#queue.length) this.#sending ??= setTimeout(() => this.#send(), response?.ok ? 0 : RETRY_AFTER_MS);
  }
}
