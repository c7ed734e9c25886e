/** A text area with ghost text, made by the JavaScript client as on any other page. */

import { apiKey } from "../api-key.js";
import { h } from "../dom.js";

/**
 * Return a text area in which a model completes the text.
 *
 * @param {{model: string, value?: string, label: string, rows?: number}} options
 */
export function ghostTextarea({ model, value = "", label, rows = 6 }) {
  const area = h("textarea.ghost-textarea", {
    rows,
    spellcheck: "false",
    autocomplete: "off",
    "aria-label": label,
    value,
    "data-nextchar": model,
    ...(apiKey() ? { "data-nextchar-key": apiKey() } : {}),
  });
  // The client finds the element by its attribute. Without the client it is a plain text area.
  import("/clients/js/nextchar.js").catch(() => {});
  return area;
}
