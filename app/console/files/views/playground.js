/** The playground: ghost text while the user writes, the next character's distribution, and completions of models. */

import { continuationColumns } from "../components/continuations.js";
import { field, select } from "../components/form-fields.js";
import { generationOptions } from "../components/generation-options.js";
import { ghostTextarea } from "../components/ghost-textarea.js";
import { loadModels, missingModel, modelSelect, viewWithoutModel } from "../components/model-picker.js";
import { nextCharacterPanel } from "../components/next-character.js";
import { h } from "../dom.js";

let draft = ""; // the text, kept while the console is open

/** @param {import('../router.js').Page} page */
export async function playgroundView(page) {
  const { signal } = page;
  const { models, selected, missing } = await loadModels(page);
  if (!models.length) return viewWithoutModel("Playground", "The playground generates text with a model.");
  let model = selected;

  const area = ghostTextarea({ model, label: "Your text", value: draft, rows: 8 });
  const options = generationOptions();
  const promptText = () => area.value.slice(0, area.selectionEnd ?? area.value.length);

  function insert(text) {
    const end = area.selectionEnd;
    area.setRangeText(text, end, end, "end");
    area.dispatchEvent(new Event("input", { bubbles: true }));
    area.focus();
  }

  const nextCharacter = nextCharacterPanel({
    request: () => ({ model, text: promptText(), temperature: options.temperature() }),
    onChoose: insert,
    signal,
  });
  const continuations = continuationColumns({
    models: models.map((one) => one.id),
    model,
    promptText,
    options: options.body,
    onInsert: insert,
    signal,
  });
  const mode = select(
    [
      ["", "Ghost text"],
      ["list", "List of suggestions"],
    ],
    "",
    { onchange: setMode },
  );

  /** Complete as ghost text, or as a list under a field of one line. */
  function setMode() {
    area.rows = mode.value ? 1 : 8;
    if (mode.value) area.setAttribute("data-nextchar-mode", mode.value);
    else area.removeAttribute("data-nextchar-mode");
    area.dispatchEvent(new Event("input", { bubbles: true })); // the client attaches the field again
  }

  /** A model of a list suggests its lines. */
  function setModeOfModel() {
    mode.value = models.find(({ id }) => id === model)?.kind === "records" ? "list" : "";
    setMode();
  }

  const picker = field({
    name: "model",
    label: "Model",
    control: modelSelect(models, model, (id) => {
      model = id;
      setModeOfModel();
      area.setAttribute("data-nextchar", id);
      continuations.setModel(id);
      nextCharacter.update();
    }),
  });

  for (const name of ["input", "keyup", "pointerup", "focus"]) {
    area.addEventListener(name, () => {
      draft = area.value;
      nextCharacter.updateSoon();
    });
  }
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      continuations.generate();
    }
  });
  options.onTemperatureChange(nextCharacter.update);
  setModeOfModel();
  nextCharacter.update();

  return h(
    "div.view",
    h("h1", "Playground"),
    missingModel(missing, selected),
    h(
      "div.with-sidebar",
      h(
        "section.card.stack",
        { "aria-label": "Text and options" },
        h(
          "div.generation-options",
          picker.node,
          field({ name: "mode", label: "Complete with", control: mode }).node,
          continuations.compareField,
        ),
        area,
        options.node,
        h("div.row", h("button.button.primary", { onclick: continuations.generate }, "Generate"), keyHelp()),
      ),
      h("section.card.stack", h("h2", "Next character"), nextCharacter.node),
    ),
    continuations.node,
  );
}

function keyHelp() {
  const key = (name) => h("kbd", name);
  return h(
    "span.muted.small",
    key("Tab"),
    " accepts the ghost text, ",
    key("Ctrl"),
    " ",
    key("→"),
    " one word of it. ",
    key("Ctrl"),
    " ",
    key("Enter"),
    " generates.",
  );
}
