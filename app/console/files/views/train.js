/** The full training form: a preset and a budget, or every option that `POST /v1/jobs` takes. */

import { get, listAll, post } from "../api.js";
import { field, select } from "../components/form-fields.js";
import { maskSelector } from "../components/mask-selector.js";
import { emptyState, errorBox, sentence } from "../components/notice.js";
import { filledValues, resolveSchema, schemaFields } from "../components/schema-fields.js";
import { h, inlineCode, replace } from "../dom.js";
import { corpusName, integer } from "../format.js";
import { openapi } from "../openapi.js";
import { navigate } from "../router.js";

/** As in docs/how-to/train.md. */
const PRESETS = {
  auto: "One of these, for any budget in seconds, on any machine.",
  tiny: "One layer of 256 units, for seconds of training and very fast completions.",
  small: "One layer of 512 units, for a minute to a few minutes.",
  medium: "Two layers of 512 units, for ten minutes and more.",
  large: "Two layers of 1,024 units, for GPUs, or hours.",
};
const DEFAULT_SECONDS = 60;

/** Properties of the request that have fields of their own below. */
const CUSTOM_FIELDS = [
  "corpus",
  "name",
  "preset",
  "budget",
  "network",
  "training",
  "architecture",
  "start_from",
  "mix",
];

/** @param {import('../router.js').Page} page */
export async function trainView({ query, signal }) {
  const [corpora, models, spec, { data: architectures }] = await Promise.all([
    listAll("/v1/corpora", { signal }),
    listAll("/v1/models", { signal }),
    openapi(),
    get("/v1/architectures", { signal }),
  ]);
  if (!corpora.length) {
    return h(
      "div.view",
      h("h1", "Train a model"),
      emptyState(
        "No corpus yet",
        "A model is trained on a corpus, which is one uploaded text.",
        h("a.button.primary", { href: "#/" }, "Upload a text"),
      ),
    );
  }
  const schema = spec.components.schemas.JobCreate;

  const corpus = field({
    name: "corpus",
    label: "Corpus",
    control: select(
      corpora.map((one) => [one.id, `${corpusName(one)} (${integer(one.characters)} characters)`]),
      corpora.find((one) => [one.id, one.name].includes(query.get("corpus")))?.id ?? corpora[0].id,
    ),
  });
  const selectedCorpus = () => corpora.find((one) => one.id === corpus.control.value);
  const name = nameField(corpus.control, () => selectedCorpus()?.name ?? "my-text");

  const amount = h("input", { type: "number", min: 0, step: "any", value: DEFAULT_SECONDS, required: true });
  const unit = select(["seconds", "epochs", "steps"], "seconds", { "aria-label": "Unit of the budget" });
  const budget = field({ name: "budget", label: "Budget", control: amount, unit });

  const architecture = architectureField(architectures, resolveSchema(schema.properties.architecture, spec));
  const start = field({
    name: "start_from",
    label: "Start from model",
    help: inlineCode(resolveSchema(schema.properties.start_from, spec).description),
    control: select(
      [["", "None (train from scratch)"], ...models.map((model) => model.id)],
      query.get("start_from") ?? "",
    ),
  });
  const general = schemaFields(schema, spec, { skip: CUSTOM_FIELDS });
  const purpose = general.find((one) => one.name === "purpose").control;
  const masks = maskSelector();
  const showMasks = () => masks.show(start.control.value || purpose.value === "complete" ? null : selectedCorpus());
  for (const control of [corpus.control, start.control, purpose]) control.addEventListener("change", showMasks);
  showMasks();

  const network = schemaFields(schema.properties.network, spec, { prefix: "network." });
  const training = schemaFields(schema.properties.training, spec, { prefix: "training." });
  const mix = schemaFields(schema.properties.mix, spec, { prefix: "mix.", labels: { corpus: "Second corpus" } });
  const fields = [corpus, name, budget, architecture, start, ...general, ...network, ...training, ...mix];

  const presets = presetField(resolveSchema(schema.properties.preset, spec));
  const showSupported = () => {
    const selected = architectures.find((one) => one.id === architecture.control.value);
    showSupportedOptions(selected, presets, { network, training });
  };
  architecture.control.addEventListener("change", showSupported);
  presets.addEventListener("change", showSupported);
  showSupported();

  const status = h("div", { "aria-live": "polite" });
  const submitButton = h("button.button.primary.large", { type: "submit" }, "Train");

  function requestBody(form) {
    /** @type {Record<string, any>} */
    const body = {
      corpus: corpus.control.value,
      name: name.control.value.trim(),
      ...(presets.hidden ? {} : { preset: new FormData(form).get("preset") }),
      budget: { [unit.value]: Number(amount.value) },
      ...filledValues(general),
    };
    const optional = {
      network: filledValues(network),
      training: filledValues(training),
      mix: filledValues(mix),
      architecture: architecture.control.value,
      start_from: start.control.value,
    };
    for (const [key, value] of Object.entries(optional)) if (value) body[key] = value;
    const selectedMasks = masks.selected(); // undefined leaves the service's suggestion as it is
    const typedMasks = body.masks ?? [];
    if (typedMasks.length || selectedMasks) body.masks = [...typedMasks, ...(selectedMasks ?? masks.suggested())];
    return body;
  }

  async function submit(event) {
    event.preventDefault();
    for (const one of fields) one.setError(null);
    replace(status);
    submitButton.disabled = true;
    try {
      navigate(`/jobs/${(await post("/v1/jobs", requestBody(event.target))).id}`);
    } catch (error) {
      submitButton.disabled = false;
      showError(error);
    }
  }

  /** Show an error at the field that it names, or else below the form. */
  function showError(error) {
    const invalid = fields.find((one) => one.name === error.param || error.param?.startsWith(`${one.name}.`));
    if (!invalid) {
      replace(status, errorBox(error));
      return;
    }
    invalid.setError(sentence(error.message.replace(`${error.param}: `, "")));
    const details = invalid.node.closest("details");
    if (details) details.open = true;
    invalid.control.focus();
  }

  const grid = (...children) => h("div.grid-fields", ...children);
  const nodesOf = (some) => some.map((one) => one.node);
  return h(
    "div.view",
    h("h1", "Train a model"),
    h(
      "form.stack",
      { onsubmit: submit, novalidate: true, "aria-label": "Training job" },
      h("section.card.stack", h("div.columns", corpus.node, name.node, budget.node), presets, masks.node),
      h(
        "details.card",
        { open: query.has("start_from") },
        h("summary", "Advanced options"),
        h(
          "div.stack",
          grid(architecture.node, start.node, nodesOf(general)),
          h("h2", "Network"),
          grid(nodesOf(network)),
          h("h2", "Training"),
          grid(nodesOf(training)),
          h("h2", "Second corpus in each batch"),
          grid(nodesOf(mix)),
        ),
      ),
      status,
      h("div.row", submitButton, h("span.muted.small", "Training continues when you leave the page.")),
    ),
  );
}

