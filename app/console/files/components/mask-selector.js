/** The masks for a log: which ones to apply, and one of its lines with and without them. */

import { h, replace } from "../dom.js";
import { integer } from "../format.js";
import { placeholders } from "./marked-line.js";

/**
 * Return a fieldset of checkboxes, hidden unless the corpus is a log.
 *
 * @returns {{node: HTMLElement, show: (corpus: any) => void, suggested: () => string[],
 *   selected: () => string[] | undefined}} `selected` returns undefined if the suggestion was not changed
 */
export function maskSelector() {
  const checkboxes = h("div.choices");
  const original = h("code");
  const masked = h("code");
  const node = h(
    "fieldset",
    { hidden: true, onchange: () => drawExample() },
    h("legend", "Masks"),
    h(
      "p.muted.small",
      "This corpus is a log. Masks replace values that change from line to line by placeholders, in the corpus and in" +
        " the lines that the model scores. Without them every later line would look anomalous. Completions contain the" +
        " placeholders. Uncheck all to train on the unmasked text.",
    ),
    checkboxes,
    h(
      "dl.facts.plain.mask-example",
      h("div", h("dt", "Original line"), h("dd", original)),
      h("div", h("dt", "Masked line"), h("dd", masked)),
    ),
  );
  /** @type {any} */ let sample = null;
  /** @type {string[]} */ let suggestion = [];

  const checked = () => [...checkboxes.querySelectorAll("input:checked")].map((box) => box.value);
  const drawExample = () => replace(masked, placeholders(Array.from(applyMasks(sample, checked()))));

  return {
    node,
    show(corpus) {
      sample = corpus?.kind === "log" ? corpus.log_sample : null;
      suggestion = sample ? corpus.suggested_masks : [];
      node.hidden = sample === null;
      if (!sample) return;
      const names = [...new Set([...suggestion, ...Object.keys(sample.matches)])];
      replace(
        checkboxes,
        names.map((name) =>
          h(
            "label.choice",
            h("input", { type: "checkbox", name: "mask", value: name, checked: suggestion.includes(name) }),
            h("span.strong", name.replaceAll("_", " ")),
            h("span.muted.small", reasonFor(name, sample)),
          ),
        ),
      );
      replace(original, sample.example);
      drawExample();
    },
    suggested: () => suggestion,
    selected() {
      if (!sample) return undefined;
      const names = checked();
      const isSuggestion = names.length === suggestion.length && names.every((name) => suggestion.includes(name));
      return isSuggestion ? undefined : names;
    },
  };
}

function reasonFor(name, sample) {
  const lines = sample.lines[name];
  return lines ? `Changes in ${integer(lines)} of ${integer(sample.sampled_lines)} lines.` : "Not suggested.";
}

/** Return the example with the matches of these masks replaced. The earliest match wins, then the first mask. */
function applyMasks(sample, names) {
  const matches = names
    .flatMap((name) => (sample.matches[name] ?? []).map(([start, end]) => ({ name, start, end })))
    .sort((a, b) => a.start - b.start);
  const characters = [...sample.example]; // matches count code points, not UTF-16 units
  let text = "";
  let position = 0;
  for (const { name, start, end } of matches) {
    if (start < position) continue;
    text += characters.slice(position, start).join("") + sample.placeholders[name];
    position = end;
  }
  return text + characters.slice(position).join("");
}
