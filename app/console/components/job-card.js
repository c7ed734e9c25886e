/** A job as an entry of a list, and its state in a word. */

import { h } from "../dom.js";
import { bits, clock, moment } from "../format.js";

export const FINAL = ["succeeded", "failed", "cancelled"];

/** Return a job as a list's entry. @param {any} job @param {string} heading the level it has on its page */
export function jobItem(job, heading = "h3") {
  const progress = job.progress ?? {};
  return h(
    "article",
    { class: "item" },
    h("div", { class: "row apart" }, h(heading, {}, h("a", { href: `#/jobs/${job.id}` }, job.name)), badge(job)),
    h(
      "p",
      { class: "muted small number" },
      [
        moment(job.created_at),
        Number.isFinite(progress.validation_bits_per_character) &&
          `${bits(progress.validation_bits_per_character)} bits a character held out`,
        job.status === "running" && Number.isFinite(progress.seconds_left) && `${clock(progress.seconds_left)} left`,
        job.status === "queued" && job.queue_position && `number ${job.queue_position} in the queue`,
        job.model,
      ]
        .filter(Boolean)
        .join(" · "),
    ),
    job.error && h("p", { class: "small" }, job.error.message),
    job.status === "running" &&
      progress.steps &&
      h("progress", { max: progress.steps, value: progress.step, "aria-label": `Progress of ${job.name}` }),
  );
}

/** Return a job's state as a badge. @param {any} job */
export function badge(job) {
  const text = job.asked ? { cancel: "stopping", pause: "pausing" }[job.asked] : job.status;
  return h("span", { class: `badge ${job.status}` }, text);
}
