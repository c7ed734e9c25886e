/** One job: progress, learning curves and samples as it trains, and its outcome. */

import { apiPath, delay, get, post } from "../api.js";
import { askHowToCancel, jobActions } from "../components/job-actions.js";
import { FINAL_STATUSES, statusBadge } from "../components/job-card.js";
import { jobConfiguration } from "../components/job-configuration.js";
import { jobOutcome } from "../components/job-outcome.js";
import { jobProgress } from "../components/job-progress.js";
import { drawSamples } from "../components/job-samples.js";
import { axisOptions, learningCurves } from "../components/learning-curves.js";
import { lineChart } from "../components/line-chart.js";
import { maskedLine } from "../components/marked-line.js";
import { attemptIn, formWords, hintBox, sentence, toast } from "../components/notice.js";
import { h, replace } from "../dom.js";
import { followEvents } from "../event-stream.js";

const POLL_MS = 1000;

/** @param {import('../router.js').Page} page */
export async function jobView({ params, signal }) {
  let job = await get(apiPath("/v1/jobs", params.job), { signal });
  /** @type {any[]} */ const metrics = [];
  /** @type {any[]} */ const samples = [];
  /** @type {string[]} */ const log = [];
  let outcomeStatus = "";
  let drawnPreset = "";
  let drawnActions = "";

  const chart = lineChart({ label: "Learning curves", yLabel: "Bits per character", ...axisOptions("seconds") });
  const heading = h("h1"); // stays while its job changes: it is focused when the view opens
  const sections = {
    actions: h("div.row"),
    error: h("div"),
    outcome: h("div.stack"),
    progress: h("div.stack"),
    samples: h("div.stack"),
    log: h("div.stack.tight"),
    configuration: h("div"),
  };

  const attempt = attemptIn(sections.error, signal);

  function drawJob() {
    drawHead();
    replace(sections.progress, jobProgress(job));
    drawConfiguration();
    // The outcome is drawn once for each status, and for the early model: the user may be writing in it.
    const status = job.early && job.status !== "paused" ? "early" : job.status;
    if (outcomeStatus === status) return;
    outcomeStatus = status;
    replace(sections.outcome, jobOutcome(job, signal));
  }

  /** Draw the configuration, again once preset auto has chosen. */
  function drawConfiguration() {
    const preset = `${job.preset} ${job.chosen_preset}`;
    if (drawnPreset === preset) return;
    drawnPreset = preset;
    const isOpen = sections.configuration.querySelector("details")?.open ?? false;
    const details = jobConfiguration(job);
    details.open = isOpen;
    replace(sections.configuration, details);
  }

  /** Draw name, status and buttons, again once they change: one of them may be pressed or focused. */
  function drawHead() {
    const actions = `${job.status} ${job.asked}`;
    if (drawnActions === actions) return;
    drawnActions = actions;
    const focused = sections.actions.contains(document.activeElement) ? document.activeElement?.textContent : null;
    replace(heading, job.name, " ", statusBadge(job));
    replace(
      sections.actions,
      jobActions(job, (action) => attempt(() => requestAction(action))),
    );
    if (focused) [...sections.actions.querySelectorAll("button")].find((one) => one.textContent === focused)?.focus();
  }

  function drawEvents() {
    chart.update(learningCurves(metrics));
    drawSamples(sections.samples, samples, metrics);
    replace(
      sections.log,
      log.length > 0 && h("h2", "Log"),
      log.map((text) => h("p.small", maskedLine(formWords(text)))),
    );
  }

  async function requestAction(action) {
    const body = action === "cancel" ? await askHowToCancel(job) : undefined;
    if (body === null) return;
    const wasFinal = FINAL_STATUSES.includes(job.status);
    job = await post(apiPath("/v1/jobs", job.id, action), body);
    if (wasFinal) return location.reload(); // nothing follows a job that had ended
    if (job.asked) toast(`The job will ${action} after the current step.`);
    drawJob();
  }

  function handleEvent({ event, data }) {
    if (event === "metrics") metrics.push(data.data);
    if (event === "sample") samples.push(data.data);
    if (event === "message") log.push(data.data.text);
    if (event === "done") {
      job = data;
      drawJob();
    }
  }

  /** Follow the events. Those since the start arrive at once, so they are drawn once per frame. */
  async function watchEvents() {
    let isDrawing = false;
    for await (const event of followEvents(apiPath("/v1/jobs", job.id, "events"), { signal })) {
      handleEvent(event);
      if (isDrawing) continue;
      isDrawing = true;
      requestAnimationFrame(() => {
        isDrawing = false;
        if (!signal.aborted) drawEvents();
      });
    }
  }

  /** Poll step, speed and time left, because events come only at evaluations. */
  async function pollProgress() {
    while (!signal.aborted && !FINAL_STATUSES.includes(job.status)) {
      await delay(POLL_MS, signal);
      if (signal.aborted || document.hidden) continue;
      try {
        job = await get(apiPath("/v1/jobs", job.id), { signal });
        if (!signal.aborted) drawJob();
      } catch (error) {
        if (error.status === 404) throw error; // others may pass
      }
    }
  }

  drawJob();
  drawEvents();
  for (const task of [watchEvents, pollProgress]) attempt(task);

  return h(
    "div.view",
    h("p.breadcrumb", h("a", { href: "#/jobs" }, "Jobs"), " / ", job.id),
    h("div.row.apart", heading, sections.actions),
    sections.error,
    sections.outcome,
    job.masked_by_default && hintBox(h("p.small", maskedLine(sentence(job.masked_by_default)))),
    sections.progress,
    h(
      "div.with-sidebar",
      h("section.card.stack", h("h2", "Learning curves"), chart.node),
      h("section.card.stack", h("h2", "Samples"), sections.samples),
    ),
    sections.log,
    sections.configuration,
  );
}
