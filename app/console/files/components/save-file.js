/** Saving a file that the page has made or received. */

import { h } from "../dom.js";

const URL_LIFETIME_MS = 10_000;

/** Let the browser save `blob` under a name. @param {Blob} blob @param {string} name */
export function saveFile(blob, name) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), URL_LIFETIME_MS);
}
