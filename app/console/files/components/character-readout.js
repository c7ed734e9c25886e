/** What is known about one character of a scored line: its surprisal, and what the model expected there. */

import { h, replace } from "../dom.js";
import { bits, characterName, integer, percent, visibleCharacter } from "../format.js";
import { characterDistribution } from "./bar-chart.js";

/** Return the readout, and `show(line, index)` that fills it; `line` is a Detail with the `number` of its line. */
export function characterReadout() {
  const node = h("div.stack.tight", { "aria-live": "polite" }, hint());

  function show(line, index) {
    const expected = line.expected?.[line.offsets[index]];
    replace(
      node,
      surprisalOf(line, index),
      expected && [h("p.small.muted", "Expected here:"), characterDistribution(expected)],
    );
  }

  return { node, show, clear: () => replace(node, hint()) };
}

function hint() {
  return h(
    "p.muted",
    "Point at a character, or move to it with the left and right arrow keys, to see what the model expected in its place.",
  );
}

function surprisalOf(line, index) {
  const character = line.characters[index];
  return [
    h("h3", "Line ", integer(line.number), ", character ", integer(index + 1)),
    h(
      "p",
      h("span.glyph.mono", { "aria-hidden": "true" }, visibleCharacter(character)),
      h("span.visually-hidden", characterName(character)),
      ` surprisal ${bits(line.bits[index])} bits, `,
      h("span.muted", `probability ${probabilityText(line.bits[index])}`),
    ),
  ];
}

/** "87 %", or "1 in 4,096" for what is less likely than one in a hundred. */
function probabilityText(surprisalBits) {
  const probability = 2 ** -surprisalBits;
  if (probability >= 0.01) return percent(probability);
  return `1 in ${integer(Math.round(2 ** Math.min(40, surprisalBits)))}`;
}
