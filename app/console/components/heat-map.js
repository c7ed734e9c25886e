/** Text colored by surprisal. Each character is a `span` with its index, so that it can be pointed at. */

import { h } from "../dom.js";
import { visibleCharacter } from "../format.js";

const THRESHOLDS = [1, 2, 4, 6, 9, 13]; // bits at which the colors start

/**
 * Return one span per character, with its index in `data-index`.
 *
 * @param {string[]} characters
 * @param {number[]} bits surprisal of each character
 * @param {{start: number, end: number}[]} [spans] these are underlined
 */
export function heatMap(characters, bits, spans = []) {
  const underlined = new Set(
    spans.flatMap(({ start, end }) => Array.from({ length: end - start }, (_, i) => start + i)),
  );
  return characters.map((character, index) =>
    h(
      "span",
      {
        "data-index": index,
        class: `heat-${colorOf(bits[index] ?? 0)}${underlined.has(index) ? " flagged" : ""}`,
      },
      /[\t ]/.test(character) ? character : visibleCharacter(character),
    ),
  );
}

/** Return the legend of the colors. */
export function heatMapLegend() {
  return h(
    "p",
    { class: "row small heat-legend" },
    h("span", { class: "muted" }, "Surprisal in bits"),
    [0, ...THRESHOLDS].map((bits, index) => h("span", { class: `heat-${index}` }, index ? `${bits}+` : "< 1")),
  );
}

/** Return the number of the color, 0 (expected) to 6 (very surprising). @param {number} bits */
function colorOf(bits) {
  const index = THRESHOLDS.findIndex((threshold) => bits < threshold);
  return index < 0 ? THRESHOLDS.length : index;
}