/** Return a field that follows the selected corpus until the user types a name. */
function nameField(corpusControl, suggest) {
  const control = h("input", {
    type: "text",
    required: true,
    value: suggest(),
    spellcheck: "false",
    autocomplete: "off",
  });
  let isEdited = false;
  control.addEventListener("input", () => {
    isEdited = true;
  });
  corpusControl.addEventListener("change", () => {
    if (!isEdited) control.value = suggest();
  });
  return field({
    name: "name",
    label: "Model name",
    help: "If a model has this name, this becomes its next version.",
    control,
  });
}

function presetField(schema) {
  return h(
    "fieldset",
    h("legend", "Network"),
    h(
      "div.choices",
      schema.enum.map((preset) =>
        h(
          "label.choice",
          h("input", { type: "radio", name: "preset", value: preset, checked: preset === schema.default }),
          h("span.strong", preset),
          h("span.muted.small", PRESETS[preset]),
        ),
      ),
    ),
  );
}

/** Hide the options that an architecture does not take, and show the defaults of those that it does. */
function showSupportedOptions(architecture, presets, groups) {
  presets.hidden = architecture.presets.length === 0;
  const checked = presets.querySelector(":checked").value;
  const isAuto = checked === "auto" && architecture.presets.length > 0;
  const defaults = isAuto
    ? commonDefaults(architecture.presets)
    : (architecture.presets.find((one) => one.name === checked) ?? architecture);
  for (const [group, fields] of Object.entries(groups)) {
    for (const { name, node, control } of fields) {
      const option = name.split(".")[1];
      node.hidden = !architecture[`${group}_options`].includes(option);
      control.placeholder = defaults[group][option] ?? "";
    }
  }
}

/** Return the defaults that all presets share; where they differ, "auto". */
function commonDefaults(presets) {
  const common = (group) =>
    Object.fromEntries(
      Object.entries(presets[0][group]).map(([option, value]) => [
        option,
        presets.every((one) => one[group][option] === value) ? value : "auto",
      ]),
    );
  return { network: common("network"), training: common("training") };
}

function architectureField(architectures, schema) {
  const help = h("span");
  const describe = () => {
    const selected = architectures.find((one) => one.id === control.value);
    replace(help, inlineCode(selected.description));
  };
  const control = select(
    architectures.map((one) => one.id),
    schema.default,
    { onchange: describe },
  );
  describe();
  return field({ name: "architecture", label: "Architecture", control, help });
}
