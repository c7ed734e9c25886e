/** How many suggestions of a model's name were accepted: in all, by day and version, and by client. */

import { h } from "../dom.js";
import { decimal, integer, percent } from "../format.js";
import { fact } from "./facts.js";
import { lineChart } from "./line-chart.js";
import { scrollable, table } from "./table.js";

const DAY_MS = 86_400_000;
const MAX_VERSIONS = 6; // lines of the chart, as there are colors

/**
 * Return nothing if none was shown.
 *
 * @param {any} found of `/v1/models/{model}/acceptance`
 */
export function acceptance(found) {
  const { total, days } = found;
  if (!total.shown) return null;
  return h(
    "section.card.stack",
    { "aria-label": "Acceptance" },
    h("h2", "Acceptance"),
    h("p.muted.small", `Suggestions of all versions of ${found.model}, in the last ${days} days.`),
    h(
      "dl.facts",
      fact("Shown", integer(total.shown)),
      fact("Accepted", rate(total.acceptance_rate)),
      fact("Still there after a minute", rate(total.kept_rate)),
      fact("Characters saved", integer(total.characters_saved)),
      total.latency_ms && fact("Latency, median", `${decimal(total.latency_ms.p50, 1)} ms`),
      total.latency_ms && fact("Latency, 99 %", `${decimal(total.latency_ms.p99, 1)} ms`),
    ),
    byDay(found),
    byName("Version", found.versions, (row) => row.model),
    byName("Client", found.clients, (row) => row.client ?? "not named"),
  );
}

function byDay({ by_day: rows, versions }) {
  if (new Set(rows.map((row) => row.day)).size < 2) return null; // no line has two points
  const chart = lineChart({
    label: "Acceptance by day and version",
    xLabel: "Day",
    yLabel: "Accepted, %",
    formatX: (day) =>
      new Date(day * DAY_MS).toLocaleDateString([], { day: "numeric", month: "short", timeZone: "UTC" }),
    xSteps: [1, 2, 7, 14, 28, 56],
    isFirstShown: true,
  });
  chart.update(
    versions.slice(-MAX_VERSIONS).map(({ model }, color) => ({
      name: model,
      color,
      dashed: color % 2 === 1,
      points: rows
        .filter((row) => row.model === model && row.shown)
        .map((row) => [Date.parse(row.day) / DAY_MS, 100 * row.acceptance_rate]),
    })),
  );
  return chart.node;
}

function byName(label, rows, name) {
  return scrollable(
    `Acceptance by ${label.toLowerCase()}`,
    table(
      [label, "Shown", "Accepted", "Kept", "Characters saved"],
      rows.map((row) => [
        name(row),
        integer(row.shown),
        rate(row.acceptance_rate),
        rate(row.kept_rate),
        integer(row.characters_saved),
      ]),
    ),
  );
}

/** @param {number | null} share */
function rate(share) {
  return share === null ? "–" : percent(share).replace(" ", "\u00a0");
}
