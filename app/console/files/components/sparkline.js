/** A small bar chart of counts, without axes; its text says what it shows. */

import { svg } from "../dom.js";
import { bits, integer } from "../format.js";

const WIDTH = 144;
const HEIGHT = 26;

/** @param {number[]} counts per interval @param {number} intervalSeconds */
export function sparkline(counts, intervalSeconds) {
  const peak = Math.max(1, ...counts);
  const barPx = WIDTH / Math.max(counts.length, 12);
  const bars = counts.map((count, index) => {
    const height = count ? Math.max(2, (count / peak) * HEIGHT) : 0;
    return `M${(index * barPx).toFixed(1)} ${HEIGHT}v${-height.toFixed(1)}h${Math.max(1, barPx - 1).toFixed(1)}V${HEIGHT}z`;
  });
  const minutes = intervalSeconds / 60;
  const label = `Lines per ${minutes === 1 ? "minute" : `${integer(minutes)} minutes`}, up to ${integer(peak)}`;
  return svg(
    "svg.sparkline",
    {
      role: "img",
      "aria-label": label,
      width: WIDTH,
      height: HEIGHT,
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    },
    svg("title", label),
    svg("path.axis", { d: `M0 ${HEIGHT - 0.5}H${WIDTH}` }),
    svg("path", { d: bars.join("") }),
  );
}

const CURVE_WIDTH = 240;
const CURVE_HEIGHT = 56;

/** A small learning curve, without axes. @param {[number, number][]} points seconds and bits per character */
export function smallCurve(points) {
  const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
  const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const place = (value, from, to, size) => (to > from ? ((value - from) / (to - from)) * size : size / 2);
  const path = points
    .map(
      ([x, y]) =>
        `${place(x, left, right, CURVE_WIDTH).toFixed(1)} ${(2 + place(high - y, 0, high - low, CURVE_HEIGHT - 4)).toFixed(1)}`,
    )
    .join("L");
  return svg(
    "svg.small-curve",
    {
      role: "img",
      "aria-label": `Held-out bits per character, from ${bits(ys[0])} to ${bits(ys.at(-1))}`,
      viewBox: `0 0 ${CURVE_WIDTH} ${CURVE_HEIGHT}`,
      preserveAspectRatio: "none",
    },
    svg("path.line.series-0", { d: `M${path}` }),
  );
}
