/** The first screen: to a trained model in two clicks, and on from there. */

import { get, list } from "../api.js";
import { distribution } from "../components/bar-chart.js";
import { h } from "../dom.js";
import { moment } from "../format.js";
import { characters, heat } from "../components/heat-map.js";
import { jobItem } from "../components/job-card.js";
import { starter } from "../components/quick-train.js";

/** @param {import('../router.js').Page} page */
export async function homeView({ signal }) {
  const [models, jobs] = await Promise.all([
    list("/v1/models", { signal, most: 200 }),
    get("/v1/jobs?limit=3", { signal }),
  ]);
  return models.length ? welcomeBack(models, jobs.data, signal) : welcome(jobs.data, signal);
}

function welcome(jobs, signal) {
  return h(
    "div",
    { class: "view" },
    h(
      "div",
      { class: "hero" },
      h(
        "div",
        { class: "stack" },
        h("h1", {}, "Teach a small network your text."),
        h(
          "p",
          { class: "lead" },
          "It reads what you give it, a character at a time. A minute later it goes on where you stop " +
            "writing, and tells which characters of a log line it did not expect. All of it stays with your service.",
        ),
      ),
      picture(),
    ),
    starter({ signal }),
    jobs.length > 0 &&
      section(
        "Training",
        jobs.map((job) => jobItem(job)),
      ),
    h(
      "div",
      { class: "columns steps" },
      step(
        "1",
        "Choose a text",
        "Names, logs, code, prose: whatever should be completed or watched. 100,000 characters are a good start.",
      ),
      step(
        "2",
        "Watch it learn",
        "The loss falls in view, and what the network writes turns from gibberish into words.",
      ),
      step(
        "3",
        "Write with it",
        "Ghost text as you type, the next character’s distribution, and a heat map of what is odd.",
      ),
    ),
  );
}

function welcomeBack(models, jobs, signal) {
  const [newest] = models;
  const model = encodeURIComponent(newest.id);
  return h(
    "div",
    { class: "view" },
    h(
      "div",
      { class: "hero stack" },
      h("h1", {}, `${newest.id} is ready.`),
      h(
        "p",
        { class: "lead" },
        `Trained ${moment(newest.created_at)}. Write with it, let it look for what is odd, or train another.`,
      ),
      h(
        "div",
        { class: "row" },
        h("a", { class: "button primary", href: `#/playground?model=${model}` }, "Write with it"),
        h("a", { class: "button", href: `#/anomalies?model=${model}` }, "Find anomalies"),
        h("a", { class: "button", href: `#/models/${model}` }, "Look at it"),
      ),
    ),
    jobs.length > 0 &&
      section(
        "Training",
        jobs.map((job) => jobItem(job)),
        h("a", { href: "#/jobs" }, "All jobs"),
      ),
    section("Train another", [starter({ signal })]),
  );
}

/** What a model does, in a drawing: it goes on, it weighs what may come, it is surprised. */
function picture() {
  const candidates = [
    { character: "g", probability: 0.86 },
    { character: "k", probability: 0.09 },
    { character: "n", probability: 0.03 },
  ];
  const line = characters("Failed pasxword for root");
  return h(
    "div",
    { class: "card picture", "aria-hidden": "true" },
    h("p", {}, "morality is the thin", h("span", { class: "caret" }), h("span", { class: "ghost" }, "g that we call")),
    distribution(candidates),
    h(
      "p",
      {},
      heat(
        line,
        line.map((one, place) => ({ 9: 2.2, 10: 14, 11: 6.4, 12: 1.3 })[place] ?? 0.2),
      ),
    ),
  );
}

function section(title, content, more = null) {
  return h("section", { class: "stack" }, h("div", { class: "row apart" }, h("h2", {}, title), more), content);
}

function step(number, title, text) {
  return h("section", { class: "stack tight" }, h("h2", {}, `${number}. ${title}`), h("p", { class: "muted" }, text));
}
