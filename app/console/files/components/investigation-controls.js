/** The controls above the list of lines: what is shown, in which order, search, and export. */

import { h, replace } from "../dom.js";

const SEARCH_SETTLE_MS = 200;

/**
 * Return the controls. `onChange` gets the changed fields of an Investigation.
 *
 * @param {import('../log/investigation.js').Investigation} state
 * @param {object} options
 * @param {(changes: any) => void} options.onChange
 * @param {(format: "csv" | "json") => void} options.onExport
 * @param {boolean} options.hasAlerts whether lines have alerts, and can be repeats
 * @param {AbortSignal} options.signal
 */
export function investigationControls(state, { onChange, onExport, hasAlerts, signal }) {
  const checkbox = (name) =>
    h("input", {
      type: "checkbox",
      checked: state[name],
      onchange: ({ target }) => onChange({ [name]: target.checked }),
    });
  const labeled = (label, control) => h("label.checkbox-label", control, label);
  const grouped = checkbox("grouped");
  let timer = 0;
  const search = h("input", {
    type: "search",
    value: state.q,
    placeholder: "Search in lines",
    "aria-label": "Search in lines",
    spellcheck: "false",
    oninput: () => {
      clearTimeout(timer);
      timer = setTimeout(() => onChange({ q: search.value.trim() }), SEARCH_SETTLE_MS);
    },
  });
  signal.addEventListener("abort", () => clearTimeout(timer));
  const alert = h("div.row", { hidden: true });
  const button = (label, format) => h("button.button.small", { onclick: () => onExport(format) }, label);

  return {
    node: h(
      "div.stack.tight",
      h(
        "div.row.apart",
        h(
          "div.row",
          labeled("Flagged lines only", checkbox("flagged")),
          labeled("Most anomalous first", checkbox("byScore")),
          hasAlerts && [labeled("Group by alert", grouped), labeled("Flag repeats", checkbox("repeats"))],
        ),
        h("div.row", h("span.small.muted", "Export"), button("CSV", "csv"), button("JSON", "json")),
      ),
      search,
      alert,
    ),
    /** @param {boolean} isGrouped */
    setGrouped(isGrouped) {
      grouped.checked = isGrouped;
    },
    /** Say of which alert lines are shown; null: of any. @param {string | null} text */
    showAlert(text) {
      alert.hidden = text === null;
      replace(
        alert,
        text !== null && [
          h("span.small", text),
          h("button.button.small", { onclick: () => onChange({ like: null }) }, "Show all lines"),
        ],
      );
    },
  };
}
