/** One job as it runs: curves, speed, time left, samples; what it has become in the end. */

import { at, follow, get, pause, post } from "../api.js";
import { lineChart } from "../components/line-chart.js";
import { complete } from "../completion.js";
import { axisOf, runLines } from "../components/learning-curves.js";
import { chosen } from "../components/dialog.js";
import { h, replace } from "../dom.js";
import { bits, clock, count, decimal, tail, whole } from "../format.js";
import { FINAL, badge } from "../components/job-card.js";
import { failure, hint, problems, sentence, toast, warning } from "../components/notice.js";
import { writer } from "../components/ghost-textarea.js";

const POLL_MS = 1000;

/** What can be done about failures that the service names. */
const CURES = {
  corpus_too_small: "Upload more text and train on that.",
  corpus_not_found: "The text was deleted meanwhile. Upload it again.",
  diverged: "Train again with a lower learning rate, or a smaller network.",
  out_of_memory: "Train again with fewer units or rows, a shorter window, or on a machine with more memory.",
  worker_lost: "Look into the worker’s log for what ended it, then train again.",
};

/** @param {import('../router.js').Page} page */
export async function jobView({ params, signal }) {
  let job = await get(at("/v1/jobs", params.job), { signal });
  /** @type {any[]} */ const metrics = [];
  /** @type {any[]} */ const samples = [];
  /** @type {any[]} */ const messages = [];

  const chart = lineChart({ label: "Learning curves", yLabel: "Bits a character", ...axisOf("seconds") });
  const parts = {
    head: h("div", { class: "row apart" }),
    said: h("div", {}),
    outcome: h("div", { class: "stack" }),
    progress: h("div", { class: "stack" }),
    samples: h("div", { class: "stack" }),
    messages: h("div", { class: "stack tight" }),
  };

  function drawState() {
    drawHead();
    drawProgress(parts.progress, job);
  }

  function drawHead() {
    const focused = parts.head.contains(document.activeElement) ? document.activeElement?.textContent : null;
    replace(parts.head, h("h1", {}, job.name, " ", badge(job)), h("div", { class: "row" }, buttons(job, act)));
    if (focused) [...parts.head.querySelectorAll("button")].find((one) => one.textContent === focused)?.focus();
  }

  async function act(what) {
    const body = what === "cancel" ? await howToCancel(job) : {};
    if (!body) return;
    replace(parts.said);
    try {
      const wasOver = FINAL.includes(job.status);
      job = await post(at("/v1/jobs", job.id, what), what === "cancel" ? body : undefined);
      if (wasOver) return location.reload(); // the watchers ended with the job
      if (job.asked) toast(`Asked to ${what}; it obeys at its next step.`);
      changed();
    } catch (error) {
      if (!signal.aborted) replace(parts.said, failure(error));
    }
  }

  let outcomeOf = "";

  /** The record is new. What stands at the end is drawn once: somebody may be writing in it. */
  function changed() {
    drawState();
    if (outcomeOf === job.status) return;
    outcomeOf = job.status;
    replace(parts.outcome, outcome(job, signal));
  }

  function take({ event, data }) {
    if (event === "metrics") metrics.push(data.data);
    if (event === "sample") samples.push(data.data);
    if (event === "message") messages.push(data.data.text);
    if (event === "done") {
      job = data;
      changed();
    }
  }

  function drawEvents() {
    chart.update(runLines(metrics));
    drawSamples(parts.samples, samples, metrics);
    replace(
      parts.messages,
      messages.length > 0 && h("h2", {}, "Said on the way"),
      messages.map((text) => h("p", { class: "small" }, text)),
    );
  }

  /** Events since the start come in one burst; they are drawn together. */
  async function watchEvents() {
    let isDrawing = false;
    for await (const event of follow(at("/v1/jobs", job.id, "events"), { signal })) {
      take(event);
      if (!isDrawing) {
        isDrawing = true;
        requestAnimationFrame(() => {
          isDrawing = false;
          if (!signal.aborted) drawEvents();
        });
      }
    }
  }

  /** Events come at evaluations only; step, speed and time left are asked for in between. */
  async function watchProgress() {
    while (!signal.aborted && !FINAL.includes(job.status)) {
      await pause(POLL_MS, signal);
      if (signal.aborted || document.hidden) continue;
      try {
        job = await get(at("/v1/jobs", job.id), { signal });
        if (!signal.aborted) changed();
      } catch (error) {
        if (!signal.aborted && error.status === 404) {
          replace(parts.said, failure(error));
          return;
        }
      }
    }
  }

  changed();
  drawEvents();
  for (const watching of [watchEvents(), watchProgress()]) {
    watching.catch((error) => {
      if (!signal.aborted) replace(parts.said, failure(error));
    });
  }

  return h(
    "div",
    { class: "view" },
    h("p", { class: "crumb" }, h("a", { href: "#/jobs" }, "Training"), " / ", job.id),
    parts.head,
    parts.said,
    parts.outcome,
    job.masked_by_default && hint(h("p", { class: "small" }, sentence(job.masked_by_default))),
    parts.progress,
    h(
      "div",
      { class: "beside" },
      h("section", { class: "card stack" }, h("h2", {}, "Bits a character"), chart.node),
      h("section", { class: "card stack" }, h("h2", {}, "What it writes"), parts.samples),
    ),
    parts.messages,
    settings(job),
  );
}

