/** The command palette: Ctrl K searches pages, models, jobs and open alerts, and goes to what is chosen. */

import { get, listAll } from "../api.js";
import { h, replace } from "../dom.js";
import { navigate } from "../router.js";
import { VIEW_SHORTCUTS } from "../shortcuts.js";
import { alertAddress } from "./alert-details.js";
import { statusText } from "./job-card.js";

const MAX_SHOWN = 12;
const MAX_ALERTS = 50;

/** @typedef {{kind: string, label: string, note?: string, address: string}} Entry */

/** Open the palette on Ctrl K (on a Mac, Cmd K), and when `button` is pressed. @param {HTMLElement} button */
export function enableCommandPalette(button) {
  button.addEventListener("click", openPalette);
  window.addEventListener("keydown", (event) => {
    if (event.key !== "k" || !(event.ctrlKey || event.metaKey) || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    openPalette();
  });
}

function openPalette() {
  /** @type {Entry[]} */ let entries = pages();
  /** @type {Entry[]} */ let shown = [];
  let selected = 0;
  const stop = new AbortController();
  const list = h("ul.palette-list", { role: "listbox", id: "palette-list", "aria-label": "Results" });
  const input = h("input", {
    type: "text",
    role: "combobox",
    "aria-label": "Go to",
    "aria-expanded": "true",
    "aria-controls": "palette-list",
    "aria-autocomplete": "list",
    placeholder: "Go to a page, model, job or alert",
    autocomplete: "off",
    spellcheck: "false",
    autofocus: true,
    oninput: () => draw(0),
    onkeydown: pressed,
  });
  const dialog = h("dialog.palette", { "aria-label": "Command palette" }, input, list);

  function draw(index) {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = ({ kind, label, note = "" }) => `${kind} ${label} ${note}`.toLowerCase();
    shown = entries.filter((entry) => words.every((word) => text(entry).includes(word))).slice(0, MAX_SHOWN);
    selected = Math.max(0, Math.min(shown.length - 1, index));
    replace(
      list,
      shown.map((entry, number) =>
        h(
          "li",
          {
            role: "option",
            id: `palette-${number}`,
            "aria-selected": String(number === selected),
            onclick: () => choose(entry),
          },
          h("span.small.muted", entry.kind),
          h("span.palette-label", entry.label),
          entry.note && h("span.small.muted", entry.note),
        ),
      ),
      shown.length === 0 && h("li.muted", { role: "option", "aria-disabled": "true" }, "Nothing found"),
    );
    if (shown.length) input.setAttribute("aria-activedescendant", `palette-${selected}`);
    else input.removeAttribute("aria-activedescendant");
  }

  function pressed(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) draw((selected + step + shown.length) % Math.max(1, shown.length));
    else if (event.key === "Enter" && shown[selected]) choose(shown[selected]);
    else return;
    event.preventDefault();
  }

  function choose(entry) {
    dialog.close();
    navigate(entry.address);
  }

  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // outside
  dialog.addEventListener("close", () => {
    stop.abort();
    dialog.remove();
  });
  document.body.append(dialog);
  dialog.showModal();
  draw(0);
  for (const load of [models, jobs, alerts])
    load(stop.signal).then(
      (found) => {
        entries = [...entries, ...found];
        draw(selected);
      },
      () => {}, // not permitted for this key, or the service is away: the pages remain
    );
}

/** @returns {Entry[]} */
function pages() {
  const listed = VIEW_SHORTCUTS.map(([, address, label]) => ({ kind: "Page", label, address }));
  return [
    ...listed,
    { kind: "Page", label: "Compare models", address: "/compare" },
    { kind: "Page", label: "Live lines", address: "/live" },
  ];
}

/** @returns {Promise<Entry[]>} */
async function models(signal) {
  const found = await listAll("/v1/models", { signal });
  return found.map(({ id, kind }) => ({
    kind: "Model",
    label: id,
    note: kind,
    address: `/models/${encodeURIComponent(id)}`,
  }));
}

/** @returns {Promise<Entry[]>} */
async function jobs(signal) {
  const found = await listAll("/v1/jobs", { signal, maxItems: 200 });
  return found.map((job) => ({
    kind: "Job",
    label: job.name,
    note: `${statusText(job)}, ${job.id}`,
    address: `/jobs/${job.id}`,
  }));
}

/** @returns {Promise<Entry[]>} */
async function alerts(signal) {
  const { data } = await get(`/v1/alerts?limit=${MAX_ALERTS}`, { signal });
  return data.map(({ model, id, title, severity }) => ({
    kind: "Alert",
    label: title.replace(/[»«]/g, ""),
    note: `${severity}, ${model}`,
    address: alertAddress(model, id).slice(1),
  }));
}
