/** Bars that compare: a distribution over characters, or figures of several things. */

import { h } from "../dom.js";
import { percent, spoken, visible } from "../format.js";

/**
 * Return the distribution of a next character as bars, the likeliest first.
 *
 * @param {{character: string, probability: number}[]} candidates
 * @param {{onChoose?: (character: string) => void}} [options] makes each a button
 */
export function distribution(candidates, { onChoose } = {}) {
  return h(
    "ol",
    { class: "bars characters" },
    candidates.map(({ character, probability }) => {
      const label = `${spoken(character)}, ${percent(probability)}`;
      const content = [
        h("span", { class: "glyph mono", "aria-hidden": "true" }, visible(character)),
        bar(probability),
        h("span", { class: "number small", "aria-hidden": "true" }, percent(probability)),
        h("span", { class: "hidden-label" }, label),
      ];
      return h(
        "li",
        {},
        onChoose
          ? h(
              "button",
              { type: "button", class: "bar-row", title: "Write it", onclick: () => onChoose(character) },
              content,
            )
          : h("div", { class: "bar-row" }, content),
      );
    }),
  );
}

/**
 * Return figures as bars, each with its name and value, scaled to the largest.
 *
 * @param {{name: string, value: number, shown: string, isOurs?: boolean}[]} rows
 */
export function comparison(rows) {
  const most = Math.max(...rows.map((row) => row.value));
  return h(
    "ul",
    { class: "bars" },
    rows.map(({ name, value, shown, isOurs }) =>
      h(
        "li",
        { class: isOurs ? "ours" : "" },
        h("span", { class: "row apart" }, h("span", {}, name), h("span", { class: "number" }, shown)),
        bar(value / most),
      ),
    ),
  );
}

function bar(share) {
  const fill = h("span", { class: "fill" });
  fill.style.width = `${Math.max(0.4, Math.min(100, share * 100))}%`;
  return h("span", { class: "track", "aria-hidden": "true" }, fill);
}
