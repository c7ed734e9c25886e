/** A training job, from a preset or in every detail that the service can be told. */

import { get, list, post } from "../api.js";
import { h, prose, replace } from "../dom.js";
import { field, given, resolved, schemaFields, select } from "../components/form-fields.js";
import { masksField } from "../components/mask-selector.js";
import { whole } from "../format.js";
import { empty, failure, sentence } from "../components/notice.js";
import { openapi } from "../openapi.js";
import { go } from "../router.js";

const PRESETS = {
  tiny: "One layer of 256. Fast, for short texts and a first look.",
  small: "One layer of 512. The best for minutes on a processor.",
  medium: "Two layers of 512. For an hour, or a graphics card.",
  large: "Two layers of 1024. For a night, or a graphics card.",
};

const BY_HAND = ["corpus", "name", "preset", "budget", "network", "training", "architecture", "start_from", "mix"];

/** @param {import('../router.js').Page} page */
export async function trainView({ query, signal }) {
  const [corpora, models, spec, architectures] = await Promise.all([
    list("/v1/corpora", { signal }),
    list("/v1/models", { signal }),
    openapi(),
    architectureList(signal),
  ]);
  if (!corpora.length) {
    return h(
      "div",
      { class: "view" },
      h("h1", {}, "Train a model"),
      empty(
        "First a text",
        "A model learns from a text, and there is none yet.",
        h("a", { class: "button primary", href: "#/" }, "Upload one"),
      ),
    );
  }
  const schemas = spec.components.schemas;
  const schema = schemas.JobCreate;

  const corpus = field({
    name: "corpus",
    label: "Text",
    control: select(
      corpora.map((one) => [one.id, `${one.name ?? one.id} (${whole(one.characters)} characters)`]),
      corpora.find((one) => [one.id, one.name].includes(query.get("corpus")))?.id ?? corpora[0].id,
    ),
  });
  const suggested = () => corpora.find((one) => one.id === corpus.control.value)?.name ?? "my-text";
  const name = field({
    name: "name",
    label: "Name of the model",
    help: "If there is one of this name, this will be its next version.",
    control: h("input", { type: "text", required: true, value: suggested(), spellcheck: "false", autocomplete: "off" }),
  });
  let isNamed = false;
  name.control.addEventListener("input", () => {
    isNamed = true;
  });
  corpus.control.addEventListener("change", () => {
    if (!isNamed) name.control.value = suggested();
  });

  const amount = h("input", { type: "number", min: 0, step: "any", value: 60, required: true });
  const unit = select(
    [
      ["seconds", "seconds"],
      ["epochs", "epochs"],
      ["steps", "steps"],
    ],
    "seconds",
    { "aria-label": "Unit of how long" },
  );
  const budget = field({ name: "budget", label: "How long", control: amount, unit });

  const presets = resolved(schema.properties.preset, spec).enum ?? Object.keys(PRESETS);
  const presetDefault = schema.properties.preset.default ?? "small";

  const architecture = architectureField(architectures, schema, spec);
  const start = field({
    name: "start_from",
    label: "Start from a model",
    help: prose(resolved(schema.properties.start_from, spec).description),
    control: select([["", "no, from nothing"], ...models.map((model) => model.id)], query.get("start_from") ?? ""),
  });
  const general = schemaFields(schema, spec, { skip: BY_HAND });
  const masks = masksField();
  const showMasks = () => masks.show(start.control.value ? null : corpora.find((one) => one.id === corpus.control.value));
  corpus.control.addEventListener("change", showMasks);
  start.control.addEventListener("change", showMasks);
  showMasks();
  const network = schemaFields(schema.properties.network, spec, { prefix: "network." });
  const training = schemaFields(schema.properties.training, spec, { prefix: "training." });
  const mix = schemaFields(schema.properties.mix, spec, { prefix: "mix." });
  const presetChoice = h(
    "fieldset",
    {},
    h("legend", {}, "Network"),
    h(
      "div",
      { class: "choices" },
      presets.map((preset) =>
        h(
          "label",
          { class: "choice" },
          h("input", { type: "radio", name: "preset", value: preset, checked: preset === presetDefault }),
          h("span", { class: "strong" }, preset),
          h("span", { class: "muted small" }, PRESETS[preset] ?? ""),
        ),
      ),
    ),
  );
  /** An architecture takes some options and not others; only the usual one has presets. Each says what it has. */
  const fitToArchitecture = () => {
    const about = architectures?.find((one) => one.id === architecture.control.value);
    if (!about) return;
    presetChoice.hidden = about.presets.length === 0;
    const preset = about.presets.find((one) => one.name === presetChoice.querySelector(":checked").value) ?? about;
    for (const [part, options] of Object.entries({ network, training })) {
      for (const { name: full, node, control } of options) {
        const option = full.split(".")[1];
        node.hidden = !about[`${part}_options`].includes(option);
        control.placeholder = preset[part][option] ?? "";
      }
    }
  };
  architecture.control.addEventListener("change", fitToArchitecture);
  presetChoice.addEventListener("change", fitToArchitecture);
  fitToArchitecture();
  const fields = [corpus, name, budget, architecture, start, ...general, ...network, ...training, ...mix];

  const said = h("div", { "aria-live": "polite" });
  const button = h("button", { class: "button primary large", type: "submit" }, "Train");

  async function submit(event) {
    event.preventDefault();
    for (const one of fields) one.refuse(null);
    replace(said);
    button.disabled = true;
    /** @type {Record<string, any>} */
    const body = {
      corpus: corpus.control.value,
      name: name.control.value.trim(),
      ...(presetChoice.hidden ? {} : { preset: new FormData(event.target).get("preset") }),
      budget: { [unit.value]: Number(amount.value) },
      ...given(general),
    };
    const changes = {
      network: given(network),
      training: given(training),
      mix: given(mix),
      architecture: architecture.control.value,
      start_from: start.control.value,
    };
    for (const [key, value] of Object.entries(changes)) if (value) body[key] = value;
    const chosen = masks.chosen(); // undefined: as the service suggests
    const typed = body.masks ?? [];
    if (typed.length || chosen) body.masks = [...typed, ...(chosen ?? masks.suggested())];
    try {
      go(`/jobs/${(await post("/v1/jobs", body)).id}`);
    } catch (error) {
      button.disabled = false;
      tell(error);
    }
  }

  function tell(error) {
    const wrong = fields.find((one) => one.name === error.param || error.param?.startsWith(`${one.name}.`));
    if (!wrong) {
      replace(said, failure(error));
      return;
    }
    wrong.refuse(sentence(error.message.replace(`${error.param}: `, "")));
    const closed = wrong.node.closest("details");
    if (closed) closed.open = true;
    wrong.control.focus();
  }

  const hasStart = query.get("start_from");
  return h(
    "div",
    { class: "view" },
    h("h1", {}, "Train a model"),
    h(
      "form",
      { class: "stack", onsubmit: submit, novalidate: true, "aria-label": "Training job" },
      h(
        "section",
        { class: "card stack" },
        h("div", { class: "columns" }, corpus.node, name.node, budget.node),
        presetChoice,
        masks.node,
      ),
      h(
        "details",
        { class: "card", open: Boolean(hasStart) },
        h("summary", {}, "In every detail"),
        h(
          "div",
          { class: "stack" },
          h(
            "div",
            { class: "grid-fields" },
            architecture.node,
            start.node,
            general.map((one) => one.node),
          ),
          h("h2", {}, "Network"),
          h(
            "div",
            { class: "grid-fields" },
            network.map((one) => one.node),
          ),
          h("h2", {}, "Recipe"),
          h(
            "div",
            { class: "grid-fields" },
            training.map((one) => one.node),
          ),
          h("h2", {}, "A second text in the batches"),
          h(
            "div",
            { class: "grid-fields" },
            mix.map((one) => one.node),
          ),
        ),
      ),
      said,
      h(
        "div",
        { class: "row" },
        button,
        h("span", { class: "muted small" }, "You can leave the page; the training goes on."),
      ),
    ),
  );
}

async function architectureList(signal) {
  const spec = await openapi();
  return spec.paths["/v1/architectures"] ? (await get("/v1/architectures", { signal })).data : null;
}

function architectureField(listed, schema, spec) {
  const found = resolved(schema.properties.architecture, spec);
  const names = listed ? listed.map((one) => one.id) : (found.enum ?? [found.const ?? found.default]);
  const about = h("span", {});
  const control = select(names, found.default ?? names[0], {
    onchange: () => replace(about, describe(control.value)),
  });
  const describe = (name) => prose(listed?.find((one) => one.id === name)?.description ?? found.description);
  replace(about, describe(control.value));
  return field({ name: "architecture", label: "Architecture", control, help: about });
}
