/**
 * Views by the part of the address behind `#`, so that back, forward, reload and bookmarks work.
 *
 * A view is `async (page) => Node`; what it begins it ties to `page.signal`, which is aborted when it is left.
 */

import { h, replace } from "./dom.js";
import { failure } from "./components/notice.js";

/**
 * @typedef {object} Page
 * @property {Record<string, string>} params what the pattern's `:names` stand for
 * @property {URLSearchParams} query
 * @property {AbortSignal} signal aborted when the view is left
 * @property {() => void} again shows the view anew
 *
 * @typedef {[string, string | ((params: any) => string), (page: Page) => Promise<Node>]} Route pattern, title, view
 */

/** The address inside the page, as `/jobs/job_1?x=y`. */
export function here() {
  return location.hash.startsWith("#/") ? location.hash.slice(1) : "/";
}

/** Go to another view; `replacing` leaves no step to come back to. @param {string} path */
export function go(path, { replacing = false } = {}) {
  if (replacing) {
    history.replaceState(null, "", `#${path}`);
    window.dispatchEvent(new HashChangeEvent("hashchange"));
  } else {
    location.hash = path;
  }
}

/** Change the query of the address without showing the view anew. @param {Record<string, string>} values */
export function remember(values) {
  const [path, query = ""] = here().split("?");
  const now = new URLSearchParams(query);
  for (const [name, value] of Object.entries(values)) {
    if (value) now.set(name, value);
    else now.delete(name);
  }
  history.replaceState(null, "", `#${path}${String(now) && `?${now}`}`);
}

/**
 * Show the view of the address in `main`, now and whenever it changes.
 *
 * @param {HTMLElement} main
 * @param {Route[]} routes
 * @param {(path: string) => void} onShown
 */
export function start(main, routes, onShown) {
  let leaving = new AbortController();
  /** @type {string | null} */ let shown = null;

  async function show() {
    leaving.abort();
    leaving = new AbortController();
    const { signal } = leaving;
    const address = here();
    const [path, query = ""] = address.split("?");
    const isFirst = shown === null;
    const isSame = shown === address;
    shown = address;
    const [view, title, params] = match(routes, path);
    onShown(path);
    document.title = `${title(params)} · nextchar`;
    main.setAttribute("aria-busy", "true");
    // What is quick never flashes a sign of waiting.
    const waiting = setTimeout(() => replace(main, h("p", { class: "waiting" }, "Loading…")), 250);
    let found;
    try {
      found = await view({ params, query: new URLSearchParams(query), signal, again: show });
    } catch (error) {
      found = h("div", { class: "view" }, h("h1", {}, title(params)), failure(error, { retry: show }));
      if (!signal.aborted && error.status === undefined) console.error(error);
    } finally {
      clearTimeout(waiting);
    }
    if (signal.aborted) return; // somebody went on meanwhile
    replace(main, found);
    main.removeAttribute("aria-busy");
    const heading = main.querySelector("h1");
    heading?.setAttribute("tabindex", "-1");
    if (isSame || isFirst) return;
    window.scrollTo(0, 0);
    heading?.focus({ preventScroll: true }); // or a screen reader would not notice the new view
  }

  window.addEventListener("hashchange", () => {
    if (location.hash === "" || location.hash.startsWith("#/")) show();
  });
  show();
  return show;
}

function match(routes, path) {
  for (const [pattern, title, view] of routes) {
    const names = [];
    const form = pattern.replace(/:(\w+)/g, (_, name) => {
      names.push(name);
      return "([^/]+)";
    });
    const found = new RegExp(`^${form}/?$`).exec(path);
    if (found) {
      const params = Object.fromEntries(names.map((name, index) => [name, decode(found[index + 1])]));
      return [view, typeof title === "function" ? title : () => title, params];
    }
  }
  return [routes.at(-1)[2], () => "Not found", {}];
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
