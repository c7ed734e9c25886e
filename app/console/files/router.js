/**
 * The router: shows the view of the URL's hash, so that back, forward, reload and bookmarks work.
 *
 * A view is `async (page) => Node`. It ties everything it starts to `page.signal`, which is aborted when it is left.
 */

import { h, replace } from "./dom.js";
import { errorBox } from "./components/notice.js";

const LOADING_DELAY_MS = 250; // a view that is shown faster needs no loading message

/**
 * @typedef {object} Page
 * @property {Record<string, string>} params values of the pattern's `:names`
 * @property {URLSearchParams} query
 * @property {AbortSignal} signal aborted when the view is left
 * @property {() => void} reload shows the view again from the start
 *
 * @typedef {[string, string | ((params: any) => string), (page: Page) => Promise<Node>]} Route pattern, title, view
 */

/** Return the path and query in the hash, for example `/jobs/job_1?x=y`. */
export function currentAddress() {
  return location.hash.startsWith("#/") ? location.hash.slice(1) : "/";
}

/** Go to another view. With `replaces` the current one is dropped from the history. @param {string} address */
export function navigate(address, { replaces = false } = {}) {
  if (replaces) {
    history.replaceState(null, "", `#${address}`);
    window.dispatchEvent(new HashChangeEvent("hashchange"));
  } else {
    location.hash = address;
  }
}

/**
 * Change the query without showing the view again. With `isStep` the user can go back to the address before.
 *
 * @param {Record<string, string>} values
 */
export function setQuery(values, { isStep = false } = {}) {
  const [path, query = ""] = currentAddress().split("?");
  const parameters = new URLSearchParams(query);
  for (const [name, value] of Object.entries(values)) {
    if (value) parameters.set(name, value);
    else parameters.delete(name);
  }
  const address = `#${path}${String(parameters) && `?${parameters}`}`;
  if (isStep && address !== location.hash) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
}

/**
 * Show the view of the current address in `main`, now and whenever the address changes. Returns a function that
 * shows it again.
 *
 * @param {HTMLElement} main
 * @param {Route[]} routes the last one is for addresses that no other matches
 * @param {(path: string) => void} onNavigate
 */
export function startRouter(main, routes, onNavigate) {
  let current = new AbortController();
  /** @type {string | null} */ let shownAddress = null;

  async function show() {
    current.abort();
    current = new AbortController();
    const { signal } = current;
    const address = currentAddress();
    const [path, query = ""] = address.split("?");
    const isFirst = shownAddress === null;
    const isSame = shownAddress === address;
    shownAddress = address;
    const { view, title, params } = match(routes, path);
    onNavigate(path);
    document.title = `${title} · nextchar`;
    main.setAttribute("aria-busy", "true");
    const timer = setTimeout(() => signal.aborted || replace(main, h("p.loading", "Loading…")), LOADING_DELAY_MS);
    let node;
    try {
      node = await view({ params, query: new URLSearchParams(query), signal, reload: show });
    } catch (error) {
      node = h("div.view", h("h1", title), errorBox(error, { retry: show }));
      if (!signal.aborted && error.status === undefined) console.error(error);
    } finally {
      clearTimeout(timer);
    }
    if (signal.aborted) return; // the user has gone to another view
    replace(main, node);
    main.removeAttribute("aria-busy");
    const heading = main.querySelector("h1");
    heading?.setAttribute("tabindex", "-1");
    if (isSame || isFirst) return;
    window.scrollTo(0, 0);
    heading?.focus({ preventScroll: true }); // so that screen readers announce the new view
  }

  window.addEventListener("hashchange", () => {
    if (location.hash === "" || location.hash.startsWith("#/")) show();
  });
  show();
  return show;
}

/** @param {Route[]} routes @param {string} path */
function match(routes, path) {
  for (const [pattern, title, view] of routes) {
    const names = [];
    const expression = pattern.replace(/:(\w+)/g, (_, name) => {
      names.push(name);
      return "([^/]+)";
    });
    const found = new RegExp(`^${expression}/?$`).exec(path);
    if (found) {
      const params = Object.fromEntries(names.map((name, index) => [name, decode(found[index + 1])]));
      return { view, params, title: typeof title === "function" ? title(params) : title };
    }
  }
  throw new Error(`no route matches ${path}`);
}

function decode(segment) {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}
