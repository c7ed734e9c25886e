/** A job as an entry of a list, with its curve while it runs; and its status as a badge. */

import { apiPath } from "../api.js";
import { h, replace } from "../dom.js";
import { followEvents } from "../event-stream.js";
import { bits, duration } from "../format.js";
import { timeAgo } from "./facts.js";
import { smallCurve } from "./sparkline.js";

export const FINAL_STATUSES = ["succeeded", "failed", "cancelled"];

/**
 * Return a job as an entry of a list. `update` brings it up to date; its link stays the same element, as it may be
 * focused or pressed.
 *
 * @param {any} job
 * @param {{signal: AbortSignal}} options
 */
export function jobCard(job, { signal }) {
  const badge = h("span");
  const details = h("div.stack.tight");
  const curve = h("div");
  const heading = h("h3", h("a", { href: `#/jobs/${job.id}` }, job.name));
  const node = h("article.item", h("div.row.apart", heading, badge), curve, details);
  let isFollowed = false;
  const update = (latest) => {
    replace(badge, statusBadge(latest));
    replace(details, jobDetails(latest));
    if (latest.status !== "running" || isFollowed) return;
    isFollowed = true;
    drawCurve(job.id, curve, signal).catch(() => {}); // the card has the figures
  };
  update(job);
  return { node, update };
}

/** Follow the evaluations of a running job. */
async function drawCurve(id, container, signal) {
  /** @type {[number, number][]} */ const points = [];
  for await (const { event, data } of followEvents(apiPath("/v1/jobs", id, "events"), { signal })) {
    if (event !== "metrics" || !data.data.step) continue; // that of the untrained network would flatten the curve
    points.push([data.data.elapsed_seconds, data.data.validation_bits_per_character]);
    if (points.length > 1) replace(container, smallCurve(points));
  }
}

function jobDetails(job) {
  const progress = job.progress ?? {};
  return [
    h(
      "p.muted.small.number",
      [
        !job.model && // whose figure is another: the network is only a part of it
          Number.isFinite(progress.validation_bits_per_character) &&
          `held-out ${bits(progress.validation_bits_per_character)} bits per character`,
        job.status === "running" &&
          (progress.phase ?? (Number.isFinite(progress.seconds_left) && `${duration(progress.seconds_left)} left`)),
        job.status === "queued" && job.queue_position && `position ${job.queue_position} in the queue`,
        job.model,
      ]
        .filter(Boolean)
        .map((text) => `${text} · `),
      timeAgo(job.created_at),
    ),
    job.error && h("p.small", job.error.message),
    job.status === "running" &&
      progress.steps &&
      h("progress", {
        max: progress.steps,
        ...(progress.phase ? {} : { value: progress.step }),
        "aria-label": `Progress of ${job.name}`,
      }),
  ];
}

/** Return the status of a job as a badge. @param {any} job */
export function statusBadge(job) {
  return h("span", { class: `badge ${job.status}` }, statusText(job));
}

/** Return the status of a job, or what was requested of it. @param {any} job */
export function statusText(job) {
  return { cancel: "cancelling", pause: "pausing" }[job.asked] ?? job.status;
}
