/**
 * A line chart as SVG: axes, a legend, a readout under the pointer or the arrow keys, and the same as a table.
 *
 * @typedef {{name: string, points: [number, number][], color: number, dashed?: boolean}} Series
 * @typedef {{name: string, y: number}} Mark a horizontal line
 */

import { freshId, h, replace, svg } from "../dom.js";
import { bits, decimal } from "../format.js";

const HEIGHT = 280;
const LEFT = 46;
const RIGHT = 14;
const TOP = 14;
const BOTTOM = 40;
const NARROWEST = 1.4; // the least that the top of the y range is of its bottom

/**
 * Return a chart; `update` draws it anew. Its width is that of its place.
 *
 * @param {{label: string, xLabel: string, yLabel: string, formatX?: (x: number) => string, xSteps?: number[]}} options
 *   `xSteps` are the distances that marks on the x axis may have; left out, round ones
 */
export function lineChart({ label, xLabel, yLabel, formatX = (x) => decimal(x), xSteps }) {
  /** @type {Series[]} */ let series = [];
  /** @type {Mark[]} */ let marks = [];
  let width = 640;
  /** @type {number | null} */ let at = null; // the x that is read
  const names = { x: xLabel, formatX, xSteps };

  const picture = svg("svg", { class: "chart", tabindex: 0, role: "img", height: HEIGHT });
  const readout = h("p", { class: "readout small number", "aria-live": "polite" });
  const legend = h("ul", { class: "legend small" });
  const table = h("table");
  const details = h(
    "details",
    { class: "small", ontoggle: () => fillTable() },
    h("summary", {}, "As a table"),
    h("div", { class: "scrolls", tabindex: 0, role: "region", "aria-label": `${label}, as a table` }, table),
  );
  const node = h("figure", { class: "stack tight", "aria-label": label }, legend, picture, readout, details);

  const watcher = new ResizeObserver(([entry]) => {
    if (Math.abs(entry.contentRect.width - width) > 1 && entry.contentRect.width > 0) {
      width = entry.contentRect.width;
      draw();
    }
  });
  watcher.observe(node);

  picture.addEventListener("pointermove", (event) => {
    const scale = scales();
    if (scale) read(nearest(scale.xOf(event.clientX - picture.getBoundingClientRect().left)));
  });
  picture.addEventListener("pointerleave", () => read(null));
  picture.addEventListener("blur", () => read(null));
  picture.addEventListener("keydown", (event) => {
    const xs = allX();
    const index = at === null ? -1 : xs.indexOf(at);
    const to = {
      ArrowRight: Math.min(index + 1, xs.length - 1),
      ArrowLeft: index < 0 ? xs.length - 1 : Math.max(index - 1, 0),
      Home: 0,
      End: xs.length - 1,
    }[event.key];
    if (to === undefined || !xs.length) return;
    event.preventDefault();
    read(xs[to]);
  });

  function allX() {
    return [...new Set(series.flatMap((line) => line.points.map(([x]) => x)))].sort((a, b) => a - b);
  }

  function nearest(x) {
    const [first, ...others] = allX();
    return others.reduce((best, one) => (Math.abs(one - x) < Math.abs(best - x) ? one : best), first);
  }

  function scales() {
    const points = series.flatMap((line) => line.points);
    if (!points.length) return null;
    const xs = points.map(([x]) => x);
    const x0 = Math.min(...xs);
    const x1 = xs.every((x) => x === x0) ? x0 + 1 : Math.max(...xs);
    const [y0, y1] = spread(series, marks);
    const [w, hgt] = [width - LEFT - RIGHT, HEIGHT - TOP - BOTTOM];
    return {
      x0,
      x1,
      y0,
      y1,
      x: (value) => LEFT + ((value - x0) / (x1 - x0)) * w,
      y: (value) => TOP + ((y1 - value) / (y1 - y0)) * hgt,
      xOf: (pixel) => x0 + ((pixel - LEFT) / w) * (x1 - x0),
    };
  }

  function draw() {
    const scale = scales();
    picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    picture.setAttribute("aria-label", summary());
    replace(
      legend,
      series.map((line) => h("li", {}, sample(line), line.name)),
    );
    if (details.open) fillTable();
    if (!scale) {
      replace(
        picture,
        svg("text", { x: width / 2, y: HEIGHT / 2, "text-anchor": "middle", class: "tick" }, "nothing measured yet"),
      );
      return;
    }
    const clip = freshId("clip");
    const bottom = HEIGHT - BOTTOM;
    replace(
      picture,
      svg(
        "clipPath",
        { id: clip },
        svg("rect", { x: LEFT, y: TOP - 2, width: Math.max(0, width - LEFT - RIGHT + 6), height: bottom - TOP + 4 }),
      ),
      ticks(scale.y0, scale.y1, 5).map((y) => [
        svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: scale.y(y), y2: scale.y(y) }),
        svg("text", { class: "tick", x: LEFT - 8, y: scale.y(y) + 4, "text-anchor": "end" }, decimal(y)),
      ]),
      ticks(scale.x0, scale.x1, Math.max(2, width / 110), names.xSteps).map((x) =>
        svg("text", { class: "tick", x: scale.x(x), y: bottom + 18, "text-anchor": "middle" }, names.formatX(x)),
      ),
      svg("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: bottom, y2: bottom }),
      svg("text", { class: "tick", x: width - RIGHT, y: HEIGHT - 4, "text-anchor": "end" }, names.x),
      svg(
        "g",
        { "clip-path": `url(#${clip})` },
        marks.map((mark) => [
          svg("line", { class: "mark", x1: LEFT, x2: width - RIGHT, y1: scale.y(mark.y), y2: scale.y(mark.y) }),
          svg("text", { class: "tick", x: width - RIGHT - 2, y: scale.y(mark.y) - 5, "text-anchor": "end" }, mark.name),
        ]),
        series.map((line) => [
          svg("path", {
            class: `line series-${line.color}${line.dashed ? " dashed" : ""}`,
            d: line.points
              .map(([x, y], i) => `${i ? "L" : "M"}${scale.x(x).toFixed(1)} ${scale.y(y).toFixed(1)}`)
              .join(""),
          }),
          line.points.length < 40 &&
            line.points.map(([x, y]) =>
              svg("circle", { class: `dot series-${line.color}`, cx: scale.x(x), cy: scale.y(y), r: 2.6 }),
            ),
        ]),
      ),
      svg("g", { class: "reader" }),
    );
    read(at);
  }

  function read(x) {
    at = x;
    const reader = picture.querySelector(".reader");
    const scale = scales();
    if (!reader || !scale) return;
    if (x === null) {
      replace(reader);
      readout.textContent = summary();
      return;
    }
    const found = series.flatMap((line) => line.points.filter(([one]) => one === x).map(([, y]) => ({ line, y })));
    replace(
      reader,
      svg("line", { class: "rule", x1: scale.x(x), x2: scale.x(x), y1: TOP, y2: HEIGHT - BOTTOM }),
      found.map(
        ({ line, y }) =>
          scale.y(y) >= TOP - 2 &&
          svg("circle", { class: `dot series-${line.color}`, cx: scale.x(x), cy: scale.y(y), r: 4.5 }),
      ),
    );
    readout.textContent = `${names.x} ${names.formatX(x)}: ${found.map(({ line, y }) => `${line.name} ${bits(y)}`).join(", ")}`;
  }

  function summary() {
    const last = series
      .filter((line) => line.points.length)
      .map((line) => `${line.name} ${bits(line.points.at(-1)?.[1])}`);
    return last.length ? `${yLabel}, newest: ${last.join(", ")}` : `${yLabel}: nothing measured yet`;
  }

  function fillTable() {
    if (!details.open) return;
    const value = (line, x) => line.points.find(([one]) => one === x)?.[1];
    replace(
      table,
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { scope: "col" }, names.x),
          series.map((line) => h("th", { scope: "col" }, line.name)),
        ),
      ),
      h(
        "tbody",
        {},
        allX().map((x) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, names.formatX(x)),
            series.map((line) =>
              h("td", { class: "number" }, value(line, x) === undefined ? "" : bits(value(line, x))),
            ),
          ),
        ),
      ),
    );
  }

  return {
    node,
    /** @param {Series[]} newSeries @param {Mark[]} [newMarks] @param {{xLabel?: string, formatX?: any, xSteps?: number[]}} [axis] */
    update(newSeries, newMarks = [], axis = {}) {
      series = newSeries;
      marks = newMarks;
      names.x = axis.xLabel ?? names.x;
      Object.assign(names, "formatX" in axis && { formatX: axis.formatX, xSteps: axis.xSteps });
      if (at !== null && !allX().includes(at)) at = null;
      draw();
    },
  };
}

