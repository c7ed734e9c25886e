// A client, ghost text and lists for forms, and a highlighter; nextchar.d.ts documents each export. Styles go
// through the CSSOM and no markup is parsed, so the strictest Content-Security-Policy will do.

// ---- the client

export class NextcharError extends Error {
  constructor(message, { code, status = 0, type = "connection_error", param = null, retryAfter = null, cause } = {}) {
    super(message, { cause });
    Object.assign(this, { name: "NextcharError", code, status, type, param, retryAfter });
  }
}

// Where this file came from, if it was the service; else this page's host.
const HOME = /\/clients\/js\/[^/]*$/.test(import.meta.url)
  ? new URL("../../", import.meta.url).href
  : (globalThis.location?.origin ?? "http://127.0.0.1:8000");

export class Nextchar {
  #base;

  constructor({ url = HOME, key = null, retries = 2, timeout = 30_000 } = {}) {
    this.#base = String(url).replace(/\/+$/, "");
    Object.assign(this, { key, retries, timeout });
  }

  complete(model, prompt, options) {
    return this.#json(model, "complete", options, { prompt });
  }

  next(model, prompt, options) {
    return this.#json(model, "next", options, { prompt });
  }

  score(model, text, options) {
    return this.#json(model, "score", options, Array.isArray(text) ? { lines: text } : { text });
  }

  async *stream(model, prompt, { signal, retries, ...fields } = {}) {
    const answer = await this.#post(model, "complete", { prompt, ...fields, stream: true }, { signal, retries });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    try {
      for (let text = ""; ; ) {
        const { value, done } = await reader.read().catch((cause) => {
          throw signal?.aborted ? signal.reason : unreachable(cause);
        });
        if (done) throw unreachable();
        const events = (text += value).split(/\r?\n\r?\n/);
        text = events.pop();
        for (const event of events) {
          const type = /^event: ?(.*)$/m.exec(event)?.[1];
          const data = /^data: ?(.*)$/m.exec(event)?.[1];
          if (!data) continue; // a comment
          const body = JSON.parse(data);
          if (type === "error") throw errorOf(body, 200);
          yield { type, ...body };
          if (type === "done") return;
        }
      }
    } finally {
      reader.cancel().catch(() => {}); // frees the place at the server
    }
  }

  async #json(model, call, { signal, retries, timeout = this.timeout, ...fields } = {}, what) {
    const late = AbortSignal.timeout(timeout);
    try {
      const both = signal ? AbortSignal.any([signal, late]) : late;
      return await (await this.#post(model, call, { ...what, ...fields }, { retries, signal: both })).json();
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      if (late.aborted) throw new NextcharError(`no answer within ${timeout} ms`, { code: "timeout", cause: error });
      throw error instanceof NextcharError ? error : unreachable(error);
    }
  }

  async #post(model, call, body, { signal, retries = this.retries }) {
    const headers = { "Content-Type": "application/json" };
    if (this.key) headers.Authorization = `Bearer ${this.key}`;
    const url = `${this.#base}/v1/models/${encodeURIComponent(model)}/${call}`;
    for (let attempt = 0; ; attempt++) {
      const request = { method: "POST", headers, body: JSON.stringify(body), signal };
      const answer = await fetch(url, request).catch(async (cause) => {
        const error = await this.#explain(cause);
        throw signal?.aborted ? signal.reason : error;
      });
      if (answer.ok) return answer;
      const after = Number(answer.headers.get("Retry-After")) || null; // seconds
      const error = errorOf(await answer.json().catch(() => null), answer.status, after);
      if (answer.status !== 429 || attempt >= retries) throw error;
      await sleep(1000 * (after ?? 2 ** attempt / 2), signal);
    }
  }

  // A browser does not say why a request failed. If the service answers, but not to this page, it is CORS.
  async #explain(cause) {
    const origin = globalThis.location?.origin;
    const answers = (mode) => fetch(`${this.#base}/healthz`, { mode }).then(() => true, () => false);
    if (!origin || (await answers("cors")) || !(await answers("no-cors"))) return unreachable(cause);
    const fix = `start it with NEXTCHAR_ALLOWED_ORIGINS=${origin === "null" ? "*" : origin}`;
    const message = `the service at ${this.#base} does not allow pages of ${origin}: ${fix}`;
    return new NextcharError(message, { code: "origin_not_allowed", cause });
  }
}

function errorOf(body, status, retryAfter = null) {
  const error = body?.error ?? { code: `http_${status}`, message: `HTTP status ${status}` };
  return new NextcharError(error.message, { ...error, status, retryAfter });
}

