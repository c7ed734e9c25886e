/** A table of figures, whose rows are named by their first cell. */

import { h } from "../dom.js";

/**
 * Return a table. A cell that is no `td` of its own holds a number.
 *
 * @param {import('../dom.js').Child[]} headings
 * @param {import('../dom.js').Child[][]} rows of cells
 * @param {{isSmall?: boolean}} [options]
 */
export function table(headings, rows, { isSmall = false } = {}) {
  const own = (cell, otherwise) => (cell instanceof HTMLTableCellElement ? cell : otherwise(cell));
  const heading = (cell) => own(cell, () => h("th", { scope: "col" }, cell));
  const figure = (cell) => own(cell, () => h("td.number", cell));
  return h(
    isSmall ? "table.small" : "table",
    h("thead", h("tr", headings.map(heading))),
    h(
      "tbody",
      rows.map(([name, ...cells]) => h("tr", h("th", { scope: "row" }, name), cells.map(figure))),
    ),
  );
}

/** Return a part of the page that scrolls by itself. @param {string} label @param {...import('../dom.js').Child} content */
export function scrollable(label, ...content) {
  return h("div.scrollable", { tabindex: 0, role: "region", "aria-label": label }, content);
}
