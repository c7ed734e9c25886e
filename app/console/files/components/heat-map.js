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
      printable(character),
    ),
  );
}

/**
 * Return part of a text with one span per run of characters of one color, for rows that are drawn often.
 *
 * @param {string[]} characters
 * @param {number[]} bits
 * @param {{start: number, end: number}[]} spans
 * @param {number} from the first character
 * @param {number} to behind the last character
 */
export function heatRuns(characters, bits, spans, from, to) {
  const runs = [];
  let name = "";
  let text = "";
  for (let index = from; index <= to; index += 1) {
    const isSpan = spans.some(({ start, end }) => start <= index && index < end);
    const next = index < to ? `heat-${colorOf(bits[index] ?? 0)}${isSpan ? " flagged" : ""}` : "";
    if (next !== name && text) {
      runs.push(name === "heat-0" ? text : h("span", { class: name }, text));
      text = "";
    }
    name = next;
    if (index < to) text += printable(characters[index]);
  }
  return runs;
}

/** Return the legend of the colors. */
export function heatMapLegend() {
  return h(
    "p.row.small.heat-legend",
    h("span.muted", "Surprisal in bits"),
    [0, ...THRESHOLDS].map((bits, index) => h("span", { class: `heat-${index}` }, index ? `${bits}+` : "< 1")),
  );
}

function printable(character) {
  return character === " " || character === "\t" ? character : visibleCharacter(character);
}

/** Return the number of the color, 0 (expected) to 6 (very surprising). @param {number} bits */
function colorOf(bits) {
  const index = THRESHOLDS.findIndex((threshold) => bits < threshold);
  return index < 0 ? THRESHOLDS.length : index;
}
