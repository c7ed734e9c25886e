/** The flagged lines of what log agents send to a model, as they are flagged. */

import { apiPath, delay, get, post } from "../api.js";
import { alertAddress, exampleList } from "../components/alert-details.js";
import { logChange } from "../components/log-change.js";
import { field } from "../components/form-fields.js";
import { ingestStatus } from "../components/ingest-status.js";
import { maskedLine } from "../components/marked-line.js";
import { loadModels, missingModel, modelSelect, viewWithoutModel } from "../components/model-picker.js";
import { attemptIn, emptyState, errorBox, hintBox, toast } from "../components/notice.js";
import { h, replace } from "../dom.js";
import { count, dateTime, rarity } from "../format.js";
import { followEvents } from "../event-stream.js";
import { setQuery } from "../router.js";

const MAX_LINES = 200; // the newest
const STATUS_MS = 2000;

/** @param {import('../router.js').Page} page */
export async function liveView(page) {
  const { signal } = page;
  const { models, selected, missing } = await loadStreams(page);
  if (!models.length) return viewWithoutModel("Live lines");
  let model = selected;
  let following = new AbortController();
  let isPaused = false;
  let only = page.query.get("alert") ?? ""; // the id of the alert whose lines are shown, if the address names one
  /** @type {Node[]} */ let held = []; // lines that came while the list is paused

  const status = h("section.card.stack", { "aria-label": "Ingested lines" });
  const messages = h("div", { "aria-live": "polite" });
  const change = h("div", { "aria-live": "polite" });
  let shownChange = ""; // drawn anew only when it changes: screen readers announce it
  const list = h("ol.list.live-lines");
  const empty = h("div");
  const filter = h("div");
  const pause = h("button.button", { "aria-pressed": "false", onclick: togglePause }, "Pause");
  const alerts = h("a.button", "Alerts");

  function togglePause() {
    isPaused = !isPaused;
    pause.setAttribute("aria-pressed", String(isPaused));
    if (!isPaused) add(held.splice(0));
    showHeld();
  }

  function showHeld() {
    pause.textContent = isPaused ? `Continue${held.length ? ` (${count(held.length, "new line")})` : ""}` : "Pause";
  }

  /** Add lines, the oldest first, to the top of the list. */
  function add(nodes) {
    list.prepend(...nodes.reverse());
    while (list.children.length > MAX_LINES) list.lastChild?.remove();
    empty.hidden = list.children.length > 0;
  }

  function follow() {
    following.abort();
    following = new AbortController();
    const abort = AbortSignal.any([signal, following.signal]);
    alerts.href = `#/alerts?model=${encodeURIComponent(model)}`;
    held = [];
    showHeld();
    replace(list);
    replace(messages);
    showChange(null);
    replace(empty, noLine(only));
    empty.hidden = false;
    if (only) showExamples(only, abort);
    replace(filter, only && oneAlert());
    followLines(model, abort).catch((error) => {
      if (!abort.aborted) replace(messages, errorBox(error, { retry: follow }));
    });
    followStatus(model, abort);
  }

  /** Show the lines that are kept with an alert, while there is none from an agent. */
  async function showExamples(id, abort) {
    const alert = await get(apiPath("/v1/models", model, "alerts", id), { signal: abort }).catch(() => null);
    if (alert && !abort.aborted)
      replace(empty, h("section.stack.tight", h("h2", "Lines kept with the alert"), exampleList(alert)));
  }

  function showAllAlerts() {
    only = "";
    setQuery({ alert: "" });
  }

  function oneAlert() {
    const showAll = () => {
      showAllAlerts();
      follow();
    };
    return hintBox(
      h(
        "div.row.apart",
        h("p", "Only the flagged lines of one alert that agents sent are shown."),
        h(
          "div.row",
          h("a.button.small", { href: alertAddress(model, only) }, "Show the alert"),
          h("button.button.small", { onclick: showAll }, "Show all flagged lines"),
        ),
      ),
    );
  }

  function showChange(found) {
    if (shownChange === (found?.sentence ?? "")) return;
    shownChange = found?.sentence ?? "";
    replace(change, found && logChange(found, { onRecalibrate: () => attemptIn(messages, signal)(recalibrate) }));
  }

  /** Make the newest lines that were sent the default calibration of the model. */
  async function recalibrate() {
    replace(messages, h("p.muted", "Calibrating…"));
    const { lines } = await post(apiPath("/v1/models", model, "calibrate"), { ingested: true }, { signal });
    toast(`Calibrated on the newest ${count(lines, "line")}.`);
    replace(messages);
    showChange(null);
  }

  async function followLines(followed, abort) {
    const path = apiPath("/v1/models", followed, "ingest", "events");
    // All lines that are kept, then those to come.
    for await (const { event, data } of followEvents(`${path}?after=0`, { signal: abort })) {
      if (event !== "flagged" || (only && data.alert_id !== only)) continue;
      const entry = lineEntry(data);
      if (!isPaused) add([entry]);
      else if (held.push(entry) > MAX_LINES) held.shift();
      if (isPaused) showHeld();
    }
  }

  async function followStatus(followed, abort) {
    while (!abort.aborted) {
      if (!document.hidden) {
        const response = await get(apiPath("/v1/models", followed, "ingest"), { signal: abort }).catch(() => null);
        if (abort.aborted) return;
        // Without a response the banner shows that the service is away.
        if (response) replace(status, ingestStatus(response));
        if (response) showChange(response.change);
      }
      await delay(STATUS_MS, abort);
    }
  }

  follow();
  return h(
    "div.view",
    h("div.row.apart", h("h1", "Live lines"), h("div.row", pause, alerts)),
    missingModel(missing, selected),
    field({
      name: "model",
      label: "Model",
      control: modelSelect(models, model, (id) => {
        if (id.split("@")[0] !== model.split("@")[0]) showAllAlerts(); // no other model has lines of this alert
        model = id;
        follow();
      }),
    }).node,
    status,
    change,
    messages,
    filter,
    empty,
    list,
  );
}

/**
 * Return what agents can send lines to: a model's name, for the newest version, or one version. Each has its own lines.
 *
 * @param {import('../router.js').Page} page
 */
async function loadStreams(page) {
  const { models, selected, missing } = await loadModels(page);
  const names = [...new Set(models.map(({ name }) => name))];
  const streams = [...names, ...models.map(({ id }) => id)];
  const requested = page.query.get("model") ?? "";
  return {
    models: streams.map((id) => ({ id })),
    selected: streams.includes(requested) ? requested : (names[0] ?? selected),
    missing,
  };
}

/** @param {string} alert the id of the alert whose lines are shown; empty: of all */
function noLine(alert) {
  return alert
    ? emptyState(
        "No such line",
        "No agent has sent a line of this alert to this model, or it is older than the newest 5,000 flagged lines. " +
          "The alert has examples of its lines.",
      )
    : emptyState("No flagged line yet", "Point a log agent at this model: its flagged lines appear here.");
}

function lineEntry(line) {
  return h(
    "li.item",
    h(
      "p.small.number",
      h("span.strong.flag", rarity(line.p_value)),
      h(
        "span.muted",
        ` · ${[dateTime(line.time ?? line.received_at), line.source, line.model].filter(Boolean).join(" · ")} · `,
      ),
      h("a", { href: alertAddress(line.model, line.alert_id) }, "Alert"),
    ),
    h("p.log-text.mono", maskedLine(line.line, line.spans)),
  );
}
