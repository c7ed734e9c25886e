/** From a text to a training job in two steps: choose a text, say how long, train. */

import { post } from "../api.js";
import { dropzone } from "./dropzone.js";
import { h, replace } from "../dom.js";
import { count, whole } from "../format.js";
import { failure, warning } from "./notice.js";
import { go } from "../router.js";

const BUDGETS = [
  [20, "20 seconds", "a first look"],
  [60, "One minute", "words"],
  [300, "Five minutes", "sentences"],
];

/** Return the way from a text to a model. @param {{signal: AbortSignal}} options */
export function starter({ signal }) {
  const node = h("div", { class: "stack" });
  replace(
    node,
    dropzone({
      signal,
      withSample: true,
      onDone: (corpus) =>
        replace(
          node,
          plan(corpus, () => starterAgain()),
        ),
    }),
  );

  function starterAgain() {
    node.replaceWith(starter({ signal }));
  }
  return node;
}

function plan(corpus, again) {
  const name = h("input", {
    id: "starter-name",
    type: "text",
    value: corpus.name ?? "my-text",
    required: true,
    spellcheck: "false",
    pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]{0,63}",
    autocomplete: "off",
    "aria-describedby": "starter-name-help",
  });
  const said = h("div", { "aria-live": "polite" });
  const button = h("button", { class: "button primary large", type: "submit" }, "Train");

  async function submit(event) {
    event.preventDefault();
    button.disabled = true;
    const seconds = Number(new FormData(event.target).get("budget"));
    try {
      const job = await post("/v1/jobs", { corpus: corpus.id, name: name.value, budget: { seconds } });
      go(`/jobs/${job.id}`);
    } catch (error) {
      button.disabled = false;
      replace(said, failure(error));
    }
  }

  const form = h(
    "form",
    { class: "card stack fades", onsubmit: submit, "aria-label": "Train on this text" },
    h(
      "div",
      { class: "row apart" },
      h(
        "p",
        {},
        h("span", { class: "strong" }, corpus.name ?? corpus.id),
        h(
          "span",
          { class: "muted" },
          ` · ${whole(corpus.characters)} characters, ${whole(corpus.distinct_characters)} distinct, ${count(corpus.lines, "line")}`,
        ),
      ),
      h("button", { type: "button", class: "link", onclick: again }, "Take another text"),
    ),
    h("div", { class: "sample" }, corpus.sample.slice(0, 220)),
    corpus.warnings.length > 0 && warning(corpus.warnings.map((one) => h("p", {}, one))),
    h(
      "fieldset",
      {},
      h("legend", {}, "How long to train"),
      h(
        "div",
        { class: "choices" },
        BUDGETS.map(([seconds, label, help]) =>
          h(
            "label",
            { class: "choice" },
            h("input", { type: "radio", name: "budget", value: seconds, checked: seconds === 60 }),
            h("span", { class: "strong" }, label),
            h("span", { class: "muted small" }, help),
          ),
        ),
      ),
    ),
    h(
      "div",
      { class: "row ends" },
      h("div", { class: "field grow" }, h("label", { for: "starter-name" }, "Name of the model"), name),
      button,
    ),
    h(
      "p",
      { class: "muted small", id: "starter-name-help" },
      "Letters, digits, “.”, “_” and “-”. ",
      h("a", { href: `#/train?corpus=${encodeURIComponent(corpus.id)}` }, "More to choose from"),
      ": network, recipe, seed.",
    ),
    said,
  );
  requestAnimationFrame(() => button.focus({ preventScroll: true }));
  return form;
}
