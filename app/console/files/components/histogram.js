/**
 * A histogram of lines over time or line numbers: all of them above, the flagged ones below. A range is chosen by
 * dragging, or with the arrow keys, Shift and Enter.
 */

import { h, replace, svg, uniqueId } from "../dom.js";
import { count, integer } from "../format.js";

const PX_PER_BIN = 6;
const MIN_BINS = 20;
const LABEL_PX = 15;
const TOTAL_PX = 44;
const FLAGGED_PX = 44;
const AXIS_PX = 18;
const GAP_PX = 4;
const HEIGHT = 2 * LABEL_PX + TOTAL_PX + FLAGGED_PX + AXIS_PX + GAP_PX;
const MIN_DRAG_PX = 4;

/**
 * Return a histogram.
 *
 * @param {object} options
 * @param {(bins: number) => {total: Uint32Array, flagged: Uint32Array, range: [number, number]} | null} options.counts
 * @param {(position: number, range: [number, number]) => string} options.format a position as text
 * @param {(range: [number, number] | null) => void} options.onZoom null: the whole log
 * @param {AbortSignal} options.signal
 */
export function histogram({ counts, format, onZoom, signal }) {
  const helpId = uniqueId("histogram-help");
  const graphic = svg("svg.chart.histogram", {
    tabindex: 0,
    role: "img",
    height: HEIGHT,
    "aria-describedby": helpId,
  });
  const readout = h("p.small.number", { "aria-live": "polite" });
  const reset = h("button.button.small", { hidden: true, onclick: () => zoom(null) }, "Reset zoom");
  const help = h(
    "p.small.muted",
    { id: helpId },
    "Drag to zoom. With the keyboard: arrow keys, with Shift to select, Enter to zoom, Esc to reset.",
  );
  const node = h(
    "figure.stack.tight",
    { "aria-label": "Lines over time" },
    graphic,
    h("div.row.apart", readout, reset),
    help,
  );
  let width = 640;
  let data = null;
  let label = "";
  let isZoomed = false;
  let cursor = -1; // the bin under the pointer or keyboard
  let anchor = -1; // where a selection began; -1: there is none
  let dragStartX = 0;

  const bins = () => Math.max(MIN_BINS, Math.floor(width / PX_PER_BIN));
  const binAt = (event) => {
    const x = event.clientX - graphic.getBoundingClientRect().left;
    return Math.max(0, Math.min(bins() - 1, Math.floor((x / width) * bins())));
  };
  const selection = () => (anchor < 0 ? null : [Math.min(anchor, cursor), Math.max(anchor, cursor)]);

  /** The positions from the start of one bin to the end of another. */
  function rangeOf(first, last) {
    const [from, to] = data.range;
    const perBin = (to - from) / bins();
    return /** @type {[number, number]} */ ([
      from + first * perBin,
      last === bins() - 1 ? to : from + (last + 1) * perBin,
    ]);
  }

  function zoom(range) {
    cursor = -1;
    anchor = -1;
    onZoom(range);
  }

  function countAndDraw() {
    data = counts(bins());
    node.hidden = data === null;
    reset.hidden = !isZoomed;
    draw();
  }

  function draw() {
    if (!data) return;
    const peaks = { total: max(data.total), flagged: max(data.flagged) };
    graphic.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    graphic.setAttribute(
      "aria-label",
      `${label}: ${count(sum(data.total), "line")}, ${integer(sum(data.flagged))} flagged`,
    );
    const flaggedTop = LABEL_PX + TOTAL_PX + GAP_PX;
    const chosen = selection() ?? (cursor < 0 ? null : [cursor, cursor]);
    replace(
      graphic,
      chosen && selectionBox(chosen),
      text(0, LABEL_PX - 4, `All lines (at most ${integer(peaks.total)} per bar)`),
      bars(data.total, peaks.total, LABEL_PX, TOTAL_PX, "bar-total"),
      text(0, flaggedTop + LABEL_PX - 4, `Flagged lines (at most ${integer(peaks.flagged)} per bar)`),
      bars(data.flagged, peaks.flagged, flaggedTop + LABEL_PX, FLAGGED_PX, "bar-flagged"),
      text(0, HEIGHT - 4, format(data.range[0], data.range)),
      text(width, HEIGHT - 4, format(data.range[1], data.range), "end"),
    );
    showReadout(chosen);
  }

  function selectionBox([first, last]) {
    const binPx = width / bins();
    return svg("rect.brush", {
      x: first * binPx,
      y: LABEL_PX,
      width: (last - first + 1) * binPx,
      height: HEIGHT - LABEL_PX - AXIS_PX,
    });
  }

  function bars(values, peak, top, height, name) {
    const binPx = width / bins();
    let path = `M0 ${top + height}H${width}`;
    for (const [bin, value] of values.entries()) {
      if (!value) continue;
      const barPx = Math.max(1.5, (value / peak) * height);
      path += `M${(bin * binPx).toFixed(2)} ${top + height}v${(-barPx).toFixed(2)}h${Math.max(1, binPx - 1).toFixed(2)}v${barPx.toFixed(2)}z`;
    }
    return svg("path", { class: name, d: path });
  }

  function showReadout(chosen) {
    if (!chosen) {
      readout.textContent = `${format(data.range[0], data.range)} to ${format(data.range[1], data.range)}`;
      return;
    }
    const [from, to] = rangeOf(chosen[0], chosen[1]);
    const total = sum(data.total.subarray(chosen[0], chosen[1] + 1));
    const flagged = sum(data.flagged.subarray(chosen[0], chosen[1] + 1));
    readout.textContent = `${format(from, data.range)} to ${format(to, data.range)}: ${count(total, "line")}, ${integer(flagged)} flagged`;
  }

  graphic.addEventListener("pointerdown", (event) => {
    if (!data || event.button !== 0) return;
    graphic.setPointerCapture(event.pointerId);
    cursor = binAt(event);
    anchor = cursor;
    dragStartX = event.clientX;
    draw();
  });
  graphic.addEventListener("pointermove", (event) => {
    if (!data) return;
    cursor = binAt(event);
    draw();
  });
  graphic.addEventListener("pointerup", (event) => {
    const chosen = selection();
    anchor = -1;
    if (chosen && Math.abs(event.clientX - dragStartX) >= MIN_DRAG_PX) zoom(rangeOf(chosen[0], chosen[1]));
    else draw();
  });
  graphic.addEventListener("pointercancel", clear);
  graphic.addEventListener("pointerleave", () => anchor < 0 && clear());
  graphic.addEventListener("blur", clear);
  graphic.addEventListener("keydown", (event) => {
    if (!data) return;
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (step !== undefined) {
      const start = cursor < 0 ? (step < 0 ? bins() : -1) : cursor;
      if (!event.shiftKey) anchor = -1;
      else if (anchor < 0) anchor = Math.max(0, cursor);
      cursor = Math.max(0, Math.min(bins() - 1, start + step));
      draw();
    } else if (event.key === "Enter" && cursor >= 0) {
      const [first, last] = selection() ?? [cursor, cursor];
      zoom(rangeOf(first, last));
    } else if (event.key === "Escape" && (isZoomed || cursor >= 0)) {
      if (cursor < 0) zoom(null);
      else clear();
    } else return;
    event.preventDefault();
  });

  function clear() {
    cursor = -1;
    anchor = -1;
    draw();
  }

  const observer = new ResizeObserver(([entry]) => {
    if (Math.abs(entry.contentRect.width - width) <= 1 || entry.contentRect.width <= 0) return;
    width = entry.contentRect.width;
    countAndDraw();
  });
  observer.observe(node);
  signal.addEventListener("abort", () => observer.disconnect());

  return {
    node,
    /** Count and draw anew. @param {{isZoomed: boolean, label: string}} state */
    update(state) {
      ({ isZoomed, label } = state);
      node.setAttribute("aria-label", label);
      countAndDraw();
    },
  };
}

function text(x, y, value, anchor = "start") {
  return svg("text.axis-label", { x, y, "text-anchor": anchor }, value);
}

function max(values) {
  return values.reduce((a, b) => Math.max(a, b), 0);
}

function sum(values) {
  return values.reduce((a, b) => a + b, 0);
}
