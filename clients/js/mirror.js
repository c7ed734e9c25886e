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
    this.text = create("div", { position: "relative", flex: "1 0 auto" });
    this.box.append(this.text);
  }

  fit() {
    const { field, box } = this, styles = getComputedStyle(field);
    textProperties ??= [...styles].filter((name) => TEXT_PROPERTY.test(name));
    style(box, Object.fromEntries(textProperties.map((name) => [name, styles[name]]))); // read before one is set: faster
    style(box, field.localName === "input" ? { whiteSpace: "pre", display: "flex", alignItems: "center" } : { display: "block" });
    this.place();
  }

  place() {
    const { field, box } = this;
    if (box.previousSibling !== field) field.after(box);
    const styles = getComputedStyle(field);
    const frame = field.getBoundingClientRect(), now = box.getBoundingClientRect(); // after the page's transforms
    const scale = frame.width / field.offsetWidth || 1;
    const borders = parseFloat(styles.borderLeftWidth) + parseFloat(styles.borderRightWidth);
    const scrollbar = Math.max(0, Math.round(field.offsetWidth - field.clientWidth - borders));
    this.#left += (frame.left - now.left) / scale + field.clientLeft;
    this.#top += (frame.top - now.top) / scale + field.clientTop;
    const place = { width: `${frame.width / scale - borders - scrollbar}px`, height: `${field.clientHeight}px`,
      zIndex: styles.zIndex, left: `${this.#left}px`, top: `${this.#top}px` };
    this.scroll();
    style(box, place);
  }

  scroll() {
    const { scrollLeft, scrollTop } = this.field;
    style(this.text, { transform: `translate(${-scrollLeft}px, ${-scrollTop}px)` });
  }
}
