/** Bits per character of a model's mixture and of its experts, on the same held-out text. */

import { h } from "../dom.js";
import { bits } from "../format.js";
import { comparisonBars } from "./bar-chart.js";

const NAMES = {
  mixture: "Mixture (what the model predicts with)",
  lstm: "Network alone",
  ngram: "n-grams alone",
  without_matches: "Network and n-grams",
  without_adaptation: "Mixture without adaptation",
  early: "Early model, before training",
};

/** Return nothing for a report without experts, as of an older model. @param {any} report */
export function experts({ experts: measured, mixture_weights: weights, network }) {
  const isOfLecture = network && network.architecture !== "stateful_lstm"; // its own figure comes first
  const first = isOfLecture && Number.isFinite(measured?.mixture) ? "lstm" : "mixture";
  const rows = [...new Set([first, ...Object.keys(NAMES)])]
    .filter((key) => Number.isFinite(measured?.[key]))
    .map((key) => ({
      name: NAMES[key],
      value: measured[key],
      label: bits(measured[key]),
      isHighlighted: key === first,
    }));
  if (!rows.length) return null;
  return h(
    "section.card.stack",
    h("h2", "Experts"),
    h("p.muted.small", "Bits per character on the same held-out text; lower is better."),
    comparisonBars(rows),
    weights === "default" &&
      h(
        "p.muted.small",
        "The held-out text is too short to learn the weights of the experts; default weights are used.",
      ),
  );
}
