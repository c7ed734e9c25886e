/** What ghost text and the list share: a field's events, its attributes, screen readers, and retries. */

import { emitError } from "./events.js";
import { create } from "./mirror.js";

const ANNOUNCE_AFTER_MS = 700;
const { language, platform, userAgent } = globalThis.navigator ?? {};
const IS_MAC = /Mac|iP(?:hone|ad)/.test(platform);
// Keyboards of Android compose every word, also where there is nothing to choose.
const ALWAYS_COMPOSES = /Android/.test(userAgent) && !/^(?:zh|ja|ko)/.test(language);
const FIELDS = "textarea, input:not([type]), input:is([type=text], [type=search], [type=url], [type=tel])";
let liveRegion;

export const isSupported = (field) => field.matches(FIELDS);
export const isFocused = (field) => field.getRootNode().activeElement === field;
export const isEditable = (field) => !field.readOnly && isSupported(field) && !field.matches(":disabled");

// Whether a key moves by a "word" or a "character" in the direction of the text.
export function forwardBy(field, { key, ctrlKey, altKey }) {
  if (key !== (getComputedStyle(field).direction === "rtl" ? "ArrowLeft" : "ArrowRight")) return null;
  if (ctrlKey === altKey) return ctrlKey ? null : "character";
  return altKey === IS_MAC ? "word" : null;
}

function announce(field, text) {
  liveRegion ??= create("div", { position: "absolute", width: "1px", height: "1px", overflow: "hidden", margin: "-1px",
    clipPath: "inset(50%)", whiteSpace: "nowrap" }, { role: "status", "aria-live": "polite" });
  const parent = field.closest("dialog") ?? document.body; // outside of an open dialog nothing is read
  if (liveRegion.parentNode !== parent) parent.append(liveRegion);
  liveRegion.textContent = text;
}

// Fires the input event, and Ctrl + Z undoes it.
export function insertText(field, text) {
  // Deprecated, and the only way into the undo history.
  if (document.execCommand("insertText", false, text)) return;
  field.setRangeText(text, field.selectionStart, field.selectionEnd, "end");
  field.dispatchEvent(new InputEvent("input", { bubbles: true, inputType: "insertText", data: text }));
}

export class FieldHelper {
  #listening = new AbortController();
  #isComposing = false;
  #retry = null;
  #announcement = null;
  #attributesBefore;

  constructor(field, attributes) {
    this.field = field;
    this.#attributesBefore = Object.keys(attributes).map((name) => [name, field.getAttribute(name)]);
    for (const [name, value] of Object.entries(attributes)) field.setAttribute(name, value);
    this.on(field, "input", () => this.#isComposing || this.update());
    this.on(field, "compositionstart", () => (this.#isComposing = !ALWAYS_COMPOSES) && this.hide());
    this.on(field, "compositionend", () => ((this.#isComposing = false), this.update()));
    this.on(field, "blur", () => this.hide());
    this.on(field, "keydown", (event) => {
      if (event.isComposing || event.defaultPrevented || !this.handleKey(event)) return;
      event.preventDefault();
      event.stopPropagation();
    });
    this.on(document, "reset", ({ target }) => target.contains(field) && this.hide());
  }

  on(target, name, listener, options = {}) {
    target.addEventListener(name, listener, { ...options, signal: this.#listening.signal });
  }

  fail(error, pause) {
    this.hide();
    emitError(this.field, error, pause);
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => isFocused(this.field) && !this.#isComposing && this.update(), pause + 10);
  }

  announceLater(text) {
    clearTimeout(this.#announcement);
    if (text) this.#announcement = setTimeout(() => announce(this.field, text), ANNOUNCE_AFTER_MS);
    else if (liveRegion?.textContent) liveRegion.textContent = "";
  }

  end() {
    this.hide();
    this.#listening.abort();
    clearTimeout(this.#retry);
    for (const [name, value] of this.#attributesBefore) {
      value === null ? this.field.removeAttribute(name) : this.field.setAttribute(name, value);
    }
  }
}
