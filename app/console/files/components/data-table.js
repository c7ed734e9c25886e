/**
 * A table of records: sorted by a click on a heading, searched, with a selection and actions on it.
 *
 * Keys, unless the focus is in a field: j and k move the current row, x selects it, Enter opens it.
 */

import { h, replace } from "../dom.js";
import { count, plural } from "../format.js";
import { isTyping } from "../shortcuts.js";
import { timeAgo } from "./facts.js";

/**
 * @typedef {object} Column
 * @property {string} label
 * @property {(item: any) => any} [value] what the column is sorted by; without it, it is not
 * @property {(item: any) => import('../dom.js').Child} [cell] what is shown; by default the value, or a dash
 * @property {boolean} [isDescending] whether the first click shows the largest values first
 * @property {boolean} [isNumber]
 * @property {boolean} [isTitle] whether it names the row
 * @property {string} [class]
 *
 * @typedef {{label: string, run: (items: any[]) => any, min?: number, isDanger?: boolean, key?: string}} Action `min` is
 *   how many rows it needs, by default 1; `key` runs it on the selected rows, or else on the current one
 */

/**
 * Return the table; `update` shows other items, and keeps rows that did not change as they are.
 *
 * @param {object} options
 * @param {string} options.noun of an item, such as "model"
 * @param {Column[]} options.columns
 * @param {(item: any) => string} options.key
 * @param {[string, boolean]} options.sort the label of a column, and whether its largest values are first
 * @param {(item: any) => string} options.text what the search looks in
 * @param {Action[]} [options.actions]
 * @param {(item: any) => void} [options.onOpen] opens the current row, after Enter or a click
 * @param {(item: any) => void} [options.onCurrent] the current row has moved to this one
 * @param {(item: any) => boolean} [options.filter]
 * @param {Node[]} [options.controls] further controls in the toolbar
 * @param {Node} options.empty what to show if there is no item
 * @param {() => boolean} [options.isFiltered] whether `update` gets only items that match filters
 * @param {AbortSignal} options.signal
 */
