/** The rows of the list of lines: a line with its rarity, or the lines of one alert with their rarest one. */

import { h } from "../dom.js";
import { count, integer } from "../format.js";
import { heatRuns } from "./heat-map.js";

const CHARACTER_PX = 7.9; // of the font of the rows
const META_PX = 190; // number and rarity of a line
const CONTEXT_CHARACTERS = 24; // shown before the first anomalous span of a long line

export const NARROW = window.matchMedia("(max-width: 40rem)");

/** The height of a row in pixels. On a phone the text is below number and rarity. */
export function rowHeight() {
  return NARROW.matches ? 52 : 30;
}

/** How many characters of a line fit into a row. @param {number} widthPx of the list */
export function charactersPerRow(widthPx) {
  return Math.max(20, Math.floor((widthPx - (NARROW.matches ? 30 : META_PX)) / CHARACTER_PX));
}

/**
 * Return the children of a line's row.
 *
 * @param {object} line
 * @param {number} line.number
 * @param {string} line.score as text
 * @param {boolean} line.isFlagged
 * @param {string | undefined} line.text undefined: not read yet
 * @param {import('../log/details.js').Detail | undefined} line.detail
 * @param {number} capacity characters that fit
 */
export function lineRow({ number, score, isFlagged, text, detail }, capacity) {
  return {
    class: isFlagged ? "anomalous" : "",
    children: [
      h("span.line-number", integer(number)),
      " ",
      h("span.line-score", score, isFlagged && h("span.visually-hidden", ", flagged")),
      " ",
      logText({ text, detail, isFlagged }, capacity),
    ],
  };
}

function logText({ text, detail, isFlagged }, capacity) {
  return h("span.log-text", detail ? heat(detail, isFlagged, capacity) : (text?.slice(0, capacity) ?? "…"));
}

function heat({ characters, bits, spans }, isFlagged, capacity) {
  const first = isFlagged ? spans[0] : undefined;
  const isOutside = first && first.end > capacity;
  const from = isOutside ? Math.max(0, Math.min(first.start - CONTEXT_CHARACTERS, characters.length - capacity)) : 0;
  const to = Math.min(characters.length, from + capacity + 1);
  return [from > 0 && h("span.muted", "…"), heatRuns(characters, bits, isFlagged ? spans : [], from, to)];
}

/**
 * Return the children of a group's row.
 *
 * @param {{total: number, flagged: number, score: string, text: string | undefined,
 *   detail?: import('../log/details.js').Detail}} group the last three are of its most anomalous line
 * @param {number} capacity characters that fit
 */
export function groupRow({ total, flagged, score, text, detail }, capacity) {
  return {
    class: `group${flagged ? " anomalous" : ""}`,
    children: [
      h("span.line-number", count(total, "line")),
      " ",
      h("span.line-score", flagged ? `${integer(flagged)} flagged` : "none flagged"),
      " ",
      h("span.line-top.muted", { title: "The rarity of its most anomalous line" }, `rarest: ${score}`),
      " ",
      logText({ text, detail, isFlagged: true }, capacity),
    ],
  };
}
