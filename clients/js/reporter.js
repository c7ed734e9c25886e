/** Reports to the service what becomes of a field's suggestions: ids and lengths, in batches. */

import { EventQueue } from "./event-queue.js";
import { emitError } from "./events.js";

const KEPT_AFTER_MS = 60_000;
const MAX_TEXT = 1000;

export class Reporter {
  #shown = null; // {id, model, typed, tookMs, value, accepted}: what is not reported yet
  #lastId = null;
  #keeping = new Map(); // from the timer of an accepted text to a function that reports it if it is still there
  #listening = new AbortController();

  constructor(field, options) {
    Object.assign(this, { field, options, queue: new EventQueue(options.client, (error) => emitError(field, error)) });
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
    const { value, selectionEnd } = this.field;
    const before = value.slice(0, selectionEnd).replace(/\n$/, ""); // what was accepted may end with a line break
    const text = before.slice(before.lastIndexOf("\n") + 1).slice(0, MAX_TEXT); // the line
    if (!shown.accepted) return (type === "dismissed" || value !== shown.value) && this.#add(type, shown, { text: isLeft ? text : null });
    const characters = Math.max(0, [...shown.accepted].length - shown.typed); // inserted
    this.#add("accepted", shown, { characters, text });
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
    this.queue.send();
  }

  #add(type, { id, model, typed }, { text = null, ...fields } = {}) {
    const { report, clientId } = this.options;
    this.queue.add({ type, suggestion_id: id, model, typed, ...fields, client: "nextchar-js", client_id: clientId,
      text: report === "text" ? text : null });
  }
}
