/** A layer over a field with the same text in the same places, to draw on. */

const TEXT_PROPERTY =
  /^(?:font|letter-|word-|line-|text-|white-space|tab-|direction|unicode-|overflow-wrap|hyphen|writing|padding|color$)/;
let textProperties;

// No markup is parsed, so the strictest Content-Security-Policy allows it.
export const style = (element, styles) => Object.assign(element.style, styles);

export function create(name, styles = {}, attributes = {}) {
  const element = document.createElement(name);
  style(element, styles);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

export class Mirror {
  #left = 0;
  #top = 0;

  constructor(field) {
    this.field = field;
    this.box = create("div", { position: "absolute", overflow: "hidden", pointerEvents: "none", margin: 0, border: 0,
      background: "none", left: 0, top: 0, boxSizing: "border-box" }, { "aria-hidden": "true" });
    this.text = create("div", { position: "relative" });
    this.box.append(this.text);
  }

  fit() {
    const { field, box } = this, styles = getComputedStyle(field), isLine = field.localName === "input";
    textProperties ??= [...styles].filter((name) => TEXT_PROPERTY.test(name));
    style(box, Object.fromEntries(textProperties.map((name) => [name, styles[name]]))); // read before one is set: that is costly
    style(box, isLine ? { whiteSpace: "pre", display: "flex", alignItems: "center" } : { display: "block" });
    if (isLine) style(this.text, { flex: "1 0 auto" });
    this.place();
  }

  // All is read before anything is set: each layout in between takes time.
  place() {
    const { field, box } = this, { offsetWidth, clientWidth, clientHeight, clientLeft, clientTop } = field;
    if (box.previousSibling !== field) field.after(box);
    const { borderLeftWidth, borderRightWidth, zIndex } = getComputedStyle(field);
    const frame = field.getBoundingClientRect(), now = box.getBoundingClientRect(); // after the page's transforms
    const scale = frame.width / offsetWidth || 1;
    const borders = parseFloat(borderLeftWidth) + parseFloat(borderRightWidth);
    const scrollbar = Math.max(0, Math.round(offsetWidth - clientWidth - borders));
    this.#left += (frame.left - now.left) / scale + clientLeft;
    this.#top += (frame.top - now.top) / scale + clientTop;
    style(box, { width: `${frame.width / scale - borders - scrollbar}px`, height: `${clientHeight}px`, zIndex,
      left: `${this.#left}px`, top: `${this.#top}px` });
  }

  scroll(top = 0, { scrollLeft, scrollTop } = this.field) {
    style(this.text, { transform: `translate(${-scrollLeft}px, ${top - scrollTop}px)` });
  }
}
