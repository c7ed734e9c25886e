/** Bits per character of a model and of simpler predictors, on the same held-out text. */

import { h } from "../dom.js";
import { bits, count } from "../format.js";
import { comparisonBars } from "./bar-chart.js";

const NAMES = {
  uniform: "Uniform (all characters equally likely)",
  unigram: "Unigram (character frequencies)",
  bigram: "Bigram (previous character)",
  xz: "xz compression",
  gzip: "gzip compression",
  ppmd: "PPMd compression",
};

/** Return nothing for a report without baselines. @param {any} report */
export function baselines(report) {
  const measured = Object.entries(report.baselines ?? {}).filter(([, value]) => Number.isFinite(value));
  if (!measured.length) return null;
  const rows = [
    { name: "This model", value: report.validation_bits_per_character, isHighlighted: true },
    ...measured.map(([key, value]) => ({ name: nameOf(key, report), value })),
  ];
  return h(
    "section.card.stack",
    h("h2", "Baselines"),
    h("p.muted.small", "Bits per character on the same held-out text; lower is better."),
    comparisonBars(rows.map((row) => ({ ...row, label: bits(row.value) })).sort((a, b) => a.value - b.value)),
  );
}

function nameOf(key, { ngram_order: order }) {
  if (key === "ngram") return `${order}-gram (previous ${count(order - 1, "character")})`;
  return NAMES[key] ?? key.replaceAll("_", " ");
}
