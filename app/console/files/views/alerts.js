/** The alerts of a model: flagged lines in groups, to acknowledge, label and suppress. Updated while it is shown. */

import { apiPath, get, isAbort, listAll, repeat, request } from "../api.js";
import { decide, LABELS, PERIODS } from "../components/alert-decisions.js";
import { alertDetails, alertRarity, severityBadge } from "../components/alert-details.js";
import { dataTable, numberColumn, timeColumn } from "../components/data-table.js";
import { select } from "../components/form-fields.js";
import { maskedLine } from "../components/marked-line.js";
import { loadModels, missingModel, modelSelect, viewWithoutModel } from "../components/model-picker.js";
import { emptyState, errorBox } from "../components/notice.js";
import { notificationTargets } from "../components/notification-targets.js";
import { saveFile } from "../components/save-file.js";
import { sparkline } from "../components/sparkline.js";
import { suppressionList } from "../components/suppressions.js";
import { h, inlineCode, replace } from "../dom.js";
import { integer } from "../format.js";
import { setQuery } from "../router.js";

const POLL_MS = 5000;
const POLLED = 50; // the alerts that were seen last; all are read again from time to time
const POLLS_UNTIL_ALL = 12;
const MAX_SHOWN = 1000;
const CONTEXT_CHARACTERS = 24; // shown before the marked part of a title
const SEVERITIES = ["critical", "warning", "info"];

const STATES = [
  ["open", "Open"],
  ["acknowledged", "Acknowledged"],
  ["suppressed", "Suppressed"],
  ["all", "All states"],
];

