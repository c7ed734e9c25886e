/** The masks that are suggested for a log: which are applied, and what one of its lines looks like then. */

import { h, replace } from "../dom.js";
import { whole } from "../format.js";

/**
 * Return a fieldset of checkboxes, which is hidden where the text is no log.
 *
 * @returns {{node: HTMLElement, show: (corpus: any) => void, suggested: () => string[],
 *   chosen: () => string[] | undefined}} `chosen` returns undefined where the suggestion was not changed
 */
export function masksField() {
  const boxes = h("div", { class: "choices" });
  const after = h("code", {});
  const before = h("code", {});
  const node = h(
    "fieldset",
    { hidden: true, onchange: () => drawExample() },
    h("legend", {}, "Masks"),
    h(
      "p",
      { class: "muted small" },
      "This text is a log. Values that change from line to line are replaced by a placeholder, in the text and in" +
        " the lines that the model scores; otherwise it would find every later line anomalous. Completions contain" +
        " the placeholders. Uncheck all to train on the text as it is.",
    ),
    boxes,
    h(
      "dl",
      { class: "facts plain mask-example" },
      h("div", {}, h("dt", {}, "A line of the text"), h("dd", {}, before)),
      h("div", {}, h("dt", {}, "The same line, masked"), h("dd", {}, after)),
    ),
  );
  /** @type {any} */ let sample = null;
  /** @type {string[]} */ let suggestion = [];

  const checked = () => [...boxes.querySelectorAll("input:checked")].map((box) => box.value);
  const drawExample = () => replace(after, masked(sample, checked()));

  return {
    node,
    show(corpus) {
      sample = corpus?.log_sample ?? null;
      suggestion = sample ? corpus.suggested_masks : [];
      node.hidden = sample === null;
      if (!sample) return;
      const names = [...new Set([...suggestion, ...Object.keys(sample.matches)])];
      replace(
        boxes,
        names.map((name) =>
          h(
            "label",
            { class: "choice" },
            h("input", { type: "checkbox", name: "mask", value: name, checked: suggestion.includes(name) }),
            h("span", { class: "strong" }, name.replaceAll("_", " "), " ", sample.placeholders[name] ?? ""),
            h("span", { class: "muted small" }, reason(name, sample)),
          ),
        ),
      );
      replace(before, sample.example);
      drawExample();
    },
    suggested: () => suggestion,
    chosen() {
      if (!sample) return undefined;
      const now = checked();
      return now.length === suggestion.length && now.every((name) => suggestion.includes(name)) ? undefined : now;
    },
  };
}

function reason(name, sample) {
  const lines = sample.lines[name];
  return lines ? `Changes; in ${whole(lines)} of ${whole(sample.sampled_lines)} lines.` : "Not suggested.";
}

/** Return the example with the matches of these masks replaced: what begins first wins, then what is named first. */
function masked(sample, names) {
  const matches = names
    .flatMap((name) => (sample.matches[name] ?? []).map(([start, end]) => ({ name, start, end })))
    .sort((a, b) => a.start - b.start);
  // Places are code points, and a JavaScript string is made of UTF-16 units.
  const characters = [...sample.example];
  let text = "";
  let at = 0;
  for (const { name, start, end } of matches) {
    if (start < at) continue;
    text += characters.slice(at, start).join("") + sample.placeholders[name];
    at = end;
  }
  return text + characters.slice(at).join("");
}
