/** A place to write in, with the ghost text of a model, as any page can have it by one script tag. */

import { apiKey } from "../api.js";
import { h } from "../dom.js";

/**
 * Return a textarea that a model goes on in.
 *
 * @param {{model: string, value?: string, label: string, rows?: number}} options
 */
export function writer({ model, value = "", label, rows = 6 }) {
  const area = h("textarea", {
    class: "writing",
    rows,
    spellcheck: "false",
    autocomplete: "off",
    "aria-label": label,
    value,
    "data-nextchar": model,
    ...(apiKey() ? { "data-nextchar-key": apiKey() } : {}),
  });
  // The module finds the element by its attribute; without it this is a plain textarea.
  import("/clients/js/nextchar.js").catch(() => {});
  return area;
}
