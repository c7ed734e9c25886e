/** The alerts of a model: flagged lines in groups, to acknowledge, label and suppress. Updated while it is shown. */

import { apiPath, get, isAbort, request } from "../api.js";
import { alertCard } from "../components/alert-card.js";
import { field, select } from "../components/form-fields.js";
import { loadModels, missingModel, modelSelect, viewWithoutModel } from "../components/model-picker.js";
import { emptyState, errorBox } from "../components/notice.js";
import { notificationTargets } from "../components/notification-targets.js";
import { saveFile } from "../components/save-file.js";
import { suppressionList } from "../components/suppressions.js";
import { h, inlineCode, replace } from "../dom.js";
import { integer } from "../format.js";
import { setQuery } from "../router.js";

const POLL_MS = 5000;
const PAGE_SIZE = 50;
const MAX_SHOWN = 1000;

const STATES = [
  ["open", "Open"],
  ["acknowledged", "Acknowledged"],
  ["suppressed", "Suppressed"],
  ["all", "All"],
];
const SEVERITIES = [
  ["", "Any"],
  ["warning", "Warning or critical"],
  ["critical", "Critical"],
];
const LABELS = [
  ["", "Any"],
  ["none", "Not labeled"],
  ["normal", "Normal"],
  ["incident", "Incident"],
];

/** @param {import('../router.js').Page} page */
export async function alertsView(page) {
  const { signal, query } = page;
  const [{ models, selected, missing }, targets] = await Promise.all([loadModels(page), notificationTargets(signal)]);
  if (!models.length) return viewWithoutModel("Alerts");
  let model = selected;
  let shownCount = PAGE_SIZE;
  let refreshes = 0;
  /** @type {Map<string, ReturnType<typeof alertCard>>} */ let cards = new Map();
  const filters = {
    state: query.get("state") ?? "open",
    severity: query.get("severity") ?? "",
    label: query.get("label") ?? "",
  };
  let only = query.get("alert") ?? ""; // the id of the one alert that is shown, if the address names one

  const list = h("div", { class: "list" });
  const status = h("div", { "aria-live": "polite" });
  const more = h("button", { type: "button", class: "button", hidden: true, onclick: showMore }, "Show more");
  const suppressions = suppressionList({ signal, onEnded: refresh });

  const filterField = (name, label, options) => {
    const control = select(options, filters[name], {
      onchange: () => {
        filters[name] = control.value;
        setQuery({ [name]: name === "state" && control.value === "open" ? "" : control.value });
        start();
      },
    });
    return field({ name, label, control }).node;
  };
  const modelField = field({
    name: "model",
    label: "Model",
    control: modelSelect(models, model, (id) => {
      model = id;
      live.href = liveAddress(model);
      start();
    }),
  });
  const live = h("a", { class: "button", href: liveAddress(model) }, "Live lines");
  const showAll = h(
    "div",
    { class: "row", hidden: !only },
    h("button", { type: "button", class: "button small", onclick: start }, "Show all alerts"),
  );

  /** Show the alerts that match the filters, from the start. */
  function start() {
    only = "";
    showAll.hidden = true;
    setQuery({ alert: "" });
    load();
  }

  function load() {
    shownCount = PAGE_SIZE;
    refresh();
    suppressions.load(model);
  }

  function showMore() {
    shownCount = Math.min(MAX_SHOWN, shownCount + PAGE_SIZE);
    refresh();
  }

  async function refresh() {
    refreshes += 1;
    const mine = refreshes;
    const wanted = new URLSearchParams({ limit: String(shownCount) });
    if (filters.state !== "all") wanted.set("state", filters.state);
    for (const name of ["severity", "label"]) if (filters[name]) wanted.set(name, filters[name]);
    const path = apiPath("/v1/models", model, "alerts");
    try {
      const response = only
        ? { data: [await get(`${path}/${encodeURIComponent(only)}`, { signal })] }
        : await get(`${path}?${wanted}`, { signal });
      if (mine === refreshes) draw(response);
    } catch (error) {
      if (mine === refreshes && !signal.aborted && !isAbort(error))
        replace(status, errorBox(error, { retry: refresh }));
    }
  }

  function draw({ data, has_more: hasMore = false, evicted = 0 }) {
    // Cards are kept, so that what the user has opened or focused stays.
    cards = new Map(
      data.map((alert) => {
        const card = cards.get(alert.id);
        card?.update(alert);
        return [alert.id, card ?? alertCard(alert, { signal, onSuppressed: load })];
      }),
    );
    const nodes = [...cards.values()].map((card) => card.node);
    const isSame = nodes.length === list.children.length && nodes.every((node, index) => node === list.children[index]);
    if (!nodes.length) replace(list, noAlert(filters));
    else if (!isSame && !list.contains(document.activeElement)) replace(list, nodes);
    else if (!isSame) arrange(nodes);
    more.hidden = !hasMore || shownCount >= MAX_SHOWN;
    replace(
      status,
      evicted > 0 &&
        h(
          "p",
          { class: "small muted" },
          `There were too many alerts; the ${integer(evicted)} least recently seen ones were deleted.`,
        ),
    );
  }

  /** Add and remove cards around the focused one, which would lose the focus if it moved. */
  function arrange(nodes) {
    for (const node of [...list.children])
      if (!nodes.includes(node) && !node.contains(document.activeElement)) node.remove();
    for (const node of nodes) if (!list.contains(node)) list.prepend(node);
  }

  async function exportAlerts(format) {
    try {
      const response = await request("GET", `${apiPath("/v1/models", model, "alerts", "export")}?format=${format}`, {
        signal,
      });
      saveFile(await response.blob(), `${model.split("@")[0]}-alerts.${format}`);
    } catch (error) {
      if (!signal.aborted) replace(status, errorBox(error));
    }
  }

  const timer = setInterval(() => document.hidden || refresh(), POLL_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
  load();

  const exportButton = (label, format) =>
    h("button", { type: "button", class: "button small", onclick: () => exportAlerts(format) }, label);
  return h(
    "div",
    { class: "view" },
    h("div", { class: "row apart" }, h("h1", {}, "Alerts"), live),
    missingModel(missing, selected),
    h(
      "section",
      { class: "card stack", "aria-label": "Filters" },
      h(
        "div",
        { class: "alert-filters" },
        modelField.node,
        filterField("state", "State", STATES),
        filterField("severity", "Severity", SEVERITIES),
        filterField("label", "Label", LABELS),
      ),
      h(
        "div",
        { class: "row right" },
        h("span", { class: "small muted" }, "Export all"),
        exportButton("CSV", "csv"),
        exportButton("JSON", "json"),
      ),
    ),
    status,
    showAll,
    list,
    h("div", { class: "row center" }, more),
    suppressions.node,
    targets,
  );
}

function liveAddress(model) {
  return `#/live?model=${encodeURIComponent(model.split("@")[0])}`; // agents usually name no version
}

function noAlert({ state, severity, label }) {
  if (state !== "open" || severity || label)
    return emptyState("No such alert", "No alert of this model matches these filters.");
  return emptyState(
    "No open alert",
    inlineCode(
      "Flagged lines become alerts when a log agent sends them, or when they are scored with `nextchar score --alerts`.",
    ),
  );
}
