/** Keyboard shortcuts: "g" and a letter go to a view, "/" to the search field, "?" lists all keys. */

import { showDialog } from "./components/dialog.js";
import { h } from "./dom.js";
import { navigate } from "./router.js";

/** The letter after "g", the address it goes to, and its description. */
export const VIEW_SHORTCUTS = [
  ["h", "/", "Home"],
  ["c", "/corpora", "Corpora"],
  ["j", "/jobs", "Jobs"],
  ["m", "/models", "Models"],
  ["p", "/playground", "Playground"],
  ["s", "/suggestions", "Suggestions"],
  ["a", "/anomalies", "Anomalies"],
  ["l", "/alerts", "Alerts"],
  ["t", "/train", "Train a model"],
  ["k", "/keys", "API keys"],
];

/** Keys that other modules handle. */
const OTHER_KEYS = [
  ["?", "Keyboard shortcuts"],
  ["Ctrl K", "Go to a page, model, job or alert"],
  ["/", "Search in a table, or in lines"],
  ["j k", "Next or previous row of a table"],
  ["x", "Select the row"],
  ["a", "Acknowledge the selected alerts, or the current one"],
  ["Tab", "Accept the ghost text"],
  ["Ctrl →", "Accept one word of it, or of a suggestion in a list"],
  ["Esc", "Dismiss it"],
  ["Ctrl Enter", "Generate"],
  ["← →", "Previous or next value of a chart, or character of a line"],
  ["↑ ↓", "Previous or next line"],
  ["Page↑ Page↓", "A page of lines up or down; with Ctrl Home and End, the first or last"],
  ["Enter", "Open a group of lines, or zoom to the selected part of a histogram"],
];

/** Listen for the shortcuts, and open their list when `button` is pressed. @param {HTMLElement} button */
export function enableShortcuts(button) {
  let isAfterG = false;
  button.addEventListener("click", showShortcuts);
  window.addEventListener("keydown", (event) => {
    if (isTyping(event) || event.ctrlKey || event.metaKey || event.altKey) return;
    const shortcut = isAfterG && VIEW_SHORTCUTS.find(([key]) => key === event.key);
    isAfterG = event.key === "g";
    if (shortcut) {
      event.preventDefault();
      navigate(shortcut[1]);
    } else if (event.key === "/") {
      /** @type {HTMLElement | null} */ const search = document.querySelector("#main input[type=search]");
      if (search) event.preventDefault();
      search?.focus();
    } else if (event.key === "?") {
      event.preventDefault();
      showShortcuts();
    }
  });
}

/** Whether a key belongs to a field or a dialog. @param {any} event */
export function isTyping({ target }) {
  const isInField =
    target instanceof Element && target.closest("input:not([type=checkbox]), textarea, select, [contenteditable]");
  return Boolean(isInField || document.querySelector("dialog[open]"));
}

function showShortcuts() {
  const rows = [...VIEW_SHORTCUTS.map(([key, , label]) => [`g ${key}`, label]), ...OTHER_KEYS];
  const keys = (names) => names.split(" ").map((name) => [h("kbd", name), " "]);
  showDialog(
    "Keyboard shortcuts",
    h(
      "dl.shortcut-list",
      rows.map(([names, label]) => [h("dt", keys(names)), h("dd", label)]),
    ),
  );
}
