/** The suppressions of a model that have not ended. */

import { apiPath, listAll, request } from "../api.js";
import { h, replace } from "../dom.js";
import { dateTime } from "../format.js";
import { errorBox, warningBox } from "./notice.js";

/**
 * Return the list; `load` reads it anew.
 *
 * @param {{signal: AbortSignal, onEnded: () => void}} options `onEnded`: the user has ended one
 */
export function suppressionList({ signal, onEnded }) {
  const node = h("div");

  async function load(model) {
    const path = apiPath("/v1/models", model, "suppressions");
    try {
      const active = (await listAll(path, { signal })).filter((one) => one.is_active);
      replace(node, active.length > 0 && section(active, (one) => end(model, one)));
    } catch (error) {
      if (!signal.aborted) replace(node, errorBox(error));
    }
  }

  async function end(model, suppression) {
    try {
      await request("DELETE", apiPath("/v1/models", model, "suppressions", suppression.id), { signal });
      await load(model);
      onEnded();
    } catch (error) {
      if (!signal.aborted) node.append(errorBox(error));
    }
  }

  return { node, load };
}

function section(active, onEnd) {
  return h(
    "section.stack.tight",
    h("h2", "Suppressions"),
    h(
      "ul.list",
      active.map((one) =>
        h(
          "li.item",
          h(
            "div.row.apart",
            h("p", h("code", one.template), " · word ", h("code", one.span)),
            h("button.button.small", { onclick: () => onEnd(one) }, "End"),
          ),
          h("p.small.muted.number", `until ${dateTime(one.until)}${one.created_by ? `, by ${one.created_by}` : ""}`),
          one.warning && warningBox(h("p", one.warning)),
        ),
      ),
    ),
  );
}
