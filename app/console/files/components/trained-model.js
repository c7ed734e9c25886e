/** The model that a job has trained, or its early model, with a text area to try it at once. */

import { apiPath, get } from "../api.js";
import { streamCompletion } from "../completion.js";
import { h, replace } from "../dom.js";
import { lastCharacters } from "../format.js";
import { ghostTextarea } from "./ghost-textarea.js";
import { placeholders } from "./marked-line.js";
import { errorBox, problemsBox } from "./notice.js";

const OPTIONS = { max_characters: 160, temperature: 0.5 };
const SHOWN_PROMPT_CHARACTERS = 60;

/** @param {any} job @param {AbortSignal} signal */
export function trainedModel(job, signal) {
  const model = encodeURIComponent(job.model);
  const problems = h("div", {});
  get(apiPath("/v1/models", job.model), { signal }).then(
    (found) => replace(problems, problemsBox(found.report)),
    () => {}, // the model was deleted: the completion shows that error
  );
  return section("Trained model", h("h2", {}, `${job.model} is trained. Try it:`), {
    links: [
      h("a", { class: "button small", href: `#/playground?model=${model}` }, "Open playground"),
      h("a", { class: "button small", href: `#/anomalies?model=${model}` }, "Find anomalies"),
      h("a", { class: "button small", href: `#/models/${model}` }, "Model details"),
    ],
    notes: problems,
    trial: trial(job, job.model, signal),
  });
}

/** Return what tries the early model of a job that is not over yet. @param {any} job @param {AbortSignal} signal */
export function earlyModel(job, signal) {
  return section("Early model", h("h2", {}, "Try the early model while the network is trained:"), {
    links: [],
    notes: h(
      "p",
      { class: "muted small" },
      "It completes by the contexts of the text alone, as ",
      h("code", {}, job.early.model),
      ". The trained model takes its place.",
    ),
    trial: trial(job, job.early.model, signal),
  });
}

function section(label, heading, { links, notes, trial }) {
  return h(
    "section",
    { class: "card stack fade-in", "aria-label": label },
    h("div", { class: "row apart" }, heading, h("div", { class: "row" }, links)),
    notes,
    trial,
  );
}

/** Return a text area with a model's continuation of it. */
function trial(job, model, signal) {
  const area = ghostTextarea({ model, label: `Prompt for ${model}`, rows: 3 });
  area.classList.remove("ghost-textarea");
  const continuation = h("p", { class: "continuation", "aria-live": "polite" });
  const error = h("div", {});

  async function generate() {
    const prompt = area.value;
    replace(error);
    const generated = h("span", { class: "generated" });
    replace(continuation, h("span", { class: "muted" }, lastCharacters(prompt, SHOWN_PROMPT_CHARACTERS)), generated);
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
      "div",
      { class: "row" },
      h("button", { type: "button", class: "button primary", onclick: generate }, "Generate"),
      h("span", { class: "muted small" }, "Ghost text appears as you type; Tab accepts it."),
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
