/**
 * A line chart in SVG, with a legend, a readout that follows the pointer or the arrow keys, and a table of its data.
 *
 * @typedef {{name: string, points: [number, number][], color: number, dashed?: boolean}} Series
 */

import { h, replace, svg, uniqueId } from "../dom.js";
import { bits, decimal } from "../format.js";
import { scrollable, table } from "./table.js";

const HEIGHT = 280;
const LEFT = 46;
const RIGHT = 14;
const TOP = 14;
const BOTTOM = 40;
const MIN_Y_RATIO = 1.4; // of the top of the y range to its bottom, so that noise does not look like a trend
const SKIP_FIRST_ABOVE = 3; // points of a series
const MAX_POINTS_WITH_DOTS = 40;

/**
 * Return a chart as wide as its container; `update` draws new data.
 *
 * @param {{label: string, xLabel: string, yLabel: string, formatX?: (x: number) => string, xSteps?: number[],
 *   isFirstShown?: boolean}} options `xSteps` are the allowed distances between ticks of the x axis, round numbers by
 *   default; `isFirstShown`: the y axis has room for the first point of a long series, too
 */
export function lineChart({ label, xLabel, yLabel, formatX = (x) => decimal(x), xSteps, isFirstShown = false }) {
  /** @type {Series[]} */ let series = [];
  let width = 640;
  /** @type {number | null} */ let selectedX = null;
  const xAxis = { label: xLabel, format: formatX, steps: xSteps };

  const graphic = svg("svg.chart", { tabindex: 0, role: "img", height: HEIGHT });
  const readout = h("p.readout.small.number", { "aria-live": "polite" });
  const legend = h("ul.legend.small");
  const data = scrollable(`${label}, table`);
  const details = h("details.small", { ontoggle: () => fillTable() }, h("summary", "Show as table"), data);
  const node = h("figure.stack.tight", { "aria-label": label }, legend, graphic, readout, details);

  const observer = new ResizeObserver(([entry]) => {
    if (Math.abs(entry.contentRect.width - width) > 1 && entry.contentRect.width > 0) {
      width = entry.contentRect.width;
      draw();
    }
  });
  observer.observe(node);

  graphic.addEventListener("pointermove", (event) => {
    const scale = makeScale();
    if (scale) select(nearest(scale.xOf(event.clientX - graphic.getBoundingClientRect().left)));
  });
  graphic.addEventListener("pointerleave", () => select(null));
  graphic.addEventListener("blur", () => select(null));
  graphic.addEventListener("keydown", (event) => {
    const xs = allX();
    const index = selectedX === null ? -1 : xs.indexOf(selectedX);
    const newIndex = {
      ArrowRight: Math.min(index + 1, xs.length - 1),
      ArrowLeft: index < 0 ? xs.length - 1 : Math.max(index - 1, 0),
      Home: 0,
      End: xs.length - 1,
    }[event.key];
    if (newIndex === undefined || !xs.length) return;
    event.preventDefault();
    select(xs[newIndex]);
  });

  function allX() {
    return [...new Set(series.flatMap((line) => line.points.map(([x]) => x)))].sort((a, b) => a - b);
  }

  function nearest(x) {
    const [first, ...rest] = allX();
    return rest.reduce((best, one) => (Math.abs(one - x) < Math.abs(best - x) ? one : best), first);
  }

  function makeScale() {
    const points = series.flatMap((line) => line.points);
    if (!points.length) return null;
    const xs = points.map(([x]) => x);
    const x0 = Math.min(...xs);
    const x1 = xs.every((x) => x === x0) ? x0 + 1 : Math.max(...xs);
    const [y0, y1] = yRange(series, isFirstShown);
    const [innerWidth, innerHeight] = [width - LEFT - RIGHT, HEIGHT - TOP - BOTTOM];
    return {
      x0,
      x1,
      y0,
      y1,
      x: (value) => LEFT + ((value - x0) / (x1 - x0)) * innerWidth,
      y: (value) => TOP + ((y1 - value) / (y1 - y0)) * innerHeight,
      xOf: (pixel) => x0 + ((pixel - LEFT) / innerWidth) * (x1 - x0),
    };
  }

  function draw() {
    const scale = makeScale();
    graphic.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    graphic.setAttribute("aria-label", summary());
    replace(
      legend,
      series.map((line) => h("li", lineSwatch(line), line.name)),
    );
    if (details.open) fillTable();
    if (!scale) {
      replace(graphic, svg("text.tick", { x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "No data yet"));
      return;
    }
    const clip = uniqueId("clip");
    const bottom = HEIGHT - BOTTOM;
    replace(
      graphic,
      svg(
        "clipPath",
        { id: clip },
        svg("rect", { x: LEFT, y: TOP - 2, width: Math.max(0, width - LEFT - RIGHT + 6), height: bottom - TOP + 4 }),
      ),
      ticks(scale.y0, scale.y1, 5).map((y) => [
        svg("line.grid", { x1: LEFT, x2: width - RIGHT, y1: scale.y(y), y2: scale.y(y) }),
        svg("text.tick", { x: LEFT - 8, y: scale.y(y) + 4, "text-anchor": "end" }, decimal(y)),
      ]),
      ticks(scale.x0, scale.x1, Math.max(2, width / 110), xAxis.steps).map((x) =>
        svg("text.tick", { x: scale.x(x), y: bottom + 18, "text-anchor": "middle" }, xAxis.format(x)),
      ),
      svg("line.axis", { x1: LEFT, x2: width - RIGHT, y1: bottom, y2: bottom }),
      svg("text.tick", { x: width - RIGHT, y: HEIGHT - 4, "text-anchor": "end" }, xAxis.label),
      svg(
        "g",
        { "clip-path": `url(#${clip})` },
        series.map((line) => [
          svg("path", {
            class: `line series-${line.color}${line.dashed ? " dashed" : ""}`,
            d: line.points
              .map(([x, y], i) => `${i ? "L" : "M"}${scale.x(x).toFixed(1)} ${scale.y(y).toFixed(1)}`)
              .join(""),
          }),
          line.points.length < MAX_POINTS_WITH_DOTS &&
            line.points.map(([x, y]) =>
              svg("circle", { class: `dot series-${line.color}`, cx: scale.x(x), cy: scale.y(y), r: 2.6 }),
            ),
        ]),
      ),
      svg("g.cursor"),
    );
    select(selectedX);
  }

  function select(x) {
    selectedX = x;
    const cursor = graphic.querySelector(".cursor");
    const scale = makeScale();
    if (!cursor || !scale) return;
    if (x === null) {
      replace(cursor);
      readout.textContent = summary();
      return;
    }
    const found = series.flatMap((line) => line.points.filter(([one]) => one === x).map(([, y]) => ({ line, y })));
    replace(
      cursor,
      svg("line.rule", { x1: scale.x(x), x2: scale.x(x), y1: TOP, y2: HEIGHT - BOTTOM }),
      found.map(
        ({ line, y }) =>
          scale.y(y) >= TOP - 2 &&
          svg("circle", { class: `dot series-${line.color}`, cx: scale.x(x), cy: scale.y(y), r: 4.5 }),
      ),
    );
    readout.textContent = `${xAxis.label} ${xAxis.format(x)}: ${found.map(({ line, y }) => `${line.name} ${bits(y)}`).join(", ")}`;
  }

  function summary() {
    const last = series
      .filter((line) => line.points.length)
      .map((line) => `${line.name} ${bits(line.points.at(-1)?.[1])}`);
    return last.length ? `${yLabel}, latest: ${last.join(", ")}` : `${yLabel}: no data yet`;
  }

  function fillTable() {
    if (!details.open) return;
    const value = (line, x) => {
      const found = line.points.find(([one]) => one === x);
      return found ? bits(found[1]) : "";
    };
    replace(
      data,
      table(
        [xAxis.label, ...series.map((line) => line.name)],
        allX().map((x) => [xAxis.format(x), ...series.map((line) => value(line, x))]),
      ),
    );
  }

  return {
    node,
    /** @param {Series[]} newSeries @param {{xLabel: string, formatX: (x: number) => string, xSteps?: number[]}} [axis] */
    update(newSeries, axis) {
      series = newSeries;
      if (axis) Object.assign(xAxis, { label: axis.xLabel, format: axis.formatX, steps: axis.xSteps });
      if (selectedX !== null && !allX().includes(selectedX)) selectedX = null;
      draw();
    },
  };
}

/**
 * Return the y range. Unless `isFirstShown`, the first point of a series with more than three is left out: an untrained
 * network costs so many bits that the rest of the curve would look flat.
 *
 * @returns {[number, number]}
 */
function yRange(series, isFirstShown) {
  const ys = series
    .flatMap((line) =>
      line.points.slice(!isFirstShown && line.points.length > SKIP_FIRST_ABOVE ? 1 : 0).map(([, y]) => y),
    )
    .filter(Number.isFinite);
  const low = Math.min(...ys);
  const high = Math.max(...ys, low * MIN_Y_RATIO);
  const margin = (high - low) * 0.08 + 0.01;
  return [Math.max(0, low - margin), high + margin];
}

/** Return about `number` round values from low to high, at one of the `steps` (or a round distance) from each other. */
function ticks(low, high, number, steps) {
  if (!(high > low)) return [low];
  const rough = (high - low) / Math.max(1, number);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step =
    steps?.find((one) => one >= rough) ?? [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough);
  const values = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1)
    values.push(Number((i * step).toPrecision(12)));
  return values;
}

function lineSwatch(line) {
  return svg(
    "svg.swatch",
    { width: 26, height: 10, "aria-hidden": "true" },
    svg("line", { class: `line series-${line.color}${line.dashed ? " dashed" : ""}`, x1: 1, x2: 25, y1: 5, y2: 5 }),
  );
}