/** Return the body of a cancel, or null if it is not meant after all. */
async function howToCancel(job) {
  /** @type {[string, string, string][]} */
  const actions = [["drop", "Cancel and drop it", "button danger"]];
  if (job.progress) actions.push(["keep", "Cancel and keep the model", "button primary"]);
  const answer = await chosen({
    title: `Cancel the training of ${job.name}?`,
    text: "You can keep what it has learned so far as a model, or drop it. To go on later, pause it instead.",
    actions,
  });
  return { "": null, drop: { keep_best: false }, keep: { keep_best: true } }[answer];
}

function buttons(job, act) {
  const button = (what, label, style = "button") =>
    h("button", { type: "button", class: style, disabled: Boolean(job.asked), onclick: () => act(what) }, label);
  if (FINAL.includes(job.status))
    return [
      job.status === "failed" && button("resume", "Resume"),
      h("a", { class: "button", href: `#/train?corpus=${job.corpus}` }, "Train again"),
    ];
  return [
    job.status === "paused" ? button("resume", "Resume", "button primary") : button("pause", "Pause"),
    button("cancel", "Cancel", "button danger"),
  ];
}

function drawProgress(place, job) {
  const progress = job.progress ?? {};
  if (job.status === "queued" && progress.step === undefined) {
    replace(
      place,
      hint(
        h(
          "p",
          {},
          job.queue_position
            ? `Number ${job.queue_position} in the queue. It begins as soon as a worker is free.`
            : "Waiting for a worker. If this lasts, look whether one is running: `make serve` starts one.",
        ),
      ),
    );
    return;
  }
  if (job.status === "running" && progress.step === undefined) {
    replace(
      place,
      hint(h("p", {}, "The worker loads the text and builds the network; this takes some seconds.")),
      h("progress", { "aria-label": "Starting" }),
    );
    return;
  }
  const isOver = FINAL.includes(job.status);
  replace(
    place,
    job.status === "running" &&
      progress.waiting_for_storage &&
      warning(
        h("p", { class: "strong" }, "Waiting for storage"),
        h("p", {}, sentence(progress.waiting_for_storage)),
        h("p", {}, "The worker keeps what it has learned and goes on by itself."),
      ),
    !isOver &&
      h("progress", { max: progress.steps ?? 1, value: progress.steps ? progress.step : 0, "aria-label": "Progress" }),
    h(
      "dl",
      { class: "facts card" },
      fact("Held out", `${bits(progress.validation_bits_per_character)} bits`),
      fact("In training", `${bits(progress.train_bits_per_character)} bits`),
      !isOver && fact("Time left", job.status === "running" ? clock(progress.seconds_left) : "–"),
      fact("Characters a second", whole(progress.characters_per_second)),
      fact("Steps", progress.steps ? `${whole(progress.step)} of ${whole(progress.steps)}` : whole(progress.step)),
      fact("Epochs", decimal(progress.epoch)),
    ),
  );
}

function drawSamples(place, samples, metrics) {
  if (!samples.length) {
    replace(
      place,
      h("p", { class: "muted" }, "At each evaluation the network writes something. At first that is gibberish."),
    );
    return;
  }
  const measured = (step) => metrics.find((point) => point.step === step)?.validation_bits_per_character;
  const wasOpen = place.querySelector("details")?.open;
  const entry = ({ step, text }) =>
    h(
      "li",
      {},
      h("span", { class: "muted small number" }, `step ${whole(step)} · ${bits(measured(step))} bits`),
      h("div", { class: "sample" }, text),
    );
  const newest = samples.at(-1);
  const earlier = samples.slice(0, -1).reverse();
  replace(
    place,
    h("ol", { class: "timeline" }, entry(newest)),
    earlier.length > 0 &&
      h(
        "details",
        { open: Boolean(wasOpen) },
        h("summary", {}, `${count(earlier.length, "earlier sample")}, back to the first`),
        h("ol", { class: "timeline" }, earlier.map(entry)),
      ),
  );
}

