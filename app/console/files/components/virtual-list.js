/**
 * A list of any number of rows of one height, of which only those in view are elements.
 *
 * The list has the focus, not its rows, which come and go: `aria-activedescendant` names the selected one.
 */

import { h, uniqueId } from "../dom.js";

const OVERSCAN_ROWS = 6;
const MAX_CONTENT_PX = 8_000_000; // browsers cut higher elements; the scroll position then stands for a fraction of the rows
const SETTLE_MS = 120; // without scrolling, before `onVisible` is called

/**
 * Return a list.
 *
 * @param {object} options
 * @param {string} options.label
 * @param {() => number} options.rowHeight in pixels
 * @param {(index: number) => any} options.renderRow returns the children of a row, and its `class`: {children, class}
 * @param {(index: number) => void} options.onSelect the user selects another row
 * @param {(index: number) => void} options.onOpen the user presses Enter on the selected row, or clicks on one
 * @param {(event: KeyboardEvent) => boolean} [options.onKey] handles other keys; true: it did
 * @param {(first: number, end: number) => void} [options.onVisible] the rows in view, when they have settled
 * @param {AbortSignal} options.signal
 */
export function virtualList({ label, rowHeight, renderRow, onSelect, onOpen, onKey, onVisible, signal }) {
  const id = uniqueId("rows");
  const content = h("div.rows-content", { role: "presentation" });
  const node = h("div.lines", { role: "listbox", tabindex: 0, "aria-label": label }, content);
  /** @type {Map<number, HTMLElement>} */ const shown = new Map();
  let count = 0;
  let selected = -1;
  let frame = 0;
  let timer = 0;

  const viewHeight = () => node.clientHeight;
  const contentHeight = () => Math.min(MAX_CONTENT_PX, count * rowHeight());

  /** How many pixels of all rows one pixel of scrolling stands for. */
  function scale() {
    const scrollable = contentHeight() - viewHeight();
    return scrollable > 0 ? Math.max(1, (count * rowHeight() - viewHeight()) / scrollable) : 1;
  }

  /** The first row in view, with a fraction for its part above the view. */
  const firstInView = () => Math.max(0, (node.scrollTop * scale()) / rowHeight());

  function draw() {
    frame = 0;
    const height = rowHeight();
    const top = firstInView();
    const first = Math.max(0, Math.floor(top) - OVERSCAN_ROWS);
    const end = Math.min(count, Math.ceil(top + viewHeight() / height) + OVERSCAN_ROWS);
    for (const [index, row] of shown) {
      if (index >= first && index < end) continue;
      row.remove();
      shown.delete(index);
    }
    for (let index = first; index < end; index += 1) {
      const row = shown.get(index) ?? addRow(index);
      row.style.top = `${node.scrollTop + (index - top) * height}px`;
      row.style.height = `${height}px`;
    }
    if (selected >= first && selected < end) node.setAttribute("aria-activedescendant", `${id}-${selected}`);
    else node.removeAttribute("aria-activedescendant");
    clearTimeout(timer);
    timer = setTimeout(
      () => onVisible?.(Math.floor(top), Math.min(count, Math.ceil(top + viewHeight() / height))),
      SETTLE_MS,
    );
  }

  function addRow(index) {
    const row = h("div", { id: `${id}-${index}`, role: "option", "aria-posinset": index + 1 });
    shown.set(index, row);
    fillRow(index, row);
    content.append(row);
    return row;
  }

  function fillRow(index, row) {
    const { children, class: names } = renderRow(index);
    row.className = `log-line ${names}${index === selected ? " current" : ""}`;
    row.setAttribute("aria-selected", String(index === selected));
    row.setAttribute("aria-setsize", String(count));
    row.replaceChildren(...children);
  }

  function schedule() {
    frame ||= requestAnimationFrame(draw);
  }

  /** Draw all rows in view anew. */
  function redraw() {
    content.style.height = `${contentHeight()}px`;
    node.hidden = count === 0;
    for (const [index, row] of shown) {
      if (index < count) fillRow(index, row);
    }
    draw();
  }

  /** Draw the rows in view anew, without a call of `onVisible`. */
  function fill() {
    for (const [index, row] of shown) fillRow(index, row);
  }

  function scrollTo(index) {
    const height = rowHeight();
    const top = firstInView();
    const rows = viewHeight() / height;
    if (index >= Math.ceil(top) && index + 1 <= top + rows) return;
    const newTop = index < top ? index : index + 1 - rows;
    node.scrollTop = (newTop * height) / scale();
  }

  function select(index) {
    const before = selected;
    selected = index;
    for (const one of [before, index]) {
      const row = shown.get(one);
      if (row) fillRow(one, row);
    }
    if (index >= 0) scrollTo(index);
    draw();
  }

  node.addEventListener("scroll", schedule, { passive: true });
  node.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(viewHeight() / rowHeight()) - 1);
    const wanted = {
      ArrowDown: selected + 1,
      ArrowUp: Math.max(0, selected - 1),
      PageDown: selected + page,
      PageUp: selected - page,
      Home: event.ctrlKey || !onKey ? 0 : undefined,
      End: event.ctrlKey || !onKey ? count - 1 : undefined,
    }[event.key];
    if (wanted !== undefined && count) {
      event.preventDefault();
      const index = Math.max(0, Math.min(count - 1, wanted));
      select(index);
      onSelect(index);
    } else if (event.key === "Enter" && selected >= 0) {
      event.preventDefault();
      onOpen(selected);
    } else if (onKey?.(event)) {
      event.preventDefault();
    }
  });
  node.addEventListener("click", (event) => {
    const row = /** @type {Element} */ (event.target).closest("[role=option]");
    if (!row) return;
    const index = Number(row.id.slice(id.length + 1));
    select(index);
    onOpen(index);
  });
  const observer = new ResizeObserver(redraw);
  observer.observe(node);
  signal.addEventListener("abort", () => {
    observer.disconnect();
    clearTimeout(timer);
    cancelAnimationFrame(frame);
  });

  return {
    node,
    redraw,
    fill,
    select,
    /** Change the number of rows, and draw them anew. @param {number} newCount */
    setCount(newCount) {
      count = newCount;
      redraw();
    },
    selected: () => selected,
    /** The number of rows that are elements now. */
    elements: () => shown.size,
  };
}
