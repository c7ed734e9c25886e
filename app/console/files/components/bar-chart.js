/** Horizontal bars: a probability distribution over characters, or a comparison of figures. */

import { h } from "../dom.js";
import { characterName, percent, visibleCharacter } from "../format.js";
import { placeholders } from "./marked-line.js";

const MIN_WIDTH_PERCENT = 0.4; // so that a bar of nearly zero can be seen

/**
 * Return the distribution of the next character, the most likely first.
 *
 * @param {{character: string, probability: number}[]} candidates
 * @param {{onChoose?: (character: string) => void}} [options] with `onChoose` each row is a button
 */
export function characterDistribution(candidates, { onChoose } = {}) {
  return h(
    "ol.bars.characters",
    candidates.map(({ character, probability }) => {
      const content = [
        h("span.glyph.mono", { "aria-hidden": "true" }, placeholders([visibleCharacter(character)])),
        bar(probability),
        h("span.number.small", { "aria-hidden": "true" }, percent(probability)),
        h("span.visually-hidden", `${characterName(character)}, ${percent(probability)}`),
      ];
      return h(
        "li",
        onChoose
          ? h("button.bar-row", { title: "Insert", onclick: () => onChoose(character) }, content)
          : h("div.bar-row", content),
      );
    }),
  );
}

/**
 * Return figures as bars, scaled to the largest.
 *
 * @param {{name: string, value: number, label: string, isHighlighted?: boolean}[]} rows `label` is the value as text
 */
export function comparisonBars(rows) {
  const max = Math.max(...rows.map((row) => row.value));
  return h(
    "ul.bars",
    rows.map(({ name, value, label, isHighlighted }) =>
      h(
        "li",
        { class: isHighlighted ? "highlighted" : "" },
        h("span.row.apart", h("span", name), h("span.number", label)),
        bar(value / max),
      ),
    ),
  );
}

function bar(share) {
  const fill = h("span.fill");
  fill.style.width = `${Math.max(MIN_WIDTH_PERCENT, Math.min(100, share * 100))}%`;
  return h("span.track", { "aria-hidden": "true" }, fill);
}
