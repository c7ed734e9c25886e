/** The texts that a network generates at each evaluation while it trains. */

import { h, replace } from "../dom.js";
import { bits, count, integer } from "../format.js";
import { placeholders } from "./marked-line.js";

/**
 * Draw the newest sample, and the earlier ones folded.
 *
 * @param {HTMLElement} container
 * @param {{step: number, text: string}[]} samples oldest first
 * @param {any[]} metrics
 */
export function drawSamples(container, samples, metrics) {
  if (!samples.length) {
    replace(
      container,
      h("p.muted", "The network generates a sample at each evaluation. The first ones are gibberish."),
    );
    return;
  }
  const isOpen = Boolean(container.querySelector("details")?.open);
  const entry = ({ step, text }) =>
    h("li", h("span.muted.small.number", caption(step, metrics)), h("div.sample", placeholders(Array.from(text))));
  const [newest, ...earlier] = samples.toReversed();
  replace(
    container,
    h("ol.sample-list", entry(newest)),
    earlier.length > 0 &&
      h(
        "details",
        { open: isOpen },
        h("summary", count(earlier.length, "earlier sample")),
        h("ol.sample-list", earlier.map(entry)),
      ),
  );
}

function caption(step, metrics) {
  const heldOut = metrics.find((point) => point.step === step)?.validation_bits_per_character;
  return `Step ${integer(step)} · held-out ${bits(heldOut)} bits per character`;
}
