/** Views whose modules are loaded when first shown: a page opens with a quarter to a half of the requests. */

import { connectionError, request } from "./api.js";

/** After this time all views are loaded, so that in a page that stays open they are of one version. */
const LOAD_ALL_MS = 30_000;

/**
 * Return a view that `load` imports when it is first shown.
 *
 * @param {() => Promise<(page: import('./router.js').Page) => Promise<Node>>} load
 * @returns {(page: import('./router.js').Page) => Promise<Node>}
 */
export function lazyView(load) {
  let hasFailed = false;
  setTimeout(() => load().catch(() => {}), LOAD_ALL_MS); // if it fails, it is reported when the view is shown

  return async (page) => {
    if (hasFailed) {
      await request("GET", "/healthz", { signal: page.signal }); // raises if the service still does not respond
      location.reload(); // browsers remember a failed import
      return new Promise(() => {});
    }
    let view;
    try {
      view = await load();
    } catch (error) {
      hasFailed = true;
      throw error instanceof TypeError ? connectionError() : error; // TypeError: a module was not received
    }
    return view(page);
  };
}
