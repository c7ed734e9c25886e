/** What can be done with a job: pause, resume, cancel, train again. */

import { h } from "../dom.js";
import { chooseAction } from "./dialog.js";
import { FINAL_STATUSES } from "./job-card.js";

/**
 * Return the buttons for a job's status.
 *
 * @param {any} job
 * @param {(action: 'pause' | 'resume' | 'cancel') => void} onAction
 */
export function jobActions(job, onAction) {
  const button = (action, label, style = "button") =>
    h("button", { class: style, disabled: Boolean(job.asked), onclick: () => onAction(action) }, label);
  if (FINAL_STATUSES.includes(job.status)) {
    return [
      job.status === "failed" && button("resume", "Resume"),
      h("a.button", { href: `#/train?corpus=${job.corpus}` }, "Train again"),
    ];
  }
  return [
    job.status === "paused" ? button("resume", "Resume", "button primary") : button("pause", "Pause"),
    button("cancel", "Cancel", "button danger"),
  ];
}

/** Ask whether to keep the model; return the body of the cancel request, or null to not cancel. */
export async function askHowToCancel(job) {
  /** @type {[string, string, string][]} */
  const actions = [["discard", "Cancel and discard", "button danger"]];
  if (job.progress) actions.push(["keep", "Cancel and keep the model", "button primary"]);
  const choice = await chooseAction({
    title: `Cancel training of ${job.name}?`,
    text: "You can keep the best model so far or discard it. To continue later, pause the job instead.",
    actions,
  });
  return choice ? { keep_best: choice === "keep" } : null;
}