export function dataTable(options) {
  const {
    noun,
    columns,
    key,
    text,
    actions = [],
    onOpen,
    onCurrent,
    filter = () => true,
    isFiltered = () => false,
    controls = [],
    signal,
  } = options;
  let [sortedBy, isDescending] = options.sort;
  /** @type {any[]} */ let items = [];
  /** @type {any[]} */ let shown = [];
  /** @type {Map<string, {row: any, box: any, json: string}>} */ let rows = new Map();
  /** @type {Set<string>} */ const selected = new Set();
  /** @type {string | null} */ let current = null;

  const search = h("input", {
    type: "search",
    placeholder: `Search ${plural(noun)}`,
    "aria-label": `Search ${plural(noun)}`,
    spellcheck: "false",
    oninput: draw,
  });
  const selectAll = h("input", { type: "checkbox", "aria-label": `Select all ${plural(noun)}`, onchange: toggleAll });
  const buttons = actions.map((action) =>
    h("button", { class: `button small${action.isDanger ? " danger" : ""}`, onclick: () => run(action) }, action.label),
  );
  const summary = h("span.small.muted.number", { role: "status" });
  const headings = columns.map(heading);
  const body = h("tbody", { onclick: clicked });
  const table = h(
    "table.data-table",
    { "aria-label": plural(noun)[0].toUpperCase() + plural(noun).slice(1) },
    h("thead", h("tr", h("th.check", { scope: "col" }, actions.length > 0 && selectAll), headings)),
    body,
  );
  const empty = h("div");

  /** @param {Column} column */
  function heading({ label, value, isDescending: isFirstDescending = false, isNumber, class: name = "" }) {
    const sort = () => {
      [sortedBy, isDescending] = [label, sortedBy === label ? !isDescending : isFirstDescending];
      draw();
    };
    return h(
      "th",
      { scope: "col", class: `${name}${isNumber ? " right" : ""}${value ? "" : " unsorted"}`, "data-column": label },
      value ? h("button.sort", { onclick: sort }, label) : label,
    );
  }

  function draw() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const { value = key } = columns.find(({ label }) => label === sortedBy) ?? {};
    shown = items
      .filter((item) => filter(item) && words.every((word) => text(item).toLowerCase().includes(word)))
      .map((item) => ({ item, by: value(item) }))
      .sort((a, b) => compare(a.by, b.by, isDescending))
      .map(({ item }) => item);
    for (const one of headings) {
      const isSorted = one.dataset.column === sortedBy;
      if (isSorted) one.setAttribute("aria-sort", isDescending ? "descending" : "ascending");
      else one.removeAttribute("aria-sort");
    }
    const isShown = new Set(shown.map(key));
    for (const id of selected) if (!isShown.has(id)) selected.delete(id);
    const before = rows;
    rows = new Map(shown.map((item) => [key(item), rowOf(item, before.get(key(item)))]));
    arrange([...rows.values()].map(({ row }) => row));
    table.hidden = shown.length === 0;
    const isSearch = words.length > 0 || isFiltered();
    const message = isSearch ? h("p.muted", `No ${noun} matches the search and the filters.`) : options.empty;
    replace(empty, shown.length === 0 && message);
    drawSelection();
  }

  function rowOf(item, known) {
    const json = JSON.stringify(item);
    if (known?.json === json) return known;
    const box =
      known?.box ??
      h("input", {
        type: "checkbox",
        "aria-label": `Select ${text(item).slice(0, 80)}`,
        onchange: (event) => toggle(key(item), event.target.checked),
      });
    const row = known?.row ?? h("tr", { "data-key": key(item) }, h("td.check", actions.length > 0 && box));
    const cells = columns.map(
      ({ label, value, cell = (one) => value?.(one) || "–", isNumber, isTitle, class: name = "" }) =>
        h(
          isTitle ? "th" : "td",
          {
            ...(isTitle ? { scope: "row" } : {}),
            class: `${name}${isNumber ? " right number" : ""}${isTitle ? " title" : ""}`,
            "data-label": label,
          },
          cell(item),
        ),
    );
    cells.forEach((cell, index) => {
      const old = row.children[index + 1];
      // One that looks the same stays: it may be pressed or have the focus.
      if (!old) row.append(cell);
      else if (!old.isEqualNode(cell)) old.replaceWith(cell);
    });
    return { row, box, json };
  }

  /** Put rows in order, moving none that is where it belongs: one may be pressed or have the focus. */
  function arrange(wanted) {
    const kept = new Set(wanted);
    for (const row of [...body.children]) if (!kept.has(row)) row.remove();
    wanted.forEach((row, index) => {
      if (body.children[index] !== row) body.insertBefore(row, body.children[index] ?? null);
    });
  }

  function drawSelection() {
    for (const [id, { row, box }] of rows) {
      box.checked = selected.has(id);
      row.classList.toggle("current", id === current);
    }
    selectAll.checked = shown.length > 0 && selected.size === shown.length;
    selectAll.indeterminate = selected.size > 0 && selected.size < shown.length;
    buttons.forEach((button, index) => {
      button.disabled = selected.size < (actions[index].min ?? 1);
    });
    summary.textContent = selected.size ? `${count(selected.size, noun)} selected` : count(shown.length, noun);
  }

  function toggle(id, isSelected) {
    if (isSelected) selected.add(id);
    else selected.delete(id);
    drawSelection();
  }

  function toggleAll() {
    selected.clear();
    if (selectAll.checked) for (const item of shown) selected.add(key(item));
    drawSelection();
  }

  async function run(action) {
    const wanted = selected.size ? shown.filter((item) => selected.has(key(item))) : shown.filter(isCurrent);
    if (wanted.length >= (action.min ?? 1)) await action.run(wanted);
  }

  function isCurrent(item) {
    return key(item) === current;
  }

  function setCurrent(id) {
    current = id;
    drawSelection();
    if (id !== null) rows.get(id)?.row.scrollIntoView({ block: "nearest" });
  }

  function clicked(event) {
    const row = event.target.closest("tr");
    if (!onOpen || !row || event.target.closest("a, button, input, select, summary")) return;
    setCurrent(row.dataset.key);
    onOpen(shown.find(isCurrent));
  }

  function pressed(event) {
    if (event.defaultPrevented || isTyping(event) || event.ctrlKey || event.metaKey || event.altKey) return;
    const index = shown.findIndex(isCurrent);
    const isFree = document.activeElement === document.body || document.activeElement?.tagName === "H1";
    const action = actions.find((one) => one.key === event.key);
    if (event.key === "j" || event.key === "k") {
      const next = shown[Math.max(0, Math.min(shown.length - 1, event.key === "j" ? index + 1 : index - 1))];
      if (!next) return;
      setCurrent(key(next));
      onCurrent?.(next);
    } else if (event.key === "x" && index >= 0) toggle(current, !selected.has(/** @type {string} */ (current)));
    else if (event.key === "Enter" && index >= 0 && isFree) {
      if (onOpen) onOpen(shown[index]);
      else
        rows
          .get(/** @type {string} */ (current))
          ?.row.querySelector("th a")
          ?.click();
    } else if (action) run(action);
    else return;
    event.preventDefault();
  }
  window.addEventListener("keydown", pressed, { signal });

  return {
    node: h(
      "div.stack.tight",
      h("div.row.table-tools", h("div.grow", search), controls, buttons, summary),
      table,
      empty,
    ),
    setCurrent,
    selected: () => shown.filter((item) => selected.has(key(item))),
    clearSelection() {
      selected.clear();
      drawSelection();
    },
    redraw: draw,
    /** @param {any[]} newItems */
    update(newItems) {
      items = newItems;
      draw();
    },
  };
}

/** Return a column of numbers, the largest first at the first click. @returns {Column} */
export function numberColumn(label, value, format) {
  return { label, isNumber: true, isDescending: true, value, cell: (item) => format(value(item)) };
}

/** Return a column of times, the latest first at the first click. @returns {Column} */
export function timeColumn(label, value) {
  return { label, isDescending: true, value, cell: (item) => timeAgo(value(item)) };
}

/** Compare numbers or texts; what is missing is last in both orders. */
function compare(a, b, isDescending) {
  const isMissing = (one) => one === null || one === undefined || Number.isNaN(one);
  if (isMissing(a) || isMissing(b)) return Number(isMissing(a)) - Number(isMissing(b));
  if (Array.isArray(a)) return compareAll(a, b, isDescending);
  const order = typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
  return isDescending ? -order : order;
}

function compareAll(a, b, isDescending) {
  return a.map((one, index) => compare(one, b[index], isDescending)).find((order) => order !== 0) ?? 0;
}