function unreachable(cause) {
  return new NextcharError("the nextchar service does not answer", { code: "unreachable", cause });
}

function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => (clearTimeout(timer), reject(signal.reason));
    const timer = setTimeout(() => (signal?.removeEventListener("abort", stop), resolve()), ms);
    if (signal?.aborted) stop();
    signal?.addEventListener("abort", stop, { once: true });
  });
}

// ---- what to suggest, and when to ask

const PROMPT_UNITS = 8192; // UTF-16; from one to two times this much is sent
const LONGEST_WAIT_MS = 250;
const ANSWER_WITHIN_MS = 5000;
const LONGEST_PAUSE_MS = 30_000;
const WORTH_SHOWING = 0.2; // keystrokes that can be expected to be saved

// A text begins after a line break. A long one is cut in large steps: cut at each key, it would miss the server's
// cache each time.
export function promptOf(before) {
  const from = (Math.floor(before.length / PROMPT_UNITS) - 1) * PROMPT_UNITS;
  if (from <= 0) return "\n" + before;
  const line = before.indexOf("\n", from);
  if (line >= 0 && line < from + PROMPT_UNITS) return before.slice(line);
  return before.slice(/[\udc00-\udfff]/.test(before[from]) ? from + 1 : from);
}

// Maximizes the expected keys saved: n characters for one key save n - 1, if all are right.
export function likelyLength(logprobs) {
  let sum = 0, most = WORTH_SHOWING, length = 0;
  logprobs.forEach((logprob, i) => {
    sum += logprob;
    if (i * Math.exp(sum) > most) [most, length] = [i * Math.exp(sum), i + 1];
  });
  return length;
}

export function firstWord(text) {
  const [found] = /^\s*(?:[\p{L}\p{M}\p{N}_'’]+|[^\s\p{L}\p{M}\p{N}_'’]+)/u.exec(text) ?? [text];
  const space = found.length - found.trimStart().length;
  const word = found.slice(space); // scripts without spaces need a dictionary
  if (!/[\p{sc=Han}\p{sc=Hira}\p{sc=Kana}\p{sc=Thai}\p{sc=Laoo}\p{sc=Khmr}\p{sc=Mymr}]/u.test(word)) return found;
  const [first] = new Intl.Segmenter(undefined, { granularity: "word" }).segment(word);
  return found.slice(0, space) + first.segment;
}

// One request at a time; a newer one cancels it; after an error there is a pause.
class Asker {
  #asking = null;
  #typical = 20; // milliseconds for an answer
  #failures = 0;
  #pausedUntil = 0;

  constructor(client, model, { debounce = null, onError = () => {} }) {
    Object.assign(this, { client, model, debounce, onError });
  }

