/** Messages to the user: errors with what to do about them, hints, warnings, empty states and toasts. */

import { remove } from "../api.js";
import { h, inlineCode, replace } from "../dom.js";
import { plural } from "../format.js";
import { confirmAction } from "./dialog.js";

const TOAST_MS = 5000;

/** What to do about an error, by HTTP status; 0 is a service that was not reached. */
const ADVICE = {
  0: "Start it with `nextchar serve`, or check the network. This page reconnects by itself.",
  401: "The service requires an API key. Reload the page and enter one.",
  403: "The key of this tab has no permission for this. Open the console in a new tab and enter another key.",
  404: "It may have been deleted.",
  429: "The service is busy. Try again in a moment.",
  500: "This is a bug in the service. Its log has the details.",
  503: "A part of the service is unavailable. Try again in a moment.",
  507: "Delete corpora or models that you no longer need, or add disk space.",
};

/**
 * Return a box with an error and what to do about it.
 *
 * @param {any} error
 * @param {{retry?: () => void, actions?: Node[]}} [options] `retry` adds a button that calls it
 */
export function errorBox(error, { retry, actions = [] } = {}) {
  const advice = ADVICE[error.status];
  return h(
    "div.box.danger",
    { role: "alert" },
    h("p.strong", inlineCode(sentence(error.message || String(error)))),
    advice && h("p", inlineCode(advice)),
    (retry || actions.length > 0) &&
      h("div.row", retry && h("button.button", { onclick: retry }, "Try again"), actions),
  );
}

/** Return a box with a hint. @param {...import('../dom.js').Child} children */
export function hintBox(...children) {
  return h("div.box", ...children);
}

/** Return a box with a warning. @param {...import('../dom.js').Child} children */
export function warningBox(...children) {
  return h("div.box.warning", ...children);
}

/**
 * Return a warning with the problems of a model's report, or null if it has none.
 *
 * @param {{problems?: string[]}} report
 */
export function problemsBox(report) {
  if (!report.problems?.length) return null;
  return warningBox(...report.problems.map((problem) => h("p", sentence(problem))));
}

/**
 * Return the message of a view or list that has nothing to show yet, with what to do about it.
 *
 * @param {string} title
 * @param {import('../dom.js').Child} text
 * @param {...Node} actions
 */
export function emptyState(title, text, ...actions) {
  return h("div.empty-state", h("h2", title), h("p.muted", text), actions.length > 0 && h("div.row", ...actions));
}

/**
 * Return a function that runs an action and shows its error in `node`, unless the view has been left.
 *
 * @param {Element} node
 * @param {AbortSignal} signal of the view
 * @returns {Attempt}
 */
export function attemptIn(node, signal) {
  return async (action) => {
    replace(node);
    try {
      await action();
    } catch (error) {
      if (!signal.aborted) replace(node, errorBox(error));
    }
  };
}

/**
 * @typedef {(action: () => any) => Promise<void>} Attempt runs an action and shows its error
 */

/**
 * Delete one item or several, after a confirmation.
 *
 * @param {string} noun of an item
 * @param {any[]} items
 * @param {{name: (item: any) => string, path: (item: any) => string, text: string, attempt: Attempt,
 *   onDeleted: () => void}} options
 */
export async function deleteAll(noun, items, { name, path, text, attempt, onDeleted }) {
  const what = items.length === 1 ? name(items[0]) : `${items.length} ${plural(noun)}`;
  const action = `Delete the ${items.length === 1 ? noun : plural(noun)}`;
  if (!(await confirmAction({ title: `Delete ${what}?`, text, action }))) return;
  await attempt(async () => {
    for (const item of items) await remove(path(item));
    toast(`${what} ${items.length === 1 ? "was" : "were"} deleted.`);
    onDeleted();
  });
}

/**
 * Show a message for some seconds; screen readers announce it.
 *
 * @param {string} text
 * @param {{label: string, run: () => void}} [action] a button in it, such as "Undo"
 */
export function toast(text, action) {
  const press = () => {
    message.remove();
    action?.run();
  };
  const message = h("p.toast.fade-in", text, action && [" ", h("button.link", { onclick: press }, action.label)]);
  document.getElementById("toasts")?.append(message);
  setTimeout(() => message.remove(), action ? 2 * TOAST_MS : TOAST_MS);
}

/** Return a text with a capital letter at its start, unless that is a name, and a full stop. @param {string} text */
export function sentence(text) {
  const words = formWords(text);
  const capitalized = /^[a-z]+\b(?![._@])/.test(words) ? words[0].toUpperCase() + words.slice(1) : words;
  return /[.!?…]$/.test(capitalized) ? capitalized : `${capitalized}.`;
}

/**
 * Return advice of the service in the words of the training form.
 *
 * @example formWords('train with "kind": "text", or "masks": []') // 'train with “Kind: text”, or no mask checked'
 * @param {string} text
 */
export function formWords(text) {
  return text.replace(/"(purpose|masks|kind|coverage)": (\[[^\]]*\]|"[^"]*"|[\d.]+)/g, (_, name, value) => {
    const plain = value.replace(/[[\]"]/g, "").replaceAll("_", " ");
    if (name === "masks") return plain ? `the masks ${plain} checked` : "no mask checked";
    return `“${name[0].toUpperCase()}${name.slice(1)}: ${plain}”`;
  });
}
