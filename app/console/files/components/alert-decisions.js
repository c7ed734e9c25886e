/**
 * Decisions on alerts: acknowledge, label, suppress. Every view decides through here.
 *
 * `confirmDecision` is the one place where a decision that hides lines is confirmed: it shows what is covered.
 */

import { apiPath, get, post, request } from "../api.js";
import { h } from "../dom.js";
import { count, dateTime, rarity } from "../format.js";
import { chooseAction } from "./dialog.js";
import { select } from "./form-fields.js";
import { toast } from "./notice.js";

const HOUR_S = 3600;
const MAX_COVERED = 8; // alerts that the confirmation lists

/** For how long an alert can be suppressed: seconds and label. */
export const PERIODS = [
  [String(HOUR_S), "1 hour"],
  [String(24 * HOUR_S), "1 day"],
  [String(7 * 24 * HOUR_S), "1 week"],
  [String(30 * 24 * HOUR_S), "30 days"],
];

/** The labels of an alert, and what they are called. */
export const LABELS = [
  ["none", "Not labeled"],
  ["normal", "Normal"],
  ["incident", "Incident"],
];

/**
 * @typedef {{action: "acknowledge"} | {action: "label", label: "normal" | "incident" | null}
 *   | {action: "suppress", seconds: number}} Decision
 */

/**
 * Decide on alerts, after a confirmation if that hides lines; a message then offers to undo it. Returns whether it was
 * done. Raises ApiError.
 *
 * @param {any[]} alerts
 * @param {Decision} decision
 * @param {{signal: AbortSignal, onDone: () => void}} options `onDone` is called after it was done, and after it was undone
 */
export async function decide(alerts, decision, { signal, onDone }) {
  const covering = await confirmDecision(alerts, decision, signal);
  if (!covering) return false;
  const body = { ...bodyOf(decision), ...covering };
  const made = [];
  for (const alert of alerts) made.push(await post(pathOf(alert, decision.action), body, { signal }));
  onDone();
  const undo = async () => {
    if (decision.action === "suppress")
      for (const one of made) await request("DELETE", apiPath("/v1/models", one.model, "suppressions", one.id));
    else for (const alert of alerts) await restoreLabel(alert);
    onDone();
  };
  toast(
    sentenceOf(alerts, decision, body),
    decision.action === "acknowledge" ? undefined : { label: "Undo", run: undo },
  );
  return true;
}

/** Give an alert the label that it had. What `normal` covers adds up, so it is withdrawn first. */
async function restoreLabel(alert) {
  const { label, label_values: values, runbook } = alert;
  await post(pathOf(alert, "label"), { label: null });
  if (label) await post(pathOf(alert, "label"), { label, runbook, ...(values ? { values } : { all_values: true }) });
}

/**
 * Return the selects that label and suppress an alert.
 *
 * @param {string | null} label of the alert now
 * @param {(decision: Decision) => void} onDecision
 */
export function decisionControls(label, onDecision) {
  const labels = select(
    LABELS,
    label ?? "none",
    {
      "aria-label": "Label",
      onchange: () => onDecision({ action: "label", label: labels.value === "none" ? null : labels.value }),
    },
  );
  const periods = select([["", "Suppress for…"], ...PERIODS], "", {
    "aria-label": "Suppress for",
    onchange: () => periods.value && onDecision({ action: "suppress", seconds: Number(periods.value) }),
  });
  return [labels, periods];
}

/**
 * Show what a decision covers and ask whether to take it; without a question if it hides nothing. Returns which lines
 * it covers, as fields of the call, or null if it is not taken.
 */
async function confirmDecision(alerts, decision, signal) {
  const isNormal = decision.action === "label" && decision.label === "normal";
  if (decision.action !== "suppress" && !isNormal) return {};
  const previews = await Promise.all(alerts.slice(0, MAX_COVERED).map((one) => get(pathOf(one, "preview"), { signal })));
  const choices = alerts.length === 1 && previews[0].covered.length ? valueChoices(previews[0]) : null;
  const covered = isNormal
    ? "The score of lines like these is lowered from now on"
    : `Lines like these are counted, but not reported, for ${periodOf(decision)}`;
  const choice = await chooseAction({
    title: isNormal ? "Label as normal?" : "Suppress?",
    text: choices ? `${covered}:` : `${covered}. Other values of these alerts stay as they are:`,
    content: choices?.content ?? coveredBy(alerts, previews),
    actions: [["confirm", isNormal ? "Label as normal" : "Suppress", "button primary"]],
  });
  if (choice !== "confirm") return null;
  return choices ? choices.covering() : {};
}

/** Return a box to tick for each value of an alert's lines, as its preview has them, and the fields for what is ticked. */
function valueChoices({ covered, others, other_lines: otherLines }) {
  const box = (value, isTicked, ...label) => {
    const input = h("input", { type: "checkbox", value, checked: isTicked });
    return { input, item: h("li", h("label", input, " ", ...label)) };
  };
  const boxes = [...covered, ...others].map((one, i) => box(one.value, i < covered.length, ...coveredLine(one)));
  const hasOthers = others.length > 0 || otherLines > 0;
  const all = box("", false, "All lines of the alert, and future ones with other values");
  all.input.addEventListener("change", () => {
    for (const { input } of boxes) input.disabled = all.input.checked;
  });
  return {
    content: h(
      "ul.stack.tight.covered",
      boxes.map(({ item }) => item),
      hasOthers && all.item,
    ),
    covering: () => {
      if (all.input.checked) return { all_values: true };
      if (!hasOthers) return {};
      const values = boxes.filter(({ input }) => input.checked).map(({ input }) => input.value);
      return values.length ? { values } : null;
    },
  };
}

function coveredLine({ line, count: number, estimated_p_value: pValue }) {
  return [h("span.mono.small", line), h("span.small.muted", ` ${count(number, "line")}, rarest ${rarity(pValue)}`)];
}

/** What is covered of several alerts; of one from before there were values, its title. */
function coveredBy(alerts, previews) {
  return h(
    "ul.stack.tight.covered",
    previews.map(({ covered }, i) =>
      covered.length ? covered.map((one) => h("li", coveredLine(one))) : h("li.mono.small", alerts[i].title),
    ),
    alerts.length > MAX_COVERED && h("li.small.muted", `and ${count(alerts.length - MAX_COVERED, "alert")} more`),
  );
}

function pathOf({ model, id }, action) {
  return apiPath("/v1/models", model, "alerts", id, action);
}

function bodyOf(decision) {
  if (decision.action === "label") return { label: decision.label };
  if (decision.action === "suppress") return { until: Math.floor(Date.now() / 1000) + decision.seconds };
  return undefined;
}

function periodOf({ seconds }) {
  return PERIODS.find(([value]) => Number(value) === seconds)?.[1] ?? `${seconds} s`;
}

function sentenceOf(alerts, decision, body) {
  const what = count(alerts.length, "alert");
  if (decision.action === "acknowledge") return `${what} acknowledged.`;
  if (decision.action === "suppress") return `${what} suppressed until ${dateTime(body.until)}.`;
  return decision.label ? `${what} labeled as ${decision.label}.` : `Label of ${what} withdrawn.`;
}
