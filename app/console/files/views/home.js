/** The home page: without a model, from a text file to a trained model; with one, what to do with it. */

import { get, listAll } from "../api.js";
import { characterDistribution } from "../components/bar-chart.js";
import { heatMap } from "../components/heat-map.js";
import { jobCard } from "../components/job-card.js";
import { quickTrain } from "../components/quick-train.js";
import { h } from "../dom.js";
import { dateTime } from "../format.js";

/** @param {import('../router.js').Page} page */
export async function homeView({ signal }) {
  const [models, jobs] = await Promise.all([
    listAll("/v1/models", { signal, maxItems: 200 }),
    get("/v1/jobs?limit=3", { signal }),
  ]);
  return models.length ? homeWithModels(models, jobs.data, signal) : homeWithoutModels(jobs.data, signal);
}

function homeWithoutModels(jobs, signal) {
  return h(
    "div",
    { class: "view" },
    h(
      "div",
      { class: "hero" },
      h(
        "div",
        { class: "stack" },
        h("h1", {}, "Train a character-level model on your text"),
        h(
          "p",
          { class: "lead" },
          "Drop in a text file and click Train. A minute later you have a model that completes your text as you " +
            "type and finds anomalous lines in logs. Your data stays on this service.",
        ),
      ),
      illustration(),
    ),
    quickTrain({ signal }),
    jobs.length > 0 && section("Jobs", jobList(jobs)),
    h(
      "div",
      { class: "columns steps" },
      step(
        "1. Upload a text",
        "Names, logs, code or prose: whatever you want to complete or monitor. Start with about 100,000 characters.",
      ),
      step("2. Train", "Watch the learning curve fall, and the generated samples turn from gibberish into words."),
      step(
        "3. Use the model",
        "Ghost text while you type, the distribution of the next character, and a heat map of anomalous log lines.",
      ),
    ),
  );
}

function homeWithModels(models, jobs, signal) {
  const [newest] = models;
  const model = encodeURIComponent(newest.id);
  return h(
    "div",
    { class: "view" },
    h(
      "div",
      { class: "hero stack" },
      h("h1", {}, `${newest.id} is ready`),
      h(
        "p",
        { class: "lead" },
        `Trained ${dateTime(newest.created_at)}. Generate text with it, find anomalies in a log, or train another model.`,
      ),
      h(
        "div",
        { class: "row" },
        h("a", { class: "button primary", href: `#/playground?model=${model}` }, "Open playground"),
        h("a", { class: "button", href: `#/anomalies?model=${model}` }, "Find anomalies"),
        h("a", { class: "button", href: `#/models/${model}` }, "Model details"),
      ),
    ),
    jobs.length > 0 && section("Latest jobs", jobList(jobs), h("a", { href: "#/jobs" }, "All jobs")),
    section("Train another model", quickTrain({ signal })),
  );
}

/** What a model does: ghost text, the distribution of the next character, a heat map. */
function illustration() {
  const candidates = [
    { character: "g", probability: 0.86 },
    { character: "k", probability: 0.09 },
    { character: "n", probability: 0.03 },
  ];
  const line = Array.from("Failed pasxword for root");
  const bits = line.map((_, index) => ({ 9: 2.2, 10: 14, 11: 6.4, 12: 1.3 })[index] ?? 0.2);
  return h(
    "div",
    { class: "card illustration", "aria-hidden": "true" },
    h("p", {}, "morality is the thin", h("span", { class: "caret" }), h("span", { class: "ghost" }, "g that we call")),
    characterDistribution(candidates),
    h("p", {}, heatMap(line, bits)),
  );
}

function jobList(jobs) {
  return jobs.map((job) => jobCard(job).node);
}

function section(title, content, link = null) {
  return h("section", { class: "stack" }, h("div", { class: "row apart" }, h("h2", {}, title), link), content);
}

function step(title, text) {
  return h("section", { class: "stack tight" }, h("h2", {}, title), h("p", { class: "muted" }, text));
}
