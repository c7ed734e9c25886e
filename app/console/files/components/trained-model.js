/** The model that a job has trained, or its early model, with what tries it at once: completions, or a list. */

import { apiKey } from "../api-key.js";
import { apiPath, get } from "../api.js";
import { streamCompletion } from "../completion.js";
import { h, replace } from "../dom.js";
import { bits, lastCharacters } from "../format.js";
import { ghostTextarea } from "./ghost-textarea.js";
import { placeholders } from "./marked-line.js";
import { modelActions } from "./model-actions.js";
import { errorBox, problemsBox } from "./notice.js";

const OPTIONS = { max_characters: 160, temperature: 0.5 };
const SHOWN_PROMPT_CHARACTERS = 60;

/** @param {any} job @param {AbortSignal} signal */
export function trainedModel(job, signal) {
  const model = encodeURIComponent(job.model);
  const problems = h("div");
  const result = h("p.muted");
  get(apiPath("/v1/models", job.model), { signal }).then(
    ({ report }) => {
      replace(problems, problemsBox(report));
      replace(result, `${bits(report.validation_bits_per_character)} bits per character on held-out text.`);
    },
    () => {}, // the model was deleted: the completion shows that error
  );
  const isTried = job.purpose !== "anomalies"; // else the first link does
  return section("Trained model", h("h2", `${job.model} is trained.${isTried ? " Try it:" : ""}`), {
    links: [
      modelActions({ id: job.model, kind: job.kind }),
      h("a.button.small", { href: `#/models/${model}` }, "Model details"),
    ],
    notes: [result, problems],
    trial: isTried && (job.kind === "records" ? list(job.model) : trial(job, job.model, signal)),
  });
}

/** Return what tries the early model of a job that is not over yet. @param {any} job @param {AbortSignal} signal */
export function earlyModel(job, signal) {
  return section("Early model", h("h2", "Try the early model while the network is trained:"), {
    links: [],
    notes: h(
      "p.muted.small",
      "It completes by the contexts of the text alone, as ",
      h("code", job.early.model),
      ". The trained model takes its place.",
    ),
    trial: trial(job, job.early.model, signal),
  });
}

function section(label, heading, { links, notes, trial }) {
  return h(
    "section.card.stack.fade-in",
    { "aria-label": label },
    h("div.row.apart", heading, h("div.row", links)),
    notes,
    trial,
  );
}

/** Return a field with the list of suggestions that a page would show. */
function list(model) {
  import("/clients/js/nextchar.js").catch(() => {}); // finds the field by its attribute
  return h("input", {
    type: "search",
    placeholder: "Type the beginning of a line",
    "aria-label": `Suggestions of ${model}`,
    "data-nextchar": model,
    "data-nextchar-mode": "list",
    ...(apiKey() ? { "data-nextchar-key": apiKey() } : {}),
  });
}

/** Return a text area with a model's continuation of it. */
function trial(job, model, signal) {
  const area = ghostTextarea({ model, label: `Prompt for ${model}`, rows: 3 });
  area.classList.remove("ghost-textarea");
  const continuation = h("p.continuation", { "aria-live": "polite" });
  const error = h("div");

  async function generate() {
    const prompt = area.value;
    replace(error);
    const generated = h("span.generated");
    replace(continuation, h("span.muted", lastCharacters(prompt, SHOWN_PROMPT_CHARACTERS)), generated);
    try {
      await streamCompletion(model, prompt, OPTIONS, {
        signal,
        onText: (text) => generated.append(...[placeholders(Array.from(text))].flat()),
      });
    } catch (failure) {
      if (!signal.aborted) replace(error, errorBox(failure));
    }
  }

  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) generate();
  });
  examplePrompt(job, signal).then((prompt) => {
    area.value ||= prompt;
    generate();
  });
  return [
    area,
    h(
      "div.row",
      h("button.button.primary", { onclick: generate }, "Generate"),
      h("span.muted.small", "Ghost text appears as you type; Tab accepts it."),
    ),
    continuation,
    error,
  ];
}

/** Return the first words of a line of the corpus, or "" if the corpus was deleted. */
async function examplePrompt(job, signal) {
  const corpus = await get(apiPath("/v1/corpora", job.corpus), { signal }).catch(() => null);
  const lines = corpus?.sample.split("\n").filter((one) => /\S\s+\S/.test(one)) ?? [];
  const words = (lines.at(-1) ?? "").trim().split(/(?<=\s)/);
  return words.slice(0, 3).join("").slice(0, 60);
}
