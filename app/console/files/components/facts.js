/** Name-value pairs: the figures of a corpus, a job or a model. */

import { h } from "../dom.js";

/**
 * Return one pair for a `<dl class="facts">`.
 *
 * @param {string} name
 * @param {import('../dom.js').Child} value
 */
export function fact(name, value) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value));
}
