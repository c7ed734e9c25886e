/** The details of one alert: its lines, when and where they came, and what to decide. */

import { apiPath, get } from "../api.js";
import { h, replace } from "../dom.js";
import { bits, count, dateTime, rarity } from "../format.js";
import { decide, decisionControls } from "./alert-decisions.js";
import { fact, timeAgo } from "./facts.js";
import { maskedLine } from "./marked-line.js";
import { errorBox } from "./notice.js";
import { sparkline } from "./sparkline.js";

const MIN_ESTIMATE = 1e-9; // an estimated p-value below this is shown as this
const BADGES = { critical: "failed", warning: "paused", info: "" };

/** Return the severity of an alert as a badge. @param {string} severity */
export function severityBadge(severity) {
  return h("span", { class: `badge ${BADGES[severity] ?? ""}` }, severity);
}

/** Return the address of one alert. @param {string} model @param {string} alert its id */
export function alertAddress(model, alert) {
  return `#/alerts?${new URLSearchParams({ model, alert })}`;
}

/** Return how rare its rarest line is; an estimate where the calibration has too few lines. @param {any} alert */
export function alertRarity({ p_value: bound, estimated_p_value: estimated }) {
  if (!(estimated < bound)) return rarity(bound);
  const times = Number((1 / Math.max(estimated, MIN_ESTIMATE)).toPrecision(1)); // no more digits than it deserves
  return `${rarity(1 / times)}, estimated`;
}

/**
 * Return the lines of an alert that are kept with it, the rarest first.
 *
 * @param {any} alert
 */
export function exampleList({ examples }) {
  return h(
    "ul.stack.tight.examples",
    examples.map(({ line, spans, score, source, line_time: lineTime }) =>
      h(
        "li",
        h("p.log-text.mono", maskedLine(line, spans)),
        h(
          "p.small.muted.number",
          [`score ${bits(score)} bits`, source, lineTime !== null && dateTime(lineTime)].filter(Boolean).join(" · "),
        ),
      ),
    ),
  );
}

/**
 * Return the panel; `show` shows an alert, or nothing for null.
 *
 * @param {{signal: AbortSignal, onDecided: () => void, onClose: () => void}} options
 */
export function alertDetails({ signal, onDecided, onClose }) {
  const node = h("aside.card.stack.alert-details", { "aria-label": "Alert", hidden: true });
  const status = h("div");
  const around = h("div");
  /** @type {any} */ let alert = null;
  let drawn = "";

  async function act(decision) {
    replace(status);
    try {
      if (!(await decide([alert], decision, { signal, onDone: onDecided }))) draw();
    } catch (error) {
      draw();
      if (!signal.aborted) replace(status, errorBox(error));
    }
  }

  /** Show what came before and after the newest flagged event that an agent sent. */
  async function showAround() {
    const shown = alert;
    const found = await get(apiPath("/v1/models", shown.model, "alerts", shown.id), { signal }).catch(() => null);
    if (shown !== alert) return;
    const lines = found?.around;
    const row = (text, isFlagged = false) =>
      h("li", { class: `log-text mono ${isFlagged ? "strong" : "muted"}` }, text);
    replace(
      around,
      lines && h("h3", "Before and after"),
      lines &&
        h(
          "ol.stack.tight.examples",
          lines.before.map((one) => row(one)),
          row(lines.line, true),
          lines.after.map((one) => row(one)),
        ),
    );
  }

  function draw() {
    const title = withoutMarks(alert.title);
    const rarest = alert.examples.find(({ line }) => withoutMarks(line).includes(title)) ?? alert.examples[0];
    replace(
      node,
      h(
        "div.row.apart",
        h(
          "div.row",
          severityBadge(alert.severity),
          alert.state !== "open" && h("span.badge", alert.state),
          alert.label && h("span.badge", alert.label),
        ),
        h("button.icon", { "aria-label": "Close the details", onclick: onClose }, "×"),
      ),
      h("h2.mono.alert-title.log-text", rarest ? maskedLine(rarest.line, rarest.spans) : maskedLine(alert.template)),
      rarest && h("p.mono.small.muted.template", maskedLine(alert.template)),
      h(
        "div.row.alert-actions",
        alert.acknowledged_at === null &&
          h("button.button.small", { onclick: () => act({ action: "acknowledge" }) }, "Acknowledge"),
        decisionControls(alert.label, act),
      ),
      status,
      h(
        "dl.facts.plain",
        fact("Lines", count(alert.count, "line")),
        fact("Rarest line", alertRarity(alert)),
        fact("First seen", timeAgo(alert.first_seen)),
        fact("Last seen", timeAgo(alert.last_seen)),
        fact("Anomalous word", h("code", maskedLine(alert.span))),
        alert.sources.length > 0 && fact("From", alert.sources.join(", ")),
        alert.runbook && fact("Runbook", h("a", { href: alert.runbook, rel: "noreferrer" }, alert.runbook)),
        alert.acknowledged_at !== null &&
          fact("Acknowledged", [
            timeAgo(alert.acknowledged_at),
            alert.acknowledged_by && ` by ${alert.acknowledged_by}`,
          ]),
        alert.suppressed_until !== null && fact("Suppressed until", dateTime(alert.suppressed_until)),
      ),
      sparkline(alert.counts, alert.interval_s),
      h("div.row.apart", h("h3", "Examples"), h("a.small", { href: linesAddress(alert) }, "Flagged lines")),
      exampleList(alert),
      around,
    );
  }

  return {
    node,
    /** @param {any} newAlert */
    show(newAlert) {
      const json = JSON.stringify(newAlert);
      if (json === drawn) return;
      if (newAlert?.id !== alert?.id) for (const part of [status, around]) replace(part);
      [alert, drawn] = [newAlert, json];
      node.hidden = alert === null;
      if (!alert) return;
      draw();
      showAround();
    },
  };
}

/** Return the address of the lines of an alert. */
function linesAddress({ model, id }) {
  return `#/live?${new URLSearchParams({ model, alert: id })}`;
}

/** A line or a title without the marks of what is anomalous, and of what was cut. */
function withoutMarks(text) {
  return text.replaceAll(/[»«…]/g, "");
}