function outcome(job, signal) {
  switch (job.status) {
    case "succeeded":
      return ready(job, signal);
    case "failed":
      return h(
        "div",
        { class: "box danger", role: "alert" },
        h("p", { class: "strong" }, `The training failed: ${job.error?.message ?? "no reason was kept"}`),
        h("p", {}, CURES[job.error?.code] ?? "Train again; if it fails again, the worker’s log says more."),
        h("p", { class: "small" }, "Code ", h("code", {}, job.error?.code ?? "unknown")),
        h("div", { class: "row" }, h("a", { class: "button", href: `#/train?corpus=${job.corpus}` }, "Train again")),
      );
    case "cancelled":
      return warning(
        h(
          "p",
          {},
          job.model
            ? `Cancelled; what it had learned is kept as ${job.model}.`
            : "Cancelled. There is no model from this job.",
        ),
      );
    case "paused":
      return warning(
        job.pause_reason &&
          h(
            "p",
            {},
            `Paused: ${job.pause_reason.message}. `,
            job.pause_reason.code.startsWith("storage_") && "It goes on by itself when the storage works again.",
          ),
        h("p", {}, "Paused at a checkpoint. “Resume” takes it up where it was."),
      );
    default:
      return null;
  }
}

/** The job has become a model: something is written with it at once. */
function ready(job, signal) {
  const model = encodeURIComponent(job.model);
  const area = writer({ model: job.model, label: `Write with ${job.model}`, rows: 3 });
  area.classList.remove("writing");
  const shown = h("p", { class: "continuation", "aria-live": "polite" });
  const said = h("div", {});

  async function goOn() {
    const prompt = area.value;
    replace(said);
    const added = h("span", { class: "new" });
    replace(shown, h("span", { class: "muted" }, tail(prompt, 60)), added);
    try {
      await complete(
        job.model,
        prompt,
        { max_characters: 160, temperature: 0.5 },
        {
          signal,
          onText: (text) => {
            added.textContent += text;
          },
        },
      );
    } catch (error) {
      if (!signal.aborted) replace(said, failure(error));
    }
  }

  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) goOn();
  });
  const wrong = h("div", {});
  get(at("/v1/models", job.model), { signal }).then(
    (found) => replace(wrong, problems(found.report)),
    () => {}, // the model is gone: the completion below shows that error
  );
  firstWords(job, signal).then((words) => {
    area.value ||= words;
    goOn();
  });
  return h(
    "section",
    { class: "card stack fades", "aria-label": "The new model" },
    h(
      "div",
      { class: "row apart" },
      h("h2", {}, `${job.model} is trained. Write with it:`),
      h(
        "div",
        { class: "row" },
        h("a", { class: "button small", href: `#/playground?model=${model}` }, "Playground"),
        h("a", { class: "button small", href: `#/anomalies?model=${model}` }, "Anomalies"),
        h("a", { class: "button small", href: `#/models/${model}` }, "About it"),
      ),
    ),
    wrong,
    area,
    h(
      "div",
      { class: "row" },
      h("button", { type: "button", class: "button primary", onclick: goOn }, "Complete"),
      h("span", { class: "muted small" }, "Ghost text comes as you write; Tab takes it."),
    ),
    shown,
    said,
  );
}

/** The first words of the text, for somebody to go on from; nothing if the text is gone. */
async function firstWords(job, signal) {
  const corpus = await get(at("/v1/corpora", job.corpus), { signal }).catch(() => null);
  const line =
    corpus?.sample
      .split("\n")
      .filter((one) => /\S\s+\S/.test(one))
      .at(-1) ?? "";
  return line
    .trim()
    .split(/(?<=\s)/)
    .slice(0, 3)
    .join("")
    .slice(0, 60);
}

function settings(job) {
  const value = (one) =>
    one === null
      ? "–"
      : typeof one === "object"
        ? Object.entries(one)
            .filter(([, v]) => v !== null)
            .map(([k, v]) => `${v} ${k}`)
            .join(", ")
        : String(one);
  const table = (title, object) =>
    h(
      "div",
      {},
      h("h3", {}, title),
      h(
        "dl",
        { class: "facts plain" },
        Object.entries(object).map(([name, one]) => fact(name.replaceAll("_", " "), value(one))),
      ),
    );
  return h(
    "details",
    { class: "card" },
    h("summary", {}, "What was asked for"),
    h(
      "div",
      { class: "stack" },
      h("p", {}, "Text ", h("a", { href: `#/corpora/${job.corpus}` }, job.corpus)),
      h("p", {}, "Masks: ", job.masks?.length ? job.masks.join(", ") : "none"),
      table("Network", job.network),
      table("Training", job.training),
    ),
  );
}

function fact(label, value) {
  return h("div", {}, h("dt", {}, label), h("dd", {}, value));
}
