/** One alert: what it groups, how often and since when, and its decision. */

import { apiPath, post } from "../api.js";
import { h, replace } from "../dom.js";
import { bits, count, dateTime, rarity } from "../format.js";
import { select } from "./form-fields.js";
import { markedLine } from "./marked-line.js";
import { errorBox, toast } from "./notice.js";
import { sparkline } from "./sparkline.js";

const HOUR_S = 3600;

/** For how long an alert can be suppressed: seconds and label. */
const PERIODS = [
  [HOUR_S, "1 hour"],
  [24 * HOUR_S, "1 day"],
  [7 * 24 * HOUR_S, "1 week"],
  [30 * 24 * HOUR_S, "30 days"],
];
const MIN_ESTIMATE = 1e-9; // an estimated p-value below this is shown as this
const BADGES = { critical: "failed", warning: "paused", info: "" };

/**
 * Return a card; `update` shows a newer state of the same alert, and keeps what the user has opened.
 *
 * @param {any} alert
 * @param {{signal: AbortSignal, onSuppressed: () => void}} options
 */
export function alertCard(alert, { signal, onSuppressed }) {
  const head = h("div", { class: "stack tight" });
  const examples = h("ul", { class: "stack tight examples" });
  const acknowledge = h(
    "button",
    { type: "button", class: "button small", onclick: () => act("acknowledge") },
    "Acknowledge",
  );
  const label = select(
    [
      ["none", "Not labeled"],
      ["normal", "Normal"],
      ["incident", "Incident"],
    ],
    alert.label ?? "none",
    { "aria-label": "Label", onchange: () => act("label", { label: label.value === "none" ? null : label.value }) },
  );
  const suppress = select([["", "Suppress for…"], ...PERIODS.map(([seconds, text]) => [String(seconds), text])], "", {
    "aria-label": "Suppress for",
    onchange: suppressFor,
  });
  const status = h("div", {});
  const node = h(
    "article",
    { class: "item alert", "data-alert": alert.id },
    head,
    h(
      "div",
      { class: "row alert-actions" },
      acknowledge,
      label,
      suppress,
      h("a", { class: "button small", href: linesAddress(alert) }, "Flagged lines"),
    ),
    status,
    h("details", {}, h("summary", { class: "small" }, "Examples"), examples),
  );

  function update(newAlert) {
    alert = newAlert;
    replace(head, alertHead(alert));
    replace(
      examples,
      alert.examples.map(({ line, spans, p_value: pValue, score, source, line_time: lineTime }) =>
        h(
          "li",
          {},
          h("p", { class: "log-text mono" }, markedLine(line, spans)),
          h(
            "p",
            { class: "small muted number" },
            [rarity(pValue), `score ${bits(score)} bits`, source, lineTime !== null && dateTime(lineTime)]
              .filter(Boolean)
              .join(" · "),
          ),
        ),
      ),
    );
    acknowledge.hidden = alert.acknowledged_at !== null;
    if (document.activeElement !== label) label.value = alert.label ?? "none";
  }

  async function act(action, body) {
    replace(status);
    try {
      update(await post(apiPath("/v1/models", alert.model, "alerts", alert.id, action), body, { signal }));
    } catch (error) {
      label.value = alert.label ?? "none";
      if (!signal.aborted) replace(status, errorBox(error));
    }
  }

  async function suppressFor() {
    const seconds = Number(suppress.value);
    suppress.value = "";
    if (!seconds) return;
    replace(status);
    const until = Math.floor(Date.now() / 1000) + seconds;
    try {
      await post(apiPath("/v1/models", alert.model, "alerts", alert.id, "suppress"), { until }, { signal });
      toast(`Suppressed until ${dateTime(until)}.`);
      onSuppressed();
    } catch (error) {
      if (!signal.aborted) replace(status, errorBox(error));
    }
  }

  update(alert);
  return { node, update };
}

/** Return the address of one alert. @param {string} model @param {string} alert its id */
export function alertAddress(model, alert) {
  return `#/alerts?${new URLSearchParams({ model, alert })}`;
}

/** Return how rare its rarest line is; an estimate where the calibration has too few lines. */
function alertRarity({ p_value: bound, estimated_p_value: estimated }) {
  if (!(estimated < bound)) return rarity(bound);
  const times = Number((1 / Math.max(estimated, MIN_ESTIMATE)).toPrecision(1)); // no more digits than it deserves
  return `${rarity(1 / times)}, estimated`;
}

/** Return the address of the lines of an alert that agents have sent. */
function linesAddress({ model, id }) {
  return `#/live?${new URLSearchParams({ model, alert: id })}`;
}

function alertHead(alert) {
  const { severity, state, label, span } = alert;
  const rarest = alert.examples[0];
  const [first, last] = [dateTime(alert.first_seen), dateTime(alert.last_seen)];
  return [
    h(
      "div",
      { class: "row apart" },
      h(
        "div",
        { class: "row" },
        h("span", { class: `badge ${BADGES[severity] ?? ""}` }, severity),
        state !== "open" && h("span", { class: "badge" }, state),
        label && h("span", { class: "badge" }, label),
        h("span", { class: "strong number" }, count(alert.count, "line")),
      ),
      sparkline(alert.counts, alert.interval_s),
    ),
    h("h2", { class: "mono alert-title log-text" }, rarest ? markedLine(rarest.line, rarest.spans) : alert.template),
    rarest && h("p", { class: "mono small muted" }, alert.template),
    h(
      "p",
      { class: "small muted number" },
      [
        first === last ? first : `${first} to ${last}`,
        `rarest line: ${alertRarity(alert)}`,
        `anomalous word ${span}`,
        alert.sources.length > 0 && `from ${alert.sources.join(", ")}`,
        alert.acknowledged_at !== null &&
          `acknowledged ${dateTime(alert.acknowledged_at)}${alert.acknowledged_by ? ` by ${alert.acknowledged_by}` : ""}`,
        alert.suppressed_until !== null && `suppressed until ${dateTime(alert.suppressed_until)}`,
      ]
        .filter(Boolean)
        .join(" · "),
    ),
  ];
}
