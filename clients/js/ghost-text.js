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
  #shown = null; // {text, value, caret}: drawn for this value and caret
  #end = null; // the field's text with the last suggestion, which has
  #id = ""; // this name while the user types along
  #checking = null;

  constructor(field, client, options) {
    super(field, { "aria-autocomplete": "inline" });
    this.layer = new GhostLayer(field);
    this.options = options;
    this.suggester = new Suggester(client, options.model, { ...options, onError: (...what) => this.fail(...what) });
    this.suggester.onRest = () => this.update(true);
    this.on(document, "selectionchange", () => this.#shown && this.#isStale() && this.hide(), { capture: true });
    this.on(field, "scroll", () => this.#shown && this.layer.scroll());
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
    this.layer.mirror.box.remove(); // at once: so Chromium undoes what was typed before in a step of its own
    insertText(this.field, text);
    emit(this.field, "accept", detail);
  }

  #show(suggestion, isRest) {
    const text = this.#trim(suggestion);
    if (!text) return this.#clear();
    const { value, selectionEnd: caret } = this.field;
    if (!this.#shown) this.#checking = setInterval(() => this.#check(), CHECK_EVERY_MS);
    this.#shown = { text, value, caret };
    this.layer.draw(text);
    const end = value.slice(0, caret) + text;
    if (end !== this.#end) {
      this.announceLater(this.options.announce(text));
      if (!isRest) this.#id = `sug_${randomId()}.0`;
    }
    this.#end = end;
    const { model, tookMs } = this.suggester;
    emit(this.field, "suggestion", { text, id: this.#id, model, tookMs, typed: 0 });
  }

  // No event fires when the page changes the value, position or style.
  #check() {
    if (this.#isStale() || !isEditable(this.field)) this.hide();
    else this.layer.mirror.fit(), this.layer.draw(this.#shown.text);
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
    this.layer.clear();
    this.announceLater("");
  }
}

class GhostLayer {
  #top = 0; // of the text in the mirror, before scrolling
  #clearing; // a frame

  constructor(field) {
    Object.assign(this, { field, mirror: new Mirror(field), before: create("span", { visibility: "hidden" }),
      wbr: create("wbr"), after: create("span", { color: COLOR }) });
    for (const part of [this.before, this.after]) part.append("");
  }

  draw(text) {
    const { field, mirror, before, wbr, after } = this, isEnd = isAtEnd(field);
    const { value, selectionEnd: caret, localName, scrollHeight, scrollLeft, scrollTop } = field;
    // A long text is laid out from the caret's line on.
    const isLong = localName === "textarea" && scrollHeight > field.clientHeight + 1;
    cancelAnimationFrame(this.#clearing);
    if (mirror.box.isConnected) mirror.place();
    else mirror.fit();
    if (!isEnd || !wbr.parentNode) mirror.text.replaceChildren(before, after);
    before.firstChild.data = value.slice(isLong ? value.lastIndexOf("\n", caret - 1) + 1 : 0, caret);
    after.firstChild.data = value.slice(caret) + "\u200b"; // gives an empty last line its height
    const padding = parseFloat(mirror.box.style.paddingTop) + parseFloat(mirror.box.style.paddingBottom);
    this.#top = isLong ? scrollHeight - padding - mirror.text.offsetHeight : 0;
    style(after, { visibility: isEnd ? "" : "hidden" });
    if (isEnd) {
      // The line may break before the suggestion; no word moves.
      if (!wbr.parentNode) before.after(wbr);
      after.firstChild.data = visible(text);
    } else {
      // It must move nothing, so it covers the text after the caret.
      const anchor = create("span", { position: "relative" }), ghost = create("span", { color: COLOR, position: "absolute",
        top: 0, whiteSpace: "pre", insetInlineStart: 0 });
      ghost.textContent = visible(text);
      if (/^./.test(value.slice(caret))) ghost.style.backgroundColor = getComputedStyle(field).backgroundColor;
      anchor.append("\u200b", ghost);
      before.after(anchor);
    }
    mirror.scroll(this.#top, { scrollLeft, scrollTop });
  }

  scroll() {
    this.mirror.scroll(this.#top);
  }

  // With the next frame, unless it is drawn for that again; and a framework that removes the field may visit the layer next.
  clear() {
    this.#clearing = requestAnimationFrame(() => this.mirror.box.remove());
  }
}
