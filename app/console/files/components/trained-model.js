/** The model that a job has trained, with a text area to try it at once. */

import { apiPath, get } from "../api.js";
import { streamCompletion } from "../completion.js";
import { h, replace } from "../dom.js";
import { lastCharacters } from "../format.js";
import { ghostTextarea } from "./ghost-textarea.js";
import { errorBox, problemsBox } from "./notice.js";

const OPTIONS = { max_characters: 160, temperature: 0.5 };
const SHOWN_PROMPT_CHARACTERS = 60;

/** @param {any} job @param {AbortSignal} signal */
export function trainedModel(job, signal) {
  const model = encodeURIComponent(job.model);
  const area = ghostTextarea({ model: job.model, label: `Prompt for ${job.model}`, rows: 3 });
  area.classList.remove("ghost-textarea");
  const continuation = h("p", { class: "continuation", "aria-live": "polite" });
  const error = h("div", {});
  const problems = h("div", {});

  async function generate() {
    const prompt = area.value;
    replace(error);
    const generated = h("span", { class: "generated" });
    replace(continuation, h("span", { class: "muted" }, lastCharacters(prompt, SHOWN_PROMPT_CHARACTERS)), generated);
    try {
      await streamCompletion(job.model, prompt, OPTIONS, { signal, onText: (text) => generated.append(text) });
    } catch (failure) {
      if (!signal.aborted) replace(error, errorBox(failure));
    }
  }

  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) generate();
  });
  get(apiPath("/v1/models", job.model), { signal }).then(
    (found) => replace(problems, problemsBox(found.report)),
    () => {}, // the model was deleted: the completion shows that error
  );
  examplePrompt(job, signal).then((prompt) => {
    area.value ||= prompt;
    generate();
  });
  return h(
    "section",
    { class: "card stack fade-in", "aria-label": "Trained model" },
    h(
      "div",
      { class: "row apart" },
      h("h2", {}, `${job.model} is trained. Try it:`),
      h(
        "div",
        { class: "row" },
        h("a", { class: "button small", href: `#/playground?model=${model}` }, "Open playground"),
        h("a", { class: "button small", href: `#/anomalies?model=${model}` }, "Find anomalies"),
        h("a", { class: "button small", href: `#/models/${model}` }, "Model details"),
      ),
    ),
    problems,
    area,
    h(
      "div",
      { class: "row" },
      h("button", { type: "button", class: "button primary", onclick: generate }, "Generate"),
      h("span", { class: "muted small" }, "Ghost text appears as you type; Tab accepts it."),
    ),
    continuation,
    error,
  );
}

/** Return the first words of a line of the corpus, or "" if the corpus was deleted. */
async function examplePrompt(job, signal) {
  const corpus = await get(apiPath("/v1/corpora", job.corpus), { signal }).catch(() => null);
  const lines = corpus?.sample.split("\n").filter((one) => /\S\s+\S/.test(one)) ?? [];
  const words = (lines.at(-1) ?? "").trim().split(/(?<=\s)/);
  return words.slice(0, 3).join("").slice(0, 60);
}
