/** How a job ended or why it is paused, with what to do next. */

import { h } from "../dom.js";
import { warningBox } from "./notice.js";
import { earlyModel, trainedModel } from "./trained-model.js";

/** What to do about a failure, by its error code. */
const ADVICE = {
  corpus_too_small: "Upload a longer text and train on that.",
  corpus_not_found: "The corpus was deleted in the meantime. Upload it again.",
  diverged: "Train again with a lower learning rate or a smaller network.",
  out_of_memory: "Train again with fewer units or rows or a shorter window, or on a machine with more memory.",
  worker_lost: "Find the cause in the worker’s log, then train again.",
};

/** Return, of a job that is queued or running, its early model if there is one. @param {any} job @param {AbortSignal} signal */
export function jobOutcome(job, signal) {
  switch (job.status) {
    case "succeeded":
      return trainedModel(job, signal);
    case "failed":
      return failed(job);
    case "cancelled":
      return warningBox(
        h("p", job.model ? `Cancelled. The best model so far is ${job.model}.` : "Cancelled. No model was kept."),
      );
    case "paused":
      return paused(job);
    default:
      return job.early && earlyModel(job, signal);
  }
}

function failed({ error }) {
  return h(
    "div.box.danger",
    { role: "alert" },
    h("p.strong", `Training failed: ${error?.message ?? "no reason was recorded"}`),
    h("p", ADVICE[error?.code] ?? "Train again. If it fails again, look for the cause in the worker’s log."),
    h("p.small", "Error code ", h("code", error?.code ?? "unknown")),
  );
}

function paused({ pause_reason: reason }) {
  const resumesItself = reason?.code.startsWith("storage_");
  return warningBox(
    reason && h("p", `Paused: ${reason.message}.`),
    h(
      "p",
      resumesItself
        ? "The job resumes by itself when the storage works again. “Resume” tries at once."
        : "“Resume” continues from the last checkpoint.",
    ),
  );
}
