/** Sends events of suggestions to the service, in batches; what it does not take is sent again. */

import { errorFrom, randomId } from "./client.js";

const SEND_AFTER_MS = 5000;
const RETRY_AFTER_MS = 30_000;
const MAX_BATCH = 100; // a browser lets a page that is left send 64 kB
const MAX_QUEUED = 1000; // while the service does not respond

export class EventQueue {
  #queue = [];
  #sending = null;
  #source = randomId();
  #count = 0;

  constructor(client, onError) {
    Object.assign(this, { client, onError });
  }

  add(event) {
    this.#queue.push({ id: `${this.#source}.${++this.#count}`, ...event });
    this.#queue.splice(0, this.#queue.length - MAX_QUEUED);
    this.#sending ??= setTimeout(() => this.send(), SEND_AFTER_MS);
  }

  async send() {
    clearTimeout(this.#sending);
    this.#sending = null;
    const events = this.#queue.splice(0, MAX_BATCH);
    if (!events.length) return;
    const { url, key } = this.client;
    const address = `${url}/v1/events`, body = JSON.stringify({ events });
    // Every browser sends a beacon of a page that is left, but without a key.
    if (globalThis.document?.hidden && !key && navigator.sendBeacon(address, body)) return;
    const headers = { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
    const response = await fetch(address, { method: "POST", headers, body, keepalive: true }).catch(() => null);
    if (!response || response.status === 429 || response.status >= 500) this.#queue.unshift(...events);
    else if (!response.ok) this.onError(errorFrom(await response.json().catch(() => null), response.status));
    if (this.#queue.length) this.#sending ??= setTimeout(() => this.send(), response?.ok ? 0 : RETRY_AFTER_MS);
  }
}
