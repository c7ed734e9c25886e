/** A list of whole lines under a short field: an ARIA combobox. */

import { emit } from "./events.js";
import { FieldHelper, insertText, isEditable, isFocused } from "./field-helper.js";
import { create, style } from "./mirror.js";
import { DebouncedCompleter } from "./suggester.js";

const MAX_EXTRA_BITS = 8; // of surprisal, compared with the most likely line
let lists = 0;

export class List extends FieldHelper {
  #box;
  #values = [];
  #shown;
  #active = -1;

  constructor(field, client, options) {
    const id = `nextchar-list-${++lists}`;
    super(field, { role: "combobox", "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": id,
      autocomplete: "off" });
    this.options = options;
    this.completer = new DebouncedCompleter(client, options.model,
      { ...options, onError: (...what) => this.fail(...what) });
    // In the top layer: no ancestor clips it.
    this.#box = create("ul", { position: "fixed", inset: "auto", margin: 0, padding: "4px", listStyle: "none",
      boxSizing: "border-box", maxHeight: "16em", border: "1px solid color-mix(in srgb, currentColor 30%, transparent)",
      borderRadius: "6px", boxShadow: "0 4px 16px rgb(0 0 0 / 0.2)" },
      { role: "listbox", id, class: "nextchar-list", popover: "manual", "aria-label": options.label });
    this.on(this.#box, "pointerdown", (event) => event.preventDefault()); // the field keeps the focus
    this.on(this.#box, "click", ({ target }) => this.#choose([...this.#box.children].indexOf(target.closest("li"))));
    this.on(globalThis, "scroll", () => this.isOpen && this.#position(), { capture: true, passive: true });
    this.on(globalThis, "resize", () => this.isOpen && this.#position());
    field.after(this.#box);
  }

  get isOpen() {
    return this.#values.length > 0;
  }

  async update({ isRequested = false } = {}) {
    const { field, options } = this;
    const { value } = field;
    if (!isEditable(field) || field.selectionEnd !== value.length || !(value || isRequested)) return this.hide();
    this.#show(value ? this.#values.filter((one) => one !== value && one.startsWith(value)) : []);
    const { count, max, temperature, expert } = options;
    const search = temperature ? { n: 2 * count, temperature } : { n: count, beam: Math.max(8, count) };
    if (expert) search.expert = expert;
    const response = await this.completer.complete("\n" + value, { ...search, until: "line", max_characters: max });
    if (!response || field.value !== value || !isFocused(field)) return;
    const found = response.completions.filter(({ text }) => text.trim()).sort((a, b) => a.bits - b.bits);
    const likely = found.filter(({ bits }) => bits <= found[0].bits + MAX_EXTRA_BITS);
    this.#show([...new Set(likely.map(({ text }) => value + text))].slice(0, count));
  }

  hide() {
    this.completer?.abort();
    if (this.#box) this.#show([]);
  }

  end() {
    super.end();
    this.#box.remove();
  }

  // Returns whether the key was for the list.
  handleKey({ key, altKey, ctrlKey, metaKey, shiftKey }) {
    if (ctrlKey || metaKey || shiftKey) return false;
    if (!this.isOpen) {
      if (key === "ArrowDown") this.update({ isRequested: true });
      return key === "ArrowDown";
    }
    const count = this.#values.length;
    if (key === "ArrowDown" && !altKey) this.#activate((this.#active + 1) % count);
    else if (key === "ArrowUp" && !altKey) this.#activate((Math.max(this.#active, 0) + count - 1) % count);
    else if (key === "Escape" || key === "ArrowUp") this.hide();
    else if (key === "Enter" && this.#active >= 0) this.#choose(this.#active);
    else {
      if (key === "Tab" && this.#active >= 0) this.#choose(this.#active);
      return false;
    }
    return true;
  }

  #choose(index) {
    const { field } = this;
    const { value } = field;
    const text = this.#values[index];
    this.hide();
    if (!text?.startsWith(value) || field.selectionStart !== value.length) return;
    insertText(field, text.slice(value.length));
    this.hide();
    emit(field, "accept", { text, whole: true });
  }

  #show(values) {
    const { field } = this;
    const now = JSON.stringify([field.value, values]);
    if (now === this.#shown) return;
    this.#shown = now;
    this.#values = values;
    const options = values.map((value, i) => {
      const option = create("li", { padding: "0.25em 0.5em", borderRadius: "4px", cursor: "default",
        whiteSpace: "pre", overflow: "hidden", textOverflow: "ellipsis" },
        { role: "option", id: `${this.#box.id}-${i}`, dir: "auto" });
      const rest = create("b");
      rest.textContent = value.slice(field.value.length);
      option.append(value.slice(0, field.value.length), rest);
      return option;
    });
    this.#box.replaceChildren(...options);
    this.#activate(-1);
    field.setAttribute("aria-expanded", this.isOpen);
    if (this.#box.isConnected) this.#box.togglePopover(this.isOpen);
    this.announceLater(this.isOpen && this.options.announceCount(values.length));
    if (!this.isOpen) return;
    this.#position();
    emit(field, "suggestion", { text: values[0], values });
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
    const isAbove = innerHeight - frame.bottom < this.#box.offsetHeight && frame.top > innerHeight - frame.bottom;
    const background = styles.backgroundColor; // may be translucent
    style(this.#box, { left: `${frame.left}px`, width: `${frame.width}px`, font: styles.font, color: styles.color,
      direction: styles.direction, background: `linear-gradient(${background}, ${background}) Canvas`,
      ...(isAbove ? { top: "auto", bottom: `${innerHeight - frame.top + 2}px` }
        : { top: `${frame.bottom + 2}px`, bottom: "auto" }) });
  }
}
