/** Memorization: how much of what a model generates is copied from the training text. */

import { h } from "../dom.js";
import { count, integer, percent } from "../format.js";
import { placeholders } from "./marked-line.js";
import { scrollable, table } from "./table.js";

const MAX_PASSAGES = 4;

const VERDICTS = {
  novel:
    "The model generates new text: it copies no more from the training text than held-out text has in common with it.",
  repetitive:
    "Much of the generated text occurs in the training text, but so does the held-out text: the text repeats itself.",
  copies: "The model copies: more of its text occurs word for word in the training text than of the held-out text.",
};

/** Return nothing for a report without it. @param {any} report */
export function memorization({ memorization: measured }) {
  if (!measured) return null;
  return h(
    "section.card.stack",
    h("h2", "Memorization"),
    h("p", VERDICTS[measured.verdict] ?? measured.verdict),
    measured.withheld && h("p", withheldSentence(measured.withheld)),
    h("h3", "Generated and held-out text"),
    comparisonTable(measured),
    h("h3", "Longest copied passages"),
    passageList(measured.generated),
  );
}

function withheldSentence({ lines, probed, completed, suggested }) {
  const probes = `${integer(probed)} of the ${count(lines, "line")} that are too rare to be suggested`;
  return `Of ${probes}, the network completes ${percent(completed)} from their first halves; ${percent(suggested)} would be suggested.`;
}

function passageList(generated) {
  const passages = generated
    .flatMap((texts) => texts.passages ?? [])
    .sort((a, b) => b.length - a.length)
    .filter((one, index, all) => all.findIndex((other) => other.text.includes(one.text)) === index);
  if (!passages.length) return h("p.muted", "None.");
  return h(
    "ol.sample-list",
    passages
      .slice(0, MAX_PASSAGES)
      .map((passage) =>
        h(
          "li",
          h("span.muted.small.number", count(passage.length, "character")),
          h("div.sample", placeholders(Array.from(passage.text))),
        ),
      ),
  );
}

function comparisonTable({ generated, held_out: heldOut }) {
  const lengths = Object.keys(heldOut.novel);
  const row = (name, texts) => [
    name,
    percent(texts.copied),
    integer(texts.longest),
    ...lengths.map((n) => (n in texts.novel ? percent(texts.novel[n]) : "–")),
  ];
  return scrollable(
    "Copied and new text",
    table(
      ["Text", "Copied", "Longest passage", ...lengths.map((n) => `New ${n}-grams`)],
      [...generated.map((texts) => row(`Temperature ${texts.temperature}`, texts)), row("Held-out", heldOut)],
      { isSmall: true },
    ),
  );
}
