/** A job as an entry of a list, and its status as a badge. */

import { h, replace } from "../dom.js";
import { bits, dateTime, duration } from "../format.js";

export const FINAL_STATUSES = ["succeeded", "failed", "cancelled"];

/**
 * Return a job as an entry of a list. `update` brings it up to date; its link stays the same element, as it may be
 * focused or pressed.
 *
 * @param {any} job
 * @param {string} headingTag its level on the page
 */
export function jobCard(job, headingTag = "h3") {
  const badge = h("span", {});
  const details = h("div", { class: "stack tight" });
  const heading = h(headingTag, {}, h("a", { href: `#/jobs/${job.id}` }, job.name));
  const node = h("article", { class: "item" }, h("div", { class: "row apart" }, heading, badge), details);
  const update = (latest) => {
    replace(badge, statusBadge(latest));
    replace(details, jobDetails(latest));
  };
  update(job);
  return { node, update };
}

function jobDetails(job) {
  const progress = job.progress ?? {};
  return [
    h(
      "p",
      { class: "muted small number" },
      [
        dateTime(job.created_at),
        Number.isFinite(progress.validation_bits_per_character) &&
          `held-out ${bits(progress.validation_bits_per_character)} bits per character`,
        job.status === "running" && Number.isFinite(progress.seconds_left) && `${duration(progress.seconds_left)} left`,
        job.status === "queued" && job.queue_position && `position ${job.queue_position} in the queue`,
        job.model,
      ]
        .filter(Boolean)
        .join(" · "),
    ),
    job.error && h("p", { class: "small" }, job.error.message),
    job.status === "running" &&
      progress.steps &&
      h("progress", { max: progress.steps, value: progress.step, "aria-label": `Progress of ${job.name}` }),
  ];
}

/** Return the status of a job as a badge. @param {any} job */
export function statusBadge(job) {
  const pending = { cancel: "cancelling", pause: "pausing" }[job.asked];
  return h("span", { class: `badge ${job.status}` }, pending ?? job.status);
}
