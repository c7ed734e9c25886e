/** Ghost text: a suggestion drawn after the caret. */

import { randomId } from "./client.js";
import { emit } from "./events.js";
import { FieldHelper, forwardBy, insertText, isEditable, isFocused } from "./field-helper.js";
import { Mirror, create, style } from "./mirror.js";
import { Suggester, firstWord, promptOf, visible } from "./suggester.js";

const CHECK_EVERY_MS = 250;
const COLOR = "var(--nextchar-color, color-mix(in srgb, currentColor 62%, transparent))";

const isAtEnd = (field) => field.selectionEnd === field.value.length;

export class GhostText extends FieldHelper {
  #shown = null; // {text, value, caret}: drawn for these
  #end = null; // the field's text with the last suggestion, which has
  #id = ""; // this name while the user types along
  #checking = null;

  constructor(field, client, options) {
    super(field, { "aria-autocomplete": "inline" });
    Object.assign(this, { options, mirror: new Mirror(field), before: create("span", { visibility: "hidden" }), wbr: create("wbr"),
      after: create("span", { color: COLOR }) });
    this.before.append("");
    this.after.append("");
    this.suggester = new Suggester(client, options.model, { ...options, onError: (...what) => this.fail(...what) });
    this.suggester.onRest = () => this.update(true);
    this.on(document, "selectionchange", () => this.#shown && this.#isStale() && this.hide(), { capture: true });
    this.on(field, "scroll", () => this.#shown && this.mirror.scroll());
  }

  async update(isRest) {
    const before = this.#textBefore();
    if (before === null) return this.hide();
    const prompt = promptOf(before), suffix = this.field.value.slice(before.length);
    const cached = this.suggester.recall(prompt, suffix);
    if (cached) this.#show(cached, isRest); // at once: it does not flicker
    else this.#clear();
    const text = await this.suggester.suggest(prompt, { suffix });
    if (text && text !== cached && this.#textBefore() === before) this.#show(text);
  }

  hide() {
    this.suggester?.abort();
    this.#clear();
  }

  // Returns whether the key was for the suggestion.
  handleKey(event) {
    const { key, ctrlKey, altKey, shiftKey, metaKey } = event;
    if (!this.#shown || this.#isStale() || shiftKey || metaKey) return false;
    const forward = forwardBy(this.field, event);
    const { text } = this.#shown;
    if (forward === "word") this.#accept(firstWord(text));
    else if (ctrlKey || altKey) return false;
    else if (key === "Tab" || (forward && isAtEnd(this.field))) this.#accept(text);
    else if (key === "Escape") {
      this.suggester.forget(); // or the next key would bring it back
      this.hide();
      emit(this.field, "dismiss", { id: this.#id });
    } else return false;
    return true;
  }

  // The text before the caret; null where nothing may be suggested.
  #textBefore() {
    const { value, selectionStart, selectionEnd, maxLength } = this.field;
    const isOutside = maxLength >= 0 && value.length >= maxLength || value.length < this.options.min;
    if (selectionStart !== selectionEnd || isOutside || !isEditable(this.field) || !isFocused(this.field)) return null;
    const isAllowed = this.options.midline || !/^./.test(value.slice(selectionEnd));
    return isAllowed ? value.slice(0, selectionEnd) : null;
  }

  #trim(text) {
    const { localName, maxLength, value } = this.field;
    if (localName === "input" || !isAtEnd(this.field)) [text] = text.split(/[\r\n]/, 1);
    return maxLength >= 0 ? text.slice(0, maxLength - value.length).replace(/[\ud800-\udbff]$/, "") : text;
  }

  #accept(text) {
    const detail = { text, whole: text === this.#shown.text, id: this.#id };
    this.#clear();
    this.mirror.box.remove(); // an undo step ends
    insertText(this.field, text);
    emit(this.field, "accept", detail);
  }

  #show(suggestion, isRest) {
    const text = this.#trim(suggestion);
    if (!text) return this.#clear();
    const { value, selectionEnd: caret } = this.field;
    if (!this.#shown) this.#checking = setInterval(() => this.#check(), CHECK_EVERY_MS);
    this.#shown = { text, value, caret };
    this.#draw(text);
    const end = value.slice(0, caret) + text;
    if (end !== this.#end) {
      this.announceLater(this.options.announce(text));
      if (!isRest) this.#id = `sug_${randomId()}.0`;
    }
    this.#end = end;
    const { model, tookMs } = this.suggester;
    emit(this.field, "suggestion", { text, id: this.#id, model, tookMs, typed: 0 });
  }

  // The page may change the value, position or style.
  #check() {
    if (this.#isStale() || !isEditable(this.field)) this.hide();
    else this.mirror.fit(), this.#draw(this.#shown.text);
  }

  #isStale() {
    const { selectionStart, selectionEnd, value } = this.field;
    const { caret, value: shownFor } = this.#shown;
    return selectionStart !== caret || selectionEnd !== caret || value !== shownFor;
  }

  #clear() {
    if (!this.#shown) return;
    this.#shown = null;
    clearInterval(this.#checking);
    // Later: a framework that removes the field may visit it next.
    this.clearing = requestAnimationFrame(() => this.mirror.box.remove());
    this.announceLater("");
  }

  #draw(text) {
    const { field, mirror, before, wbr, after } = this, isEnd = isAtEnd(field);
    const { value, selectionEnd: caret, localName, clientHeight, scrollHeight } = field;
    // A long text is drawn from the caret's line on.
    const isLong = localName === "textarea" && scrollHeight > clientHeight + 1;
    cancelAnimationFrame(this.clearing);
    mirror.box.isConnected ? mirror.place() : mirror.fit();
    if (!isEnd || mirror.text.childElementCount !== 3) mirror.text.replaceChildren(before, wbr, after);
    before.firstChild.data = value.slice(isLong ? value.lastIndexOf("\n", caret - 1) + 1 : 0, caret);
    after.firstChild.data = value.slice(caret) + "\u200b"; // gives an empty last line its height
    const padding = parseFloat(mirror.box.style.paddingTop) + parseFloat(mirror.box.style.paddingBottom);
    style(mirror.text, { top: isLong ? `${scrollHeight - padding - mirror.text.offsetHeight}px` : 0 });
    style(after, { visibility: isEnd ? "" : "hidden" });
    let ghost = after; // after a possible break
    if (!isEnd) { // it moves nothing, so it covers the text after the caret
      const anchor = create("span", { position: "relative" });
      ghost = create("span", { color: COLOR, position: "absolute", top: 0, whiteSpace: "pre", insetInlineStart: 0 });
      if (/^./.test(value.slice(caret))) ghost.style.backgroundColor = getComputedStyle(field).backgroundColor;
      ghost.append("");
      anchor.append("\u200b", ghost);
      before.after(anchor);
    }
    ghost.firstChild.data = visible(text);
  }
}
