/** The panel about one character of a scored line: its surprisal, and what the model expected there. */

import { isAbort } from "../api.js";
import { h, replace } from "../dom.js";
import { bits, characterName, integer, percent, visibleCharacter } from "../format.js";
import { characterDistribution } from "./bar-chart.js";
import { errorBox } from "./notice.js";

const SETTLE_MS = 40; // while the pointer moves on, nothing is requested

/**
 * Return the panel, and `show(line, index)` that fills it.
 *
 * @param {{explain: (line: any, signal: AbortSignal) => Promise<void>, signal: AbortSignal}} options `explain` adds
 *   `expected` to a line
 */
export function characterReadout({ explain, signal }) {
  const node = h(
    "div",
    { class: "stack tight", "aria-live": "polite" },
    h("h2", {}, "Expected characters"),
    h(
      "p",
      { class: "muted" },
      "Point at a character, or move to it with the arrow keys, to see what the model expected in its place.",
    ),
  );
  let timer = 0;
  let pending = new AbortController();

  function show(line, index) {
    clearTimeout(timer);
    pending.abort();
    replace(node, surprisalOf(line, index));
    timer = setTimeout(async () => {
      pending = new AbortController();
      try {
        await explain(line, pending.signal);
        replace(
          node,
          surprisalOf(line, index),
          h("p", { class: "small muted" }, "Expected here:"),
          characterDistribution(line.expected[line.offsets[index]]),
        );
      } catch (error) {
        if (!isAbort(error) && !signal.aborted) replace(node, surprisalOf(line, index), errorBox(error));
      }
    }, SETTLE_MS);
  }

  return { node, show };
}

function surprisalOf(line, index) {
  const character = line.characters[index];
  const span = (line.spans ?? []).find(({ start, end }) => start <= index && index < end);
  return [
    h("h2", {}, "Line ", integer(line.number), ", character ", integer(index + 1)),
    h(
      "p",
      {},
      h("span", { class: "glyph mono", "aria-hidden": "true" }, visibleCharacter(character)),
      h("span", { class: "visually-hidden" }, characterName(character)),
      ` surprisal ${bits(line.bits[index])} bits, `,
      h("span", { class: "muted" }, `probability ${probabilityText(line.bits[index])}`),
    ),
    span?.expected &&
      h(
        "p",
        {},
        "Found ",
        h("code", {}, line.characters.slice(span.start, span.end).join("")),
        ", expected ",
        h("code", {}, span.expected),
        ".",
      ),
  ];
}

/** "87 %", or "1 in 4,096" for what is less likely than one in a hundred. */
function probabilityText(surprisalBits) {
  const probability = 2 ** -surprisalBits;
  if (probability >= 0.01) return percent(probability);
  return `1 in ${integer(Math.round(2 ** Math.min(40, surprisalBits)))}`;
}
