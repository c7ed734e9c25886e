/** What became of the lines that log agents send to a model. */

import { h } from "../dom.js";
import { decimal, duration, integer } from "../format.js";
import { fact } from "./facts.js";
import { warningBox } from "./notice.js";

/** Return the figures of a response of `GET …/ingest`. @param {any} status */
export function ingestStatus(status) {
  const rate = status.per_second;
  return [
    status.problem && warningBox(h("p", status.problem.message)),
    h(
      "dl.facts.plain",
      fact("Accepted", `${integer(status.accepted)} (${decimal(rate.accepted, 1)} per second)`),
      fact("Scored", `${integer(status.scored)} (${decimal(rate.scored, 1)} per second)`),
      fact("Flagged", `${integer(status.flagged)} (${decimal(rate.flagged, 2)} per second)`),
      fact(
        "Waiting",
        status.oldest_age_s === null
          ? integer(status.waiting)
          : `${integer(status.waiting)} (oldest: ${duration(status.oldest_age_s)})`,
      ),
      status.rejected + status.failed + status.expired > 0 &&
        fact("Not scored", integer(status.rejected + status.failed + status.expired)),
    ),
  ];
}
