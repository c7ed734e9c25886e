/** The API keys of the service: what each permits. The file of keys is what changes them. */

import { listAll } from "../api.js";
import { dataTable } from "../components/data-table.js";
import { emptyState } from "../components/notice.js";
import { h, inlineCode } from "../dom.js";

/** @param {import('../router.js').Page} page */
export async function keysView({ signal }) {
  const keys = await listAll("/v1/keys", { signal });
  const limits = (key) => Object.entries(key.limits).map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`);
  const table = dataTable({
    noun: "key",
    key: (key) => key.id,
    text: (key) => [key.id, ...key.scopes, ...key.models].join(" "),
    sort: ["Name", false],
    columns: [
      { label: "Name", isTitle: true, value: (key) => key.id },
      { label: "Scopes", value: (key) => key.scopes.join(", ") },
      { label: "Models", value: (key) => key.models.join(), cell: (key) => key.models.join(", ") || "all" },
      { label: "Limits", cell: (key) => limits(key).join(", ") || "none" },
    ],
    empty: emptyState(
      "No API key is required",
      inlineCode("Make one with `nextchar keys new`, and name the file in `NEXTCHAR_API_KEYS_FILE`."),
    ),
    signal,
  });
  table.update(keys);
  return h("div.view", h("h1", "API keys"), table.node);
}
