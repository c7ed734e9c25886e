/** The progress of a job: what it waits for, or its figures. */

import { h } from "../dom.js";
import { bits, decimal, duration, integer } from "../format.js";
import { fact } from "./facts.js";
import { FINAL_STATUSES } from "./job-card.js";
import { hintBox, sentence, warningBox } from "./notice.js";

/** @param {any} job */
export function jobProgress(job) {
  const progress = job.progress ?? {};
  const hasStarted = progress.step !== undefined;
  if (job.status === "queued" && !hasStarted) return queuedHint(job);
  if (job.status === "running" && !hasStarted) {
    return [
      hintBox(h("p", "The worker is reading the corpus and building the network: some seconds per megabyte.")),
      h("progress", { "aria-label": "Starting" }),
    ];
  }
  return [
    job.status === "running" && progress.waiting_for_storage && storageWarning(progress.waiting_for_storage),
    !FINAL_STATUSES.includes(job.status) && progressBar(progress),
    figures(job.status, progress),
  ];
}

function queuedHint(job) {
  return hintBox(
    h(
      "p",
      job.queue_position
        ? `Position ${job.queue_position} in the queue. Training starts as soon as a worker is free.`
        : "Waiting for a worker. At its first start on a machine a worker compiles kernels, which takes some " +
            "seconds (once per machine and version). If this takes longer, check that a worker is running.",
    ),
  );
}

function storageWarning(reason) {
  return warningBox(
    h("p.strong", "Waiting for storage"),
    h("p", sentence(reason)),
    h("p", "The worker keeps what it has trained and continues when the storage works again."),
  );
}

/** While the report is made there is no end in sight: the bar moves, and the phase is named. */
function progressBar({ step, steps, phase }) {
  if (phase) return [h("p", `Training is done. Now: ${phase}.`), h("progress", { "aria-label": "Evaluation" })];
  return h("progress", { max: steps ?? 1, value: steps ? step : 0, "aria-label": "Progress" });
}

function figures(status, progress) {
  const isTraining = status === "running" && !progress.phase;
  return h(
    "dl.facts.card",
    fact("Held-out bits, network alone", bits(progress.validation_bits_per_character)),
    fact("Training bits, network alone", bits(progress.train_bits_per_character)),
    fact(
      "Trained for",
      duration(progress.elapsed_seconds) + (isTraining ? `, ${duration(progress.seconds_left)} left` : ""),
    ),
    fact("Characters per second", integer(progress.characters_per_second)),
    fact("Steps", progress.steps ? `${integer(progress.step)} of ${integer(progress.steps)}` : integer(progress.step)),
    fact("Epochs", decimal(progress.epoch)),
  );
}