  // A fast server is asked at each key, a slow one in pauses.
  get wait() {
    return this.debounce ?? Math.min(LONGEST_WAIT_MS, this.#typical);
  }

  abort() {
    this.#asking?.abort();
    this.#asking = null;
  }

  // null: overtaken; undefined: an error.
  async ask(prompt, fields, outer) {
    this.abort();
    if (performance.now() < this.#pausedUntil) return undefined;
    const own = (this.#asking = new AbortController());
    const signal = outer ? AbortSignal.any([own.signal, outer]) : own.signal;
    try {
      if (this.wait) await sleep(this.wait, signal);
      const began = performance.now();
      const options = { ...fields, signal, retries: 0, timeout: ANSWER_WITHIN_MS };
      const answer = await this.client.complete(this.model, prompt, options);
      this.#typical += 0.3 * (performance.now() - began - this.#typical);
      this.#failures = 0;
      return answer;
    } catch (error) {
      if (signal.aborted) return null;
      const pause = Math.max(1000 * (error.retryAfter ?? 0), Math.min(LONGEST_PAUSE_MS, 1000 * 2 ** this.#failures++));
      this.#pausedUntil = performance.now() + pause;
      this.onError(error, pause);
      return undefined;
    } finally {
      if (this.#asking === own) this.#asking = null;
    }
  }
}

export class Suggester {
  #asker;
  #known = null; // {prompt, text, logprobs or null, end}: text.slice(0, end) is what was shown

  constructor(client, model, { until = "likely", max = 40, temperature = 0, debounce = null, onError } = {}) {
    this.#asker = new Asker(client, model, { debounce, onError });
    this.fields = { max_characters: max, temperature, ...(until === "likely" ? { logprobs: 0 } : { until }) };
  }

  recall(prompt) {
    const known = this.#known;
    if (!known || !prompt.startsWith(known.prompt)) return null;
    const typed = prompt.slice(known.prompt.length);
    if (!known.text.startsWith(typed)) return null;
    if (typed.length >= known.end) known.end = this.#cut(known, typed.length);
    // An empty suggestion is an answer at its own prompt; later it is used up.
    if (typed && known.end <= typed.length) return null;
    return known.text.slice(typed.length, known.end);
  }

  async suggest(prompt, { signal } = {}) {
    this.#asker.abort();
    const known = this.recall(prompt);
    if (known !== null) return known;
    const answer = await this.#asker.ask(prompt, this.fields, signal);
    if (!answer) return answer === null ? null : "";
    const [{ text, logprobs }] = answer.completions;
    this.#known = { prompt, text, logprobs: logprobs && logprobs.map((one) => one.logprob), end: 0 };
    return this.recall(prompt);
  }

  abort() {
    this.#asker.abort();
  }

  forget() {
    this.#known = null;
  }

  #cut({ text, logprobs }, from) {
    const line = from + /^\s*[^\r\n]*/.exec(text.slice(from))[0].length;
    if (!logprobs) return line;
    const skip = [...text.slice(0, from)].length; // log-probabilities are of code points
    const characters = [...text.slice(from, line)];
    const length = likelyLength(logprobs.slice(skip, skip + characters.length));
    return from + characters.slice(0, length).join("").length;
  }
}

// ---- where a suggestion is drawn

const OF_TEXT =
  /^(?:font|letter-|word-|line-|text-|white-space|tab-|direction|unicode-|overflow-wrap|hyphen|writing|padding|color$)/;
let namesOfText;

const style = (element, styles) => Object.assign(element.style, styles);

function create(name, styles = {}, attributes = {}) {
  const element = document.createElement(name);
  style(element, styles);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

const isFocused = (host) => host.getRootNode().activeElement === host;
const isOpen = (host) => !host.readOnly && host.matches(CAN_HELP) && !host.matches(":disabled");
const isRightToLeft = (host) => getComputedStyle(host).direction === "rtl";

// A layer over a field, with the same text in the same places.
class Mirror {
  #left = 0;
  #top = 0;

  constructor(host) {
    this.host = host;
    this.box = create("div", { position: "absolute", overflow: "hidden", pointerEvents: "none", margin: 0, border: 0,
      background: "none", left: 0, top: 0, boxSizing: "border-box" }, { "aria-hidden": "true" });
    this.text = create("div", { position: "relative" });
    this.box.append(this.text);
  }

  fit() {
    const { host, box } = this;
    if (box.previousSibling !== host) host.after(box);
    const styles = getComputedStyle(host);
    namesOfText ??= [...styles].filter((name) => OF_TEXT.test(name));
    for (const name of namesOfText) box.style[name] = styles[name];
    const isLine = host.localName === "input";
    style(box, isLine ? { whiteSpace: "pre", display: "flex", alignItems: "center" } : { display: "block" });
    if (isLine) style(this.text, { flex: "1 0 auto" });
    const frame = host.getBoundingClientRect(); // after the page's transforms
    const scale = frame.width / host.offsetWidth || 1;
    const borders = parseFloat(styles.borderLeftWidth) + parseFloat(styles.borderRightWidth);
    const bar = Math.max(0, Math.round(host.offsetWidth - host.clientWidth - borders));
    style(box, { width: `${frame.width / scale - borders - bar}px`, height: `${host.clientHeight}px`,
      zIndex: styles.zIndex });
    const now = box.getBoundingClientRect();
    this.#left += (frame.left - now.left) / scale + host.clientLeft;
    this.#top += (frame.top - now.top) / scale + host.clientTop;
    style(box, { left: `${this.#left}px`, top: `${this.#top}px` });
  }

  scroll(top = 0) {
    const { scrollLeft, scrollTop } = this.host;
    style(this.text, { transform: `translate(${-scrollLeft}px, ${top - scrollTop}px)` });
  }
}

const PALE = "var(--nextchar-color, color-mix(in srgb, currentColor 62%, transparent))";

class Field {
  #top = 0; // of the text in the mirror, before scrolling

  constructor(host) {
    this.host = host;
    this.mirror = new Mirror(host);
  }

  get isAtEnd() {
    return this.host.selectionEnd === this.host.value.length;
  }

  // The text before the caret; null where nothing may be suggested.
  before(isAnywhere) {
    const { host } = this;
    const { value, selectionStart, selectionEnd, maxLength } = host;
    const isFull = maxLength >= 0 && value.length >= maxLength;
    if (selectionStart !== selectionEnd || isFull || !isOpen(host) || !isFocused(host)) return null;
    return isAnywhere || /^(?:[\r\n]|$)/.test(value.slice(selectionEnd)) ? value.slice(0, selectionEnd) : null;
  }

  // As much of a suggestion as fits.
  trim(text) {
    const { localName, maxLength, value } = this.host;
    if (localName === "input" || !this.isAtEnd) [text] = text.split(/[\r\n]/, 1);
    return maxLength >= 0 ? text.slice(0, maxLength - value.length) : text;
  }

  paint(text) {
    const { host, mirror } = this;
    mirror.fit();
    const { value, selectionEnd: caret } = host;
    // A long text is laid out from the caret's line on.
    const isLong = host.localName === "textarea" && host.scrollHeight > host.clientHeight + 1;
    const before = create("span", { visibility: "hidden" });
    before.textContent = value.slice(isLong ? value.lastIndexOf("\n", caret - 1) + 1 : 0, caret);
    const after = create("span", { visibility: "hidden" });
    after.textContent = value.slice(caret) + "\u200b"; // gives an empty last line its height
    mirror.text.replaceChildren(before, after);
    const padding = parseFloat(mirror.box.style.paddingTop) + parseFloat(mirror.box.style.paddingBottom);
    this.#top = isLong ? host.scrollHeight - padding - mirror.text.offsetHeight : 0;
    const ghost = create("span", { color: PALE });
    ghost.textContent = text;
    if (this.isAtEnd) {
      // Where the line is full, the word before it stays.
      after.replaceWith(create("wbr"), ghost);
    } else {
      // It must move nothing, so it covers what follows.
      const place = create("span", { position: "relative" });
      style(ghost, { position: "absolute", top: 0, whiteSpace: "pre", insetInlineStart: 0 });
      if (!/^[\r\n]/.test(value.slice(caret))) ghost.style.backgroundColor = getComputedStyle(host).backgroundColor;
      place.append("\u200b", ghost);
      before.after(place);
    }
    this.scroll();
  }

  scroll() {
    this.mirror.scroll(this.#top);
  }
}

// With the input event, and so that Ctrl + Z takes it back.
function type(host, text) {
  // Deprecated, and the only way into the undo history.
  if (document.execCommand("insertText", false, text)) return;
  host.setRangeText(text, host.selectionStart, host.selectionEnd, "end");
  host.dispatchEvent(new InputEvent("input", { bubbles: true, inputType: "insertText", data: text }));
}

// ---- ghost text

const SAY_AFTER_MS = 700;
const LOOK_EVERY_MS = 250;
const IS_MAC = /Mac|iP(?:hone|ad)/.test(globalThis.navigator?.platform ?? "");
let region;

function say(host, text) {
  region ??= create("div", { position: "absolute", width: "1px", height: "1px", overflow: "hidden", margin: "-1px",
    clipPath: "inset(50%)", whiteSpace: "nowrap" }, { role: "status", "aria-live": "polite" });
  const home = host.closest("dialog") ?? document.body; // outside of an open dialog nothing is read
  if (region.parentNode !== home) home.append(region);
  region.textContent = text;
}

const warned = new Set();

function warn({ message }) {
  if (!warned.has(message)) console.warn(`nextchar: ${message}`);
  warned.add(message);
}

function tell(host, name, detail) {
  return host.dispatchEvent(new CustomEvent(`nextchar:${name}`, { bubbles: true, composed: true, detail }));
}

class Helper {
  #ended = new AbortController();
  #isComposing = false;
  #again = null;
  #sayLater = null;

  constructor(host, attributes) {
    this.host = host;
    this.#had = Object.keys(attributes).map((name) => [name, host.getAttribute(name)]);
    for (const [name, value] of Object.entries(attributes)) host.setAttribute(name, value);
    this.on(host, "input", (event) => event.isComposing || this.#isComposing || this.update());
    this.on(host, "compositionstart", () => ((this.#isComposing = true), this.hide()));
    this.on(host, "compositionend", () => ((this.#isComposing = false), this.update()));
    this.on(host, "blur", () => this.hide());
    this.on(host, "keydown", (event) => {
      if (event.isComposing || event.defaultPrevented || !this.key(event)) return;
      event.preventDefault();
      event.stopPropagation();
    });
    this.on(document, "reset", ({ target }) => target.contains(host) && this.hide());
  }

  #had;

  on(target, name, listener, options = {}) {
    target.addEventListener(name, listener, { ...options, signal: this.#ended.signal });
  }

  failed(error, pause) {
    this.hide();
    const { code, status } = error;
    if (code === "origin_not_allowed" || (status >= 400 && status < 500 && status !== 429)) warn(error);
    tell(this.host, "error", { error, pause });
    clearTimeout(this.#again);
    this.#again = setTimeout(() => isFocused(this.host) && !this.#isComposing && this.update(), pause + 10);
  }

  sayLater(text) {
    clearTimeout(this.#sayLater);
    if (text) this.#sayLater = setTimeout(() => say(this.host, text), SAY_AFTER_MS);
    else if (region?.textContent) region.textContent = "";
  }

  end() {
    this.hide();
    this.#ended.abort();
    clearTimeout(this.#again);
    for (const [name, value] of this.#had) {
      value === null ? this.host.removeAttribute(name) : this.host.setAttribute(name, value);
    }
  }
}

class Ghost extends Helper {
  #shown = null; // {text, value, caret}: what is painted, for what the field had in it
  #said = null; // where the suggestion ends that was said last
  #looking = null;

  constructor(host, client, options) {
    super(host, { "aria-autocomplete": "inline" });
    this.place = new Field(host);
    this.options = options;
    this.suggester = new Suggester(client, options.model, { ...options, onError: (...what) => this.failed(...what) });
    this.on(document, "selectionchange", () => this.#shown && this.#isStale() && this.hide(), { capture: true });
    this.on(host, "scroll", () => this.#shown && this.place.scroll());
  }

  async update() {
    const before = this.place.before(this.options.midline);
    if (before === null) return this.hide();
    const prompt = promptOf(before);
    const known = this.suggester.recall(prompt);
    if (known) this.#show(known); // in the key's own turn, so that what is typed along never flickers
    else this.#clear();
    const text = await this.suggester.suggest(prompt);
    if (text && text !== known && this.place.before(this.options.midline) === before) this.#show(text);
  }

  hide() {
    this.suggester?.abort();
    this.#clear();
  }

  // Whether the key was for the suggestion.
  key({ key, ctrlKey, altKey, shiftKey, metaKey }) {
    if (!this.#shown || this.#isStale() || shiftKey || metaKey) return false;
    const forward = isRightToLeft(this.host) ? "ArrowLeft" : "ArrowRight";
    const isByWord = IS_MAC ? altKey && !ctrlKey : ctrlKey && !altKey;
    const { text } = this.#shown;
    if (key === forward && isByWord) this.#accept(firstWord(text));
    else if (ctrlKey || altKey) return false;
    else if (key === "Tab" || (key === forward && this.place.isAtEnd)) this.#accept(text);
    else if (key === "Escape") {
      this.suggester.forget(); // or the next key would bring it back
      this.hide();
    } else return false;
    return true;
  }

  #accept(text) {
    const whole = text === this.#shown.text;
    this.#clear();
    type(this.host, text);
    tell(this.host, "accept", { text, whole });
  }

  #show(suggestion) {
    const text = this.place.trim(suggestion);
    if (!text) return this.#clear();
    const { value, selectionEnd: caret } = this.host;
    if (!this.#shown) this.#looking = setInterval(() => this.#look(), LOOK_EVERY_MS);
    this.#shown = { text, value, caret };
    this.place.paint(text);
    const end = value.slice(0, caret) + text;
    if (end !== this.#said) this.sayLater(this.options.announce(text));
    this.#said = end;
    tell(this.host, "suggestion", { text });
  }

  // No event tells that the page changed the value, place or style.
  #look() {
    if (this.#isStale() || !isOpen(this.host)) this.hide();
    else this.place.paint(this.#shown.text);
  }

  #isStale() {
    const { selectionStart, selectionEnd, value } = this.host;
    const { caret, value: had } = this.#shown;
    return selectionStart !== caret || selectionEnd !== caret || value !== had;
  }

  #clear() {
    if (!this.#shown) return;
    this.#shown = null;
    clearInterval(this.#looking);
    this.place.mirror.box.remove();
    this.sayLater("");
  }
}

// ---- the list

const UNLIKELY_BITS = 8; // than the best: not worth a line
let lists = 0;

class List extends Helper {
  #box;
  #values = [];
  #shown;
  #active = -1;

  constructor(host, client, options) {
    const id = `nextchar-list-${++lists}`;
    super(host, { role: "combobox", "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": id,
      autocomplete: "off" });
    this.options = options;
    this.asker = new Asker(client, options.model, { ...options, onError: (...what) => this.failed(...what) });
    // In the top layer: no ancestor cuts it off.
    this.#box = create("ul", { position: "fixed", inset: "auto", margin: 0, padding: "4px", listStyle: "none",
      boxSizing: "border-box", maxHeight: "16em", border: "1px solid color-mix(in srgb, currentColor 30%, transparent)",
      borderRadius: "6px", boxShadow: "0 4px 16px rgb(0 0 0 / 0.2)" },
      { role: "listbox", id, class: "nextchar-list", popover: "manual", "aria-label": options.label });
    this.on(this.#box, "pointerdown", (event) => event.preventDefault()); // the field keeps the focus
    this.on(this.#box, "click", ({ target }) => this.#choose([...this.#box.children].indexOf(target.closest("li"))));
    this.on(globalThis, "scroll", () => this.isOpen && this.#place(), { capture: true, passive: true });
    this.on(globalThis, "resize", () => this.isOpen && this.#place());
    host.after(this.#box);
  }

  get isOpen() {
    return this.#values.length > 0;
  }

  async update({ isWanted = false } = {}) {
    const { host, options } = this;
    const { value } = host;
    if (!isOpen(host) || host.selectionEnd !== value.length || !(value || isWanted)) return this.hide();
    this.#show(value ? this.#values.filter((one) => one !== value && one.startsWith(value)) : []);
    const { count, max, temperature } = options;
    const way = temperature ? { n: 2 * count, temperature } : { n: count, beam: Math.max(8, count) };
    const answer = await this.asker.ask("\n" + value, { ...way, until: "line", max_characters: max });
    if (!answer || host.value !== value || !isFocused(host)) return;
    const found = answer.completions.filter(({ text }) => text.trim()).sort((a, b) => a.bits - b.bits);
    const likely = found.filter(({ bits }) => bits <= found[0].bits + UNLIKELY_BITS);
    this.#show([...new Set(likely.map(({ text }) => value + text))].slice(0, count));
  }

  hide() {
    this.asker?.abort();
    if (this.#box) this.#show([]);
  }

  end() {
    super.end();
    this.#box.remove();
  }

  key({ key, altKey, ctrlKey, metaKey, shiftKey }) {
    if (ctrlKey || metaKey || shiftKey) return false;
    if (!this.isOpen) {
      if (key === "ArrowDown") this.update({ isWanted: true });
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
    const { host } = this;
    const { value } = host;
    const text = this.#values[index];
    this.hide();
    if (!text?.startsWith(value) || host.selectionStart !== value.length) return;
    type(host, text.slice(value.length));
    this.hide();
    tell(host, "accept", { text, whole: true });
  }

  #show(values) {
    const { host } = this;
    const now = JSON.stringify([host.value, values]);
    if (now === this.#shown) return;
    this.#shown = now;
    this.#values = values;
    const options = values.map((value, i) => {
      const option = create("li", { padding: "0.25em 0.5em", borderRadius: "4px", cursor: "default",
        whiteSpace: "pre", overflow: "hidden", textOverflow: "ellipsis" },
        { role: "option", id: `${this.#box.id}-${i}`, dir: "auto" });
      const rest = create("b");
      rest.textContent = value.slice(host.value.length);
      option.append(value.slice(0, host.value.length), rest);
      return option;
    });
    this.#box.replaceChildren(...options);
    this.#activate(-1);
    host.setAttribute("aria-expanded", this.isOpen);
    if (this.#box.isConnected) this.#box.togglePopover(this.isOpen);
    this.sayLater(this.isOpen && this.options.announceCount(values.length));
    if (!this.isOpen) return;
    this.#place();
    tell(host, "suggestion", { text: values[0], values });
  }

  #activate(index) {
    this.#active = index;
    [...this.#box.children].forEach((option, i) => {
      option.setAttribute("aria-selected", i === index);
      style(option, { background: i === index ? "color-mix(in srgb, currentColor 14%, transparent)" : "none" });
    });
    if (index < 0) return this.host.removeAttribute("aria-activedescendant");
    this.host.setAttribute("aria-activedescendant", this.#box.children[index].id);
    this.#box.children[index].scrollIntoView({ block: "nearest" });
  }

  #place() {
    const at = this.host.getBoundingClientRect();
    const styles = getComputedStyle(this.host);
    const isAbove = innerHeight - at.bottom < this.#box.offsetHeight && at.top > innerHeight - at.bottom;
    const ground = styles.backgroundColor; // which may let through what is below
    style(this.#box, { left: `${at.left}px`, width: `${at.width}px`, font: styles.font, color: styles.color,
      direction: styles.direction, background: `linear-gradient(${ground}, ${ground}) Canvas`,
      ...(isAbove ? { top: "auto", bottom: `${innerHeight - at.top + 2}px` }
        : { top: `${at.bottom + 2}px`, bottom: "auto" }) });
  }
}

// ---- the highlighter

const ODD = "nextchar-odd";
const ODD_BITS = 7;
const LOOK_AGAIN_MS = 200;

function oddRanges() {
  if (!CSS.highlights.has(ODD)) {
    CSS.highlights.set(ODD, new Highlight());
    // In a layer, so that the page's own ::highlight(nextchar-odd) wins.
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(`@layer { ::highlight(${ODD}) { background-color: rgb(255 120 60 / 0.35);
      -webkit-text-fill-color: currentcolor; } }`);
    document.adoptedStyleSheets.push(sheet);
  }
  return CSS.highlights.get(ODD);
}

export function highlight(element, { model, client, bits = ODD_BITS, live = false, ...options }) {
  const service = client ?? new Nextchar(options);
  const isField = "value" in element;
  const mirror = isField && new Mirror(element);
  const ended = new AbortController();
  let asked = new AbortController();
  let later;
  let unmark = () => {};

  const textOf = () => (isField ? element.value : element.textContent);
  const failed = (error) => error instanceof NextcharError && tell(element, "error", { error });

  async function refresh() {
    asked.abort();
    asked = new AbortController();
    const text = textOf();
    const lines = text.split("\n");
    const options = { detail: "character", signal: asked.signal };
    const scores = text.trim() ? (await service.score(model, lines, options)).lines : [];
    const spans = [];
    let at = 0;
    scores.forEach((score, i) => {
      let edges = edgesOf(lines[i]);
      if (edges.length <= score.characters) edges = edgesOf(lines[i], new TextEncoder());
      for (const place of oddPlaces(score, bits)) {
        const [start, end] = [edges[place.start], edges[place.end]];
        spans.push({ start: at + start, end: at + end, text: lines[i].slice(start, end) });
      }
      at += lines[i].length + 1;
    });
    if (text !== textOf()) return spans; // it has changed meanwhile
    clear();
    if (mirror) {
      mirror.fit();
      mirror.box.style.webkitTextFillColor = "transparent"; // but where it is marked
      mirror.text.textContent = text + "\u200b";
      mirror.scroll();
    }
    unmark = mark(mirror ? mirror.text : element, spans);
    observer.takeRecords();
    tell(element, "highlight", { spans });
    return spans;
  }

  function clear() {
    unmark();
    unmark = () => {};
    observer.takeRecords();
    mirror && mirror.box.remove();
  }

  function changed() {
    clear();
    clearTimeout(later);
    if (live) later = setTimeout(() => refresh().catch(failed), LOOK_AGAIN_MS);
  }

  const observer = new MutationObserver(changed);
  const sizes = new ResizeObserver(() => mirror.box.isConnected && mirror.fit());
  if (isField) {
    element.addEventListener("input", changed, { signal: ended.signal });
    element.addEventListener("scroll", () => mirror.scroll(), { signal: ended.signal });
    sizes.observe(element);
  } else if (live) observer.observe(element, { childList: true, characterData: true, subtree: true });
  const ready = refresh();
  ready.catch(failed);
  return {
    ready,
    refresh,
    clear() {
      ended.abort();
      asked.abort();
      clearTimeout(later);
      observer.disconnect();
      sizes.disconnect();
      clear();
    },
  };
}

// In characters of the line after NFC. Models that are calibrated say themselves what is odd.
function oddPlaces(score, threshold) {
  if (score.spans) return score.anomalous === false ? [] : score.spans;
  const spans = [];
  (score.bits ?? []).forEach((bits, i) => {
    if (bits < threshold) return;
    const last = spans.at(-1);
    if (last && last.end >= i - 1) last.end = i + 1;
    else spans.push({ start: i, end: i + 1 });
  });
  return spans;
}

// Where each character after NFC (with a coder, each byte) begins in UTF-16 units; last, the end.
function edgesOf(line, coder) {
  const edges = [];
  let at = 0;
  for (const { segment } of new Intl.Segmenter(undefined, { granularity: "grapheme" }).segment(line)) {
    const characters = [...(coder ? segment : segment.normalize("NFC"))];
    const isSame = segment === characters.join("");
    let inside = 0;
    for (const character of characters) {
      for (const _ of coder?.encode(character) ?? [0]) edges.push(at + (isSame ? inside : 0));
      inside += character.length;
    }
    at += segment.length;
  }
  return [...edges, at];
}

function mark(root, spans) {
  const pieces = [];
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  let next = 0;
  for (let at = 0, node; (node = walker.nextNode()); at += node.data.length) {
    for (let i = next; i < spans.length && spans[i].start < at + node.data.length; i++) {
      const range = document.createRange();
      range.setStart(node, Math.max(0, spans[i].start - at));
      range.setEnd(node, Math.min(node.data.length, spans[i].end - at));
      pieces.push(range);
      if (spans[i].end <= at + node.data.length) next = i + 1;
    }
  }
  if (CSS.highlights) {
    pieces.forEach((range) => oddRanges().add(range));
    return () => pieces.forEach((range) => oddRanges().delete(range));
  }
  // From the end: what is cut apart is not needed any more.
  const marks = pieces.reverse().map((range) => {
    const element = create("mark", { webkitTextFillColor: "currentcolor" }, { class: ODD });
    range.surroundContents(element);
    return element;
  });
  return () => {
    for (const element of marks) {
      const parent = element.parentNode;
      element.replaceWith(...element.childNodes);
      parent?.normalize();
    }
  };
}

// ---- what the page asks for by itself

const LIMITS = { max: [1, 10_000], temperature: [0, 10], debounce: [0, 10_000], count: [1, 32] };
const NAMES = ["url", "key", "mode", "until", "midline", ...Object.keys(LIMITS)];
const CAN_HELP = "textarea, input:not([type]), input:is([type=text], [type=search], [type=url], [type=tel])";
const helpers = new WeakMap();

export function attach(host, options = {}) {
  helpers.get(host)?.end();
  const all = { model: host.dataset.nextchar, mode: "ghost", temperature: 0, debounce: null, count: 6,
    label: "Suggestions", announce: (text) => `Suggestion: ${text}. Tab accepts it.`,
    announceCount: (count) => `${count} suggestion${count > 1 ? "s" : ""}.` };
  for (const name of NAMES) {
    const attribute = `data-nextchar-${name}`;
    const value = host.closest(`[${attribute}]`)?.getAttribute(attribute);
    if (value != null) all[name] = value;
  }
  Object.assign(all, options);
  const isList = all.mode === "list";
  all.max ??= isList ? 60 : 40;
  all.midline = ![undefined, false, "false"].includes(all.midline);
  for (const [name, [low, high]] of Object.entries(LIMITS)) {
    const value = all[name];
    if (value === null) continue;
    all[name] = String(value).trim() ? Number(value) : NaN;
    if (all[name] >= low && all[name] <= high) continue;
    const message = `${name} is ${JSON.stringify(value)} and must be a number from ${low} to ${high}`;
    throw new NextcharError(message, { code: "invalid_option", param: name });
  }
  const helper = new (isList ? List : Ghost)(host, all.client ?? new Nextchar(all), all);
  helpers.set(host, helper);
  return () => helper.end();
}

function adopt(host) {
  try {
    attach(host);
    helpers.get(host).isAdopted = true;
  } catch (error) {
    warn(error);
    tell(host, "error", { error });
  }
}

function changed(records) {
  const hosts = new Map(); // to whether their options may have changed
  for (const { type, target, addedNodes, removedNodes } of records) {
    const isRenewed = type === "attributes";
    for (const node of isRenewed ? [target] : [...addedNodes, ...removedNodes]) {
      for (const host of [node, ...(node.querySelectorAll?.("[data-nextchar]") ?? [])]) {
        hosts.set(host, isRenewed || hosts.get(host));
      }
    }
  }
  for (const [host, isRenewed] of hosts) {
    if (host.isConnected && host.dataset?.nextchar && host.matches(CAN_HELP)) {
      if (isRenewed || !helpers.has(host)) adopt(host);
    } else if (helpers.get(host)?.isAdopted) {
      helpers.get(host).end();
      helpers.delete(host);
    }
  }
}

if (globalThis.document) {
  changed([{ addedNodes: [document], removedNodes: [] }]);
  new MutationObserver(changed).observe(document, { childList: true, subtree: true, attributes: true,
    attributeFilter: ["data-nextchar", "type", ...NAMES.map((name) => `data-nextchar-${name}`)] });
}
