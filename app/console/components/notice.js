/** What is said to the user: failures with what to do about them, hints, short confirmations. */

import { h } from "../dom.js";

const ADVICE = {
  0: "Start it with `make serve`, or look whether the network is up. This page tries again by itself.",
  401: "The service wants an API key: load the page again and give one.",
  403: "The key of this tab may not do this. Take another key, or ask who runs the service.",
  404: "It may have been deleted, here or in another tab.",
  429: "The service has much to do. Try again in a moment.",
  500: "This is a mistake of the service; its log has the details.",
  503: "A part of the service is down. Try again in a moment.",
  507: "Delete texts or models that are not needed, or give the service more room.",
};

/**
 * Return a box that tells of an error and what to do about it.
 *
 * @param {any} error
 * @param {{retry?: () => void, actions?: Node[]}} [options]
 */
export function failure(error, { retry, actions = [] } = {}) {
  const advice = ADVICE[error.status];
  return h(
    "div",
    { class: "box danger", role: "alert" },
    h("p", { class: "strong" }, sentence(error.message || String(error))),
    advice &&
      h(
        "p",
        {},
        advice.split("`").map((part, i) => (i % 2 ? h("code", {}, part) : part)),
      ),
    (retry || actions.length > 0) &&
      h(
        "div",
        { class: "row" },
        retry && h("button", { type: "button", class: "button", onclick: retry }, "Try again"),
        actions,
      ),
  );
}

/** Return a box with a hint. @param {...import('../dom.js').Child} children */
export function hint(...children) {
  return h("div", { class: "box" }, ...children);
}

/** Return a box with a warning. @param {...import('../dom.js').Child} children */
export function warning(...children) {
  return h("div", { class: "box warning" }, ...children);
}

/**
 * Return a warning with the problems that a report lists, or null when it lists none.
 *
 * @param {{problems?: string[]}} report
 */
export function problems(report) {
  if (!report.problems?.length) return null;
  return warning(...report.problems.map((one) => h("p", {}, sentence(one))));
}

/**
 * Return what an empty place says: what belongs there, and how to get it.
 *
 * @param {string} title
 * @param {import('../dom.js').Child} text
 * @param {...Node} actions
 */
export function empty(title, text, ...actions) {
  return h(
    "div",
    { class: "empty" },
    h("h2", {}, title),
    h("p", { class: "muted" }, text),
    actions.length > 0 && h("div", { class: "row" }, ...actions),
  );
}

/** Say something in passing; screen readers say it too. @param {string} text */
export function toast(text) {
  const shown = h("p", { class: "toast fades" }, text);
  document.getElementById("toasts")?.append(shown);
  setTimeout(() => shown.remove(), 5000);
}

/** A sentence as the console writes it: with a capital and a full stop. @param {string} text */
export function sentence(text) {
  const capital = /^[a-z]+\b(?![._@])/.test(text) ? text[0].toUpperCase() + text.slice(1) : text;
  return /[.!?…]$/.test(capital) ? capital : `${capital}.`;
}
