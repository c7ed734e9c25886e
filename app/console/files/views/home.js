/** The home page: without a model, from a text file to a trained model; with one, an overview of the service. */

import { get, listAll, repeat, request } from "../api.js";
import { characterDistribution } from "../components/bar-chart.js";
import { heatMap } from "../components/heat-map.js";
import { timeAgo } from "../components/facts.js";
import { jobCard } from "../components/job-card.js";
import { modelActions } from "../components/model-actions.js";
import { sentence, warningBox } from "../components/notice.js";
import { quickTrain } from "../components/quick-train.js";
import { h, replace } from "../dom.js";
import { bits, byteSize, integer } from "../format.js";

const JOBS_MS = 2000;
const FIGURES_MS = 10_000;

/** @param {import('../router.js').Page} page */
export async function homeView(page) {
  const { signal } = page;
  const [models, jobs] = await Promise.all([
    listAll("/v1/models", { signal, maxItems: 200 }),
    get("/v1/jobs?limit=20", { signal }),
  ]);
  return models.length ? overview(models, jobs.data, page) : homeWithoutModels(jobs.data, signal);
}

function homeWithoutModels(jobs, signal) {
  return h(
    "div.view",
    h(
      "div.hero",
      h(
        "div.stack",
        h("h1", "Train a character-level model on your text"),
        h(
          "p.lead",
          "Drop in a text file and click Train. A minute later you have a model that completes your text as you " +
            "type and finds anomalous lines in logs. Your data stays on this service.",
        ),
      ),
      illustration(),
    ),
    quickTrain({ signal }),
    jobs.length > 0 && section("Jobs", jobList(jobs, signal)),
    h(
      "div.columns.steps",
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

function overview(models, jobs, page) {
  const { signal } = page;
  const good = models.find(({ problems }) => problems.length === 0);
  const figures = h("div.overview");
  const running = h("div.list");
  /** @type {Map<string, ReturnType<typeof jobCard>>} */ let cards = new Map();

  async function loadFigures() {
    const [alerts, health] = await Promise.all([
      get("/v1/alerts?limit=0", { signal }).catch(() => null), // not permitted for this key, or Redis is away
      request("GET", "/readyz", { signal })
        .then((response) => response.json())
        .catch(() => null),
    ]);
    if (!signal.aborted)
      replace(figures, alerts && alertTotals(alerts), alerts && scoredLines(alerts), healthOf(health));
  }

  async function loadJobs() {
    const { data } = await get("/v1/jobs?limit=20", { signal }).catch(() => ({ data: jobs }));
    if (!signal.aborted) drawJobs(data);
  }

  function drawJobs(latest) {
    const isOpen = (job) => !["succeeded", "failed", "cancelled"].includes(job.status);
    const open = latest.filter(isOpen);
    const shown = (open.length ? open : latest).slice(0, 3);
    const before = [...cards.keys()].join();
    cards = new Map(shown.map((job) => [job.id, cards.get(job.id) ?? jobCard(job, { signal })]));
    for (const job of shown) cards.get(job.id)?.update(job);
    if ([...cards.keys()].join() !== before)
      replace(
        running,
        [...cards.values()].map(({ node }) => node),
      );
  }

  drawJobs(jobs);
  loadFigures();
  repeat(loadJobs, JOBS_MS, signal);
  repeat(loadFigures, FIGURES_MS, signal);
  return h(
    "div.view",
    h("h1", "Overview"),
    figures,
    h(
      "div.columns",
      section("Jobs", jobs.length ? running : h("p.muted", "No job yet."), h("a", { href: "#/jobs" }, "All jobs")),
      section(
        "Newest model",
        good ? newestModel(good) : noGoodModel(models[0]),
        h("a", { href: "#/models" }, "All models"),
      ),
    ),
    section("Train another model", quickTrain({ signal })),
  );
}

function alertTotals({ open }) {
  const severities = ["critical", "warning", "info"];
  return figure(
    "Open alerts",
    h(
      "p.row",
      severities.map((severity) =>
        h(
          "a",
          { class: `button small total ${severity}`, href: `#/alerts?severity=${severity}` },
          h("span.strong.number", integer(open[severity])),
          ` ${severity}`,
        ),
      ),
    ),
  );
}

function scoredLines({ scored_last_hour: lines }) {
  return figure("Lines scored in the last hour", h("p.figure.number", integer(lines)));
}

function healthOf(health) {
  const problems = health?.degraded ?? [];
  return figure(
    "Health",
    h(
      "p.row",
      h(
        "span",
        { class: `badge ${problems.length ? "paused" : health ? "succeeded" : ""}` },
        health ? health.status.replace("_", " ") : "not known",
      ),
    ),
    h("p.small", h("a", { href: "#/keys" }, "API keys")),
    problems.map(({ part, problem, effect }) => h("p.small", `${part} ${problem}: ${effect}`)),
  );
}

function figure(title, ...content) {
  return h("section.card.stack.tight", h("h2.small.muted", title), content);
}

function newestModel(model) {
  const id = encodeURIComponent(model.id);
  return h(
    "article.item",
    h("h3", h("a", { href: `#/models/${id}` }, model.id)),
    h(
      "p.muted.small.number",
      [
        model.kind,
        model.bits_per_character !== null && `${bits(model.bits_per_character)} bits per character`,
        byteSize(model.bytes),
      ]
        .filter(Boolean)
        .map((one) => `${one} · `),
      timeAgo(model.created_at),
    ),
    h("div.row", modelActions(model)),
  );
}

function noGoodModel({ id, problems }) {
  return warningBox(h("p", h("a", { href: `#/models/${encodeURIComponent(id)}` }, id), ": ", sentence(problems[0])));
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
    "div.card.illustration",
    { "aria-hidden": "true" },
    h("p", "morality is the thin", h("span.caret"), h("span.ghost", "g that we call")),
    characterDistribution(candidates),
    h("p", heatMap(line, bits)),
  );
}

function jobList(jobs, signal) {
  return jobs.slice(0, 3).map((job) => jobCard(job, { signal }).node);
}

function section(title, content, link = null) {
  return h("section.stack", h("div.row.apart", h("h2", title), link), content);
}

function step(title, text) {
  return h("section.stack.tight", h("h2", title), h("p.muted", text));
}
