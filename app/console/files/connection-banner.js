/** The banner that is shown while the service does not respond. */

import { delay } from "./api.js";
import { h, replace } from "./dom.js";

const RETRY_MS = 1500;

/**
 * Show the banner while the service is unreachable, and retry until it responds.
 *
 * @param {HTMLElement} banner
 * @param {() => void} onReconnect called when the service responds again
 */
export function enableConnectionBanner(banner, onReconnect) {
  let isUnreachable = false;

  window.addEventListener("nextchar:unreachable", async () => {
    if (isUnreachable) return;
    isUnreachable = true;
    replace(banner, h("p.banner", "The service does not respond. Nothing you entered is lost. Reconnecting…"));
    while (isUnreachable) {
      await delay(RETRY_MS);
      const response = await fetch("/healthz").catch(() => null);
      if (response?.ok) reconnected();
    }
  });
  window.addEventListener("nextchar:reachable", reconnected);

  function reconnected() {
    if (!isUnreachable) return;
    isUnreachable = false;
    replace(banner);
    onReconnect();
  }
}