/**
 * Return the y range. The first point of a line that has more than three is left out: an untrained network costs
 * so much more than a trained one that all the rest would be flat beside it. And a range is not so narrow that
 * noise looks like news.
 */
function spread(series, marks) {
  const ys = series.flatMap((line) => line.points.slice(line.points.length > 3 ? 1 : 0).map(([, y]) => y));
  const all = [...ys, ...marks.map((mark) => mark.y)].filter(Number.isFinite);
  const low = Math.min(...all);
  const high = Math.max(...all, low * NARROWEST);
  const margin = (high - low) * 0.08 + 0.01;
  return [Math.max(0, low - margin), high + margin];
}

/** Round numbers between two, about so many, at one of the `steps` from each other. */
export function ticks(low, high, about, steps) {
  if (!(high > low)) return [low];
  const rough = (high - low) / Math.max(1, about);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step =
    steps?.find((one) => one >= rough) ?? [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1)
    found.push(Number((i * step).toPrecision(12)));
  return found;
}

function sample(line) {
  return svg(
    "svg",
    { width: 26, height: 10, "aria-hidden": "true", class: "swatch" },
    svg("line", { class: `line series-${line.color}${line.dashed ? " dashed" : ""}`, x1: 1, x2: 25, y1: 5, y2: 5 }),
  );
}
