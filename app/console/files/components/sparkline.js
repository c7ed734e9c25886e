/** A small bar chart of counts, without axes; its text says what it shows. */

import { svg } from "../dom.js";
import { integer } from "../format.js";

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
    "svg",
    {
      class: "sparkline",
      role: "img",
      "aria-label": label,
      width: WIDTH,
      height: HEIGHT,
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    },
    svg("title", {}, label),
    svg("path", { d: `M0 ${HEIGHT - 0.5}H${WIDTH}`, class: "axis" }),
    svg("path", { d: bars.join("") }),
  );
}
