/** Texts coloured by surprise, a character a span, so that each can be asked about. */

import { h } from "../dom.js";
import { visible } from "../format.js";

const STEPS = [1, 2, 4, 6, 9, 13]; // bits at which the colours begin

/** Return 0 (expected) to 6 (a shock). @param {number} bits */
export function level(bits) {
  const above = STEPS.findIndex((step) => bits < step);
  return above < 0 ? STEPS.length : above;
}

/** The characters of a text as the service counts them: code points after NFC. @param {string} text */
export function characters(text) {
  return Array.from(text.normalize("NFC"));
}

/**
 * Return a text as spans with `data-at` from 0; those in a flagged span are underlined too.
 *
 * @param {string[]} text its characters
 * @param {number[]} bits of each
 * @param {{start: number, end: number}[]} [flagged]
 */
export function heat(text, bits, flagged = []) {
  const marked = new Set(flagged.flatMap(({ start, end }) => Array.from({ length: end - start }, (_, i) => start + i)));
  return text.map((character, index) =>
    h(
      "span",
      {
        "data-at": index,
        class: `heat-${level(bits[index] ?? 0)}${marked.has(index) ? " flagged" : ""}`,
      },
      /[\t ]/.test(character) ? character : visible(character),
    ),
  );
}

/** Return what the colours mean. */
export function legend() {
  return h(
    "p",
    { class: "row small heat-legend" },
    h("span", { class: "muted" }, "Surprise in bits"),
    [0, ...STEPS].map((bits, index) => h("span", { class: `heat-${index}` }, index ? `${bits}+` : "< 1")),
  );
}
