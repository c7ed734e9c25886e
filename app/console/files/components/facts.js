/** Name-value pairs: the figures of a corpus, a job or a model. */

import { h } from "../dom.js";
import { ago, exactTime } from "../format.js";

/**
 * Return one pair for a `<dl class="facts">`.
 *
 * @param {string} name
 * @param {import('../dom.js').Child} value
 */
export function fact(name, value) {
  return h("div", h("dt", name), h("dd", value));
}

/** Return how long ago something was, with the exact time on hover. @param {number | null} timestamp Unix seconds */
export function timeAgo(timestamp) {
  if (timestamp === null || timestamp === undefined) return "–";
  const iso = new Date(timestamp * 1000).toISOString();
  return h("time.nowrap", { datetime: iso, title: exactTime(timestamp) }, ago(timestamp));
}
