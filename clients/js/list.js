/** A list of suggestions under a short field: an ARIA combobox. */

import { emit } from "./events.js";
import { FieldHelper, forwardBy, insertText, isEditable, isFocused } from "./field-helper.js";
import { create, style } from "./mirror.js";
import { DebouncedCalls, firstWord } from "./suggester.js";

const FOLDED = new Intl.Collator(undefined, { usage: "search", sensitivity: "base" });
const MIN_RATIO = 1 / 256; // of what is generated to the best
let lists = 0;

export class List extends FieldHelper {
  #box;
  #suggestions = [];
  #response = {};
  #shown;
  #value; // of the field, for which they are shown
  #active = -1;

  constructor(field, client, options) {
    const id = `nextchar-list-${++lists}`;
    super(field, { role: "combobox", "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": id,
      autocomplete: "off", autocorrect: "off" });
    this.options = options;
    const { model, count: limit, constrain, typos, context, exclude, clientId: client_id } = options;
    const suggest = (prefix, how) => client.suggest(model, prefix, { limit, constrain, typos, context, exclude, client_id, ...how });
    this.calls = new DebouncedCalls(suggest, { ...options, onError: (...what) => this.fail(...what) });
    // In the top layer: no ancestor clips it.
    this.#box = create("ul", { position: "fixed", inset: "auto", margin: 0, padding: "4px", listStyle: "none",
      boxSizing: "border-box", border: "1px solid color-mix(in srgb, currentColor 30%, transparent)",
      borderRadius: "6px", boxShadow: "0 4px 16px rgb(0 0 0 / 0.2)" },
      { role: "listbox", id, class: "nextchar-list", popover: "manual", "aria-label": options.label });
    this.on(this.#box, "pointerdown", (event) => event.preventDefault()); // the field keeps the focus
    this.on(this.#box, "click", ({ target }) => this.#accept([...this.#box.children].indexOf(target.closest("li"))));
    const position = () => this.isOpen && this.#position();
    this.on(globalThis, "scroll", position, { capture: true, passive: true });
    for (const view of [globalThis, visualViewport]) this.on(view, "resize", position); // or an on-screen keyboard opens
    field.after(this.#box);
  }

  get isOpen() {
    return this.#suggestions.length > 0;
  }

  async update({ isRequested = false } = {}) {
    const { field, options } = this;
    const { value } = field;
    const isLong = isRequested || [...value].length >= options.min;
    if (!isEditable(field) || field.selectionEnd !== value.length || !isLong) return this.hide();
    this.#show(value ? this.#suggestions.filter(({ text }) => text.startsWith(value)) : []);
    const response = await this.calls.call(value.normalize());
    if (!response || field.value !== value || !isFocused(field)) return;
    this.#response = response;
    const [best] = response.suggestions;
    const isLikely = ({ exists, probability }) => exists || probability > MIN_RATIO * best.probability;
    this.#show(response.suggestions.filter(isLikely));
    if (!best) emit(field, "nothing", { value });
  }

  hide() {
    this.calls?.abort();
    if (this.#box) this.#show([]);
  }

  end() {
    super.end();
    this.#box.remove();
  }

  // Returns whether the key was for the list.
  handleKey(event) {
    const { key, altKey, ctrlKey, metaKey, shiftKey } = event;
    if (metaKey || shiftKey) return false;
    if (this.isOpen && forwardBy(this.field, event) === "word") return this.#accept(Math.max(this.#active, 0), true);
    if (ctrlKey) return false;
    if (!this.isOpen) {
      if (key === "ArrowDown") this.update({ isRequested: true });
      return key === "ArrowDown";
    }
    const count = this.#suggestions.length;
    if (key === "ArrowDown" && !altKey) this.#activate((this.#active + 1) % count);
    else if (key === "ArrowUp" && !altKey) this.#activate((Math.max(this.#active, 0) + count - 1) % count);
    else if (key === "Escape" || key === "ArrowUp") {
      emit(this.field, "dismiss", { id: this.#suggestions[0].id });
      this.hide();
    } else if (key === "Enter" && this.#active >= 0) this.#accept(this.#active);
    else {
      if (key === "Tab" && this.#active >= 0) this.#accept(this.#active);
      return false;
    }
    return true;
  }

  // Returns whether the list still fits the field.
  #accept(index, isByWord = false) {
    const { field } = this;
    const { value } = field;
    const suggestion = this.#suggestions[index];
    const isCurrent = value === this.#value && field.selectionStart === value.length;
    if (!suggestion || !isCurrent) return this.hide() ?? false;
    const { id, text } = suggestion;
    const rest = partsOf(value.normalize(), suggestion).at(-1)[1];
    const accepted = isByWord ? text.slice(0, text.length - rest.length) + firstWord(rest) : text;
    const isWhole = accepted === text;
    if (isWhole) this.hide();
    if (accepted.startsWith(value)) insertText(field, accepted.slice(value.length));
    else {
      field.select();
      insertText(field, accepted);
    }
    if (isWhole) this.hide();
    emit(field, "accept", { text: accepted, whole: isWhole, id });
    return true;
  }

  #show(suggestions) {
    const { field } = this;
    const { value, maxLength } = field;
    const fits = ({ text }) => text !== value && !/[\r\n]/.test(text) && (maxLength < 0 || text.length <= maxLength);
    const fitting = suggestions.filter(fits);
    const now = JSON.stringify([value, fitting]);
    if (now === this.#shown) return;
    this.#shown = now;
    this.#value = value;
    this.#suggestions = fitting;
    this.#box.replaceChildren(...fitting.map((one, i) => this.#option(one, i)));
    this.#activate(-1);
    field.setAttribute("aria-expanded", this.isOpen);
    if (this.#box.isConnected) this.#box.togglePopover(this.isOpen);
    this.announceLater(this.isOpen && this.options.announceCount(fitting.length));
    if (!this.isOpen) return;
    this.#position();
    const { model } = this.#response;
    const [{ id, text }] = fitting;
    emit(field, "suggestion", { text, values: fitting.map((one) => one.text), suggestions: fitting, id, model,
      tookMs: this.calls.tookMs, typed: [...value].length });
  }

  #option(suggestion, i) {
    const option = create("li", { padding: "0.25em 0.5em", borderRadius: "4px", cursor: "default", display: "flex",
      flexWrap: "wrap", gap: "0 1em" }, { role: "option", id: `${this.#box.id}-${i}` });
    const line = create("span", { whiteSpace: "pre-wrap", overflowWrap: "anywhere" }, { dir: "auto" }); // whole: ends tell them apart
    for (const [name, part] of partsOf(this.field.value.normalize(), suggestion)) if (part) line.append(textIn(create(name), part));
    const note = (this.options.describe ?? reason)(suggestion, this.#response.suggestions);
    option.append(line, ...(note ? [" ", textIn(create("small", { opacity: 0.8, marginInlineStart: "auto" }), note)] : []));
    return option;
  }

  #activate(index) {
    this.#active = index;
    [...this.#box.children].forEach((option, i) => {
      option.setAttribute("aria-selected", i === index);
      style(option, { background: i === index ? "color-mix(in srgb, currentColor 14%, transparent)" : "none" });
    });
    if (index < 0) return this.field.removeAttribute("aria-activedescendant");
    this.field.setAttribute("aria-activedescendant", this.#box.children[index].id);
    this.#box.children[index].scrollIntoView({ block: "nearest" });
  }

  #position() {
    const frame = this.field.getBoundingClientRect();
    const styles = getComputedStyle(this.field);
    const below = visualViewport.offsetTop + visualViewport.height - frame.bottom;
    const above = frame.top - visualViewport.offsetTop;
    style(this.#box, { maxHeight: "20em" });
    const isAbove = below < this.#box.offsetHeight && above > below;
    const background = styles.backgroundColor; // may be translucent
    style(this.#box, { left: `${frame.left}px`, width: `${frame.width}px`, font: styles.font, color: styles.color,
      direction: styles.direction, background: `linear-gradient(${background}, ${background}) Canvas`,
      maxHeight: `min(20em, ${Math.max(above, below) - 8}px)`,
      ...(isAbove ? { top: "auto", bottom: `${innerHeight - frame.top + 2}px` }
        : { top: `${frame.bottom + 2}px`, bottom: "auto" }) });
  }
}

const textIn = (element, text) => Object.assign(element, { textContent: text });

// Why a suggestion is in the list.
function reason({ count, exists, replaced }, all) {
  const isNew = !exists && all.some((one) => one.exists);
  return [replaced && "corrected", isNew && "new", count > 1 && `${count.toLocaleString()}×`].filter(Boolean).join(", ");
}

// The parts of a suggestion with what they are: typed, or the corrected and the new text, which are marked.
function partsOf(prefix, { text, replaced }) {
  const typed = [...prefix.trim()], all = [...text]; // the service counts code points
  const { start, end } = replaced ?? { start: typed.length, end: typed.length };
  const at = find(typed.slice(0, start), all);
  const from = at + start;
  const to = end < typed.length ? find(typed.slice(end), all, from) : from + end - start;
  const until = to + typed.length - end;
  const cuts = at < 0 || to < 0 ? [0, 0, 0, 0] : [at, from, to, until];
  const names = ["b", "span", "u", "span", "b"];
  return names.map((name, i) => [name, all.slice(cuts[i - 1] ?? 0, cuts[i]).join("")]);
}

// Where some characters are, whatever their case and accents; without `from` at the beginning of a word. -1: nowhere.
function find(some, all, from) {
  for (let i = from ?? 0; i + some.length <= all.length; i++) {
    const isStart = from !== undefined || !i || !/[\p{L}\p{M}\p{N}]/u.test(all[i - 1]);
    if (isStart && !FOLDED.compare(all.slice(i, i + some.length).join(""), some.join(""))) return i;
  }
  return -1;
}
