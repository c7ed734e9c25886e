/** Suggestions for a field, as a page gets them: the list under the field, and figures of each suggestion. */

import { apiKey } from "../api-key.js";
import { field, select } from "../components/form-fields.js";
import { loadModels, missingModel, modelSelect, viewWithoutModel } from "../components/model-picker.js";
import { errorBox } from "../components/notice.js";
import { table } from "../components/table.js";
import { h, replace } from "../dom.js";
import { decimal, integer, percent } from "../format.js";

/** Values of the API's `constrain` and `typos`; the empty ones leave them out. */
const SOURCES = [
  ["", "Default"],
  ["lines", "Lines of the corpus"],
  ["prefer", "Lines and generated"],
  ["none", "Generated"],
];
const TYPOS = [
  ["", "By length"],
  ["0", "None"],
  ["1", "One"],
  ["2", "Two"],
];

/** @param {import('../router.js').Page} page */
export async function suggestionsView(page) {
  const { models, selected, missing } = await loadModels(page);
  if (!models.length)
    return viewWithoutModel("Suggestions", "Suggestions complete a field with lines of your own list.");

  const input = h("input", {
    type: "search",
    placeholder: "Type the beginning of a line",
    "data-nextchar": selected,
    "data-nextchar-mode": "list",
    "data-nextchar-count": 10,
    ...(apiKey() ? { "data-nextchar-key": apiKey() } : {}),
  });
  import("/clients/js/nextchar.js").catch(() => {}); // finds the field by its attribute
  const results = h("div.stack.tight", hint());

  const option = (name) => (event) => setOption(input, name, event.target.value);
  const picker = field({
    name: "model",
    label: "Model",
    control: modelSelect(models, selected, (id) => setOption(input, "", id)),
  });
  const fields = [
    field({ name: "constrain", label: "Suggest", control: select(SOURCES, "", { onchange: option("-constrain") }) }),
    field({ name: "typos", label: "Typing errors", control: select(TYPOS, "", { onchange: option("-typos") }) }),
    field({
      name: "context",
      label: "Context",
      help: "Such as a category; for lines that are “context, tab, field”.",
      control: h("input", { type: "text", autocomplete: "off", oninput: option("-context") }),
    }),
  ];

  input.addEventListener("nextchar:suggestion", ({ detail }) => replace(results, figures(detail)));
  input.addEventListener("nextchar:nothing", () => replace(results, h("p", "Nothing fits.")));
  input.addEventListener("nextchar:error", ({ detail }) => replace(results, errorBox(detail.error)));
  input.addEventListener("input", () => input.value || replace(results, hint()));

  return h(
    "div.view",
    h("h1", "Suggestions"),
    missingModel(missing, selected),
    h(
      "div.with-sidebar",
      h(
        "section.card.stack",
        { "aria-label": "Field and options" },
        picker.node,
        field({ name: "field", label: "Field", control: input, help: keyHelp() }).node,
        h(
          "div.generation-options",
          fields.map(({ node }) => node),
        ),
        h(
          "p.small.muted",
          "To try your own list, ",
          h("a", { href: "#/" }, "upload a file with one item per line and train a model"),
          "; that takes a minute.",
        ),
      ),
      h("section.card.stack", h("h2", "Suggestions in figures"), results),
    ),
  );
}

/** Set the attribute of an option, "" for the model's; the client then attaches the field again. */
function setOption(input, name, value) {
  if (value) input.setAttribute(`data-nextchar${name}`, value);
  else input.removeAttribute(`data-nextchar${name}`);
  input.dispatchEvent(new Event("input", { bubbles: true }));
}

function hint() {
  return h("p.muted", "Type into the field. Each suggestion is listed here with what the service says about it.");
}

/** Return the suggestions in figures, and how long they took. */
function figures({ suggestions, tookMs, model }) {
  const right = (text) => h("th.right", { scope: "col" }, text);
  return [
    table(
      ["Suggestion", right("Probability"), right("Count")],
      suggestions.map(({ text, probability, count, exists, replaced }) => [
        [h("span", { dir: "auto" }, text), h("span.muted", replaced ? " corrected" : exists ? "" : " new")],
        h("td.right.number", percent(probability)),
        h("td.right.number", integer(count)),
      ]),
      { isSmall: true },
    ),
    h("p.small.muted.number", `${model}, ${decimal(tookMs, 0)} ms after the key`),
  ];
}

function keyHelp() {
  const key = (name) => h("kbd", name);
  return [
    key("↓"),
    " chooses, ",
    key("Enter"),
    " accepts, ",
    key("Ctrl"),
    " ",
    key("→"),
    " accepts one word, ",
    key("Esc"),
    " closes.",
  ];
}
