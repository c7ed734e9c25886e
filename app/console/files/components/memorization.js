/** Memorization: how much of what a model generates is copied from the training text. */

import { h } from "../dom.js";
import { count, integer, percent } from "../format.js";
import { placeholders } from "./marked-line.js";

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
    "section",
    { class: "card stack" },
    h("h2", {}, "Memorization"),
    h("p", {}, VERDICTS[measured.verdict] ?? measured.verdict),
    measured.withheld && h("p", {}, withheldSentence(measured.withheld)),
    h("h3", {}, "Generated and held-out text"),
    comparisonTable(measured),
    h("h3", {}, "Longest copied passages"),
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
  if (!passages.length) return h("p", { class: "muted" }, "None.");
  return h(
    "ol",
    { class: "sample-list" },
    passages
      .slice(0, MAX_PASSAGES)
      .map((passage) =>
        h(
          "li",
          {},
          h("span", { class: "muted small number" }, count(passage.length, "character")),
          h("div", { class: "sample" }, placeholders(Array.from(passage.text))),
        ),
      ),
  );
}

function comparisonTable({ generated, held_out: heldOut }) {
  const lengths = Object.keys(heldOut.novel);
  const headings = ["Text", "Copied", "Longest passage", ...lengths.map((n) => `New ${n}-grams`)];
  const row = (name, texts) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, name),
      h("td", { class: "number" }, percent(texts.copied)),
      h("td", { class: "number" }, integer(texts.longest)),
      lengths.map((n) => h("td", { class: "number" }, n in texts.novel ? percent(texts.novel[n]) : "–")),
    );
  return h(
    "div",
    { class: "scrollable", tabindex: 0, role: "region", "aria-label": "Copied and new text" },
    h(
      "table",
      { class: "small" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          headings.map((heading) => h("th", { scope: "col" }, heading)),
        ),
      ),
      h(
        "tbody",
        {},
        generated.map((texts) => row(`Temperature ${texts.temperature}`, texts)),
        row("Held-out", heldOut),
      ),
    ),
  );
}