/** @param {import('../router.js').Page} page */
export async function alertsView(page) {
  const { signal, query } = page;
  const [{ models, selected, missing }, targets] = await Promise.all([loadModels(page), notificationTargets(signal)]);
  if (!models.length) return viewWithoutModel("Alerts");
  let model = selected;
  let loads = 0;
  let polls = 0;
  /** @type {Map<string, any>} */ let alerts = new Map();
  const filters = {
    state: query.get("state") ?? "open",
    severity: query.get("severity") ?? "",
    label: query.get("label") ?? "",
  };
  let opened = query.get("alert") ?? ""; // the id of the alert whose details are shown

  const status = h("div", { "aria-live": "polite" });
  const suppressions = suppressionList({ signal, onEnded: load });
  const totals = h("div.row.totals", { role: "group", "aria-label": "Severity" });
  const details = alertDetails({ signal, onDecided: load, onClose: close });

  const filterSelect = (name, label, options) => {
    const control = select(options, filters[name], {
      "aria-label": label,
      onchange: () => {
        filters[name] = control.value;
        setQuery({ [name]: name === "state" && control.value === "open" ? "" : control.value });
        if (name === "state") load();
        else draw();
      },
    });
    return control;
  };
  const decideOn = (chosen, decision) =>
    decide(chosen, decision, { signal, onDone: load }).then((isDone) => isDone && table.clearSelection(), showError);
  const bulk = select(
    [
      ["", "Selected…"],
      ["normal", "Label as normal"],
      ["incident", "Label as incident"],
      ["null", "Withdraw the label"],
      ...PERIODS.map(([seconds, text]) => [seconds, `Suppress for ${text}`]),
    ],
    "",
    { "aria-label": "Decide on the selected alerts", onchange: decideOnSelected },
  );

  async function decideOnSelected() {
    const { value } = bulk;
    bulk.value = "";
    const chosen = table.selected();
    if (!chosen.length) return showError(new Error("Select alerts first, with their checkboxes or the key x."));
    const label = value === "null" ? null : value;
    if (Number(value)) await decideOn(chosen, { action: "suppress", seconds: Number(value) });
    else await decideOn(chosen, { action: "label", label });
  }

  const table = dataTable({
    noun: "alert",
    key: (alert) => alert.id,
    text: (alert) =>
      [
        alert.title,
        alert.template,
        alert.severity,
        alert.label,
        ...alert.sources,
        ...alert.examples.map(({ line }) => line),
      ].join(" "),
    sort: ["Severity", false],
    columns: [
      {
        label: "Severity",
        value: (alert) => [SEVERITIES.indexOf(alert.severity), alert.estimated_p_value],
        cell: (alert) => h("span", { title: alertRarity(alert) }, severityBadge(alert.severity)),
      },
      {
        label: "Title",
        isTitle: true,
        class: "cut",
        value: (alert) => alert.title,
        cell: (alert) => [
          alert.label && [h("span.badge", alert.label), " "],
          h(
            "button.link.cut.mono",
            {
              title: `${alert.title}\n${alert.template}`,
              onclick: () => open(alert),
            },
            shortTitle(alert.title),
          ),
        ],
      },
      numberColumn("Count", (alert) => alert.count, integer),
      { label: "Trend", cell: (alert) => sparkline(alert.counts, alert.interval_s) },
      {
        label: "Source",
        class: "cut",
        value: (alert) => alert.sources[0] ?? "",
        cell: (alert) => h("span", { title: alert.sources.join(", ") }, alert.sources.join(", ") || "–"),
      },
      timeColumn("First", (alert) => alert.first_seen),
      timeColumn("Last", (alert) => alert.last_seen),
    ],
    actions: [{ label: "Acknowledge", key: "a", run: (chosen) => decideOn(chosen, { action: "acknowledge" }) }],
    controls: [filterSelect("state", "State", STATES), filterSelect("label", "Label", [["", "Any label"], ...LABELS]), bulk],
    filter: (alert) =>
      (!filters.severity || alert.severity === filters.severity) &&
      (!filters.label || (alert.label ?? "none") === filters.label),
    onOpen: open,
    onCurrent: (alert) => opened && open(alert),
    empty: noAlert(),
    isFiltered: () => filters.state !== "open" || Boolean(filters.severity || filters.label),
    signal,
  });

  /** Read all alerts. */
  async function load() {
    suppressions.load(model);
    await read(async (path) => {
      const found = await listAll(path, { signal, maxItems: MAX_SHOWN });
      alerts = new Map(found.map((alert) => [alert.id, alert]));
      if (opened && !alerts.has(opened)) {
        const alert = await get(apiPath("/v1/models", model, "alerts", opened), { signal });
        if (opened === alert.id) details.show(alert);
      }
    });
  }

  /** Read the alerts that were seen last, and now and then all of them. */
  async function poll() {
    polls += 1;
    if (polls % POLLS_UNTIL_ALL === 0) return load();
    await read(async (path) => {
      const { data, has_more: hasMore } = await get(`${path}${path.includes("?") ? "&" : "?"}limit=${POLLED}`, {
        signal,
      });
      if (!hasMore) alerts.clear();
      for (const alert of data) alerts.set(alert.id, alert);
    });
  }

  async function read(action) {
    loads += 1;
    const mine = loads;
    const state = filters.state === "all" ? "" : `?state=${filters.state}`;
    try {
      await action(`${apiPath("/v1/models", model, "alerts")}${state}`);
      if (mine === loads && !signal.aborted) {
        replace(status);
        draw();
      }
    } catch (error) {
      if (mine === loads && !isAbort(error)) showError(error, load);
    }
  }

  function draw() {
    const all = [...alerts.values()];
    const choose = (severity) => {
      filters.severity = filters.severity === severity ? "" : severity;
      setQuery({ severity: filters.severity });
      draw();
    };
    replace(
      totals,
      SEVERITIES.map((severity) =>
        h(
          "button",
          {
            class: `button small total ${severity}`,
            "aria-pressed": String(filters.severity === severity),
            onclick: () => choose(severity),
          },
          h("span.strong.number", integer(all.filter((alert) => alert.severity === severity).length)),
          ` ${severity}`,
        ),
      ),
    );
    table.update(all);
    const shown = alerts.get(opened);
    if (shown) details.show(shown);
  }

  function open({ id }) {
    const alert = alerts.get(id);
    opened = id;
    setQuery({ alert: alert.id });
    table.setCurrent(alert.id);
    details.show(alert);
    layout.classList.add("has-panel");
  }

  function close() {
    opened = "";
    setQuery({ alert: "" });
    details.show(null);
    layout.classList.remove("has-panel");
  }

  function showError(error, retry) {
    if (!signal.aborted) replace(status, errorBox(error, { retry }));
  }

  async function exportAlerts(format) {
    const path = apiPath("/v1/models", model, "alerts", "export");
    const response = await request("GET", `${path}?format=${format}`, { signal });
    saveFile(await response.blob(), `${model.split("@")[0]}-alerts.${format}`);
  }

  repeat(poll, POLL_MS, signal);
  window.addEventListener(
    "keydown",
    ({ key, defaultPrevented }) =>
      key === "Escape" && !defaultPrevented && !document.querySelector("dialog[open]") && close(),
    { signal },
  );

  const picker = modelSelect(models, model, (id) => {
    model = id;
    alerts = new Map();
    live.href = liveAddress(model);
    close();
    load();
  });
  picker.setAttribute("aria-label", "Model");
  const live = h("a.button.small", { href: liveAddress(model) }, "Live lines");
  const exportButton = (label, format) =>
    h(
      "button.button.small",
      { "aria-label": `Export ${label}`, onclick: () => exportAlerts(format).catch(showError) },
      label,
    );
  const layout = h("div", { class: `table-with-panel${opened ? " has-panel" : ""}` }, table.node, details.node);
  load();
  return h(
    "div.view.dense",
    h(
      "div.row.apart",
      h("div.row", h("h1", "Alerts"), totals),
      h("div.row", h("div.picker", picker), live, exportButton("CSV", "csv"), exportButton("JSON", "json")),
    ),
    missingModel(missing, selected),
    status,
    layout,
    suppressions.node,
    targets,
  );
}

/** Return a title as children, from shortly before the part that is marked, »so«. */
function shortTitle(title) {
  const [before, marked, ...after] = title.split(/»(.*?)«/s);
  if (marked === undefined) return maskedLine(title);
  const shown = before.length > CONTEXT_CHARACTERS + 4 ? `…${before.slice(-CONTEXT_CHARACTERS)}` : before;
  return [maskedLine(shown), h("mark", maskedLine(marked)), maskedLine(after.join(""))];
}

function liveAddress(model) {
  return `#/live?model=${encodeURIComponent(model.split("@")[0])}`; // agents usually name no version
}

function noAlert() {
  return emptyState(
    "No open alert",
    inlineCode(
      "Flagged lines become alerts when a log agent sends them, or when they are scored with `nextchar score --alerts`.",
    ),
  );
}
