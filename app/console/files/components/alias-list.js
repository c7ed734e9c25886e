/** The aliases of a model's name: where they are, moved here, and rolled back. */

import { apiPath, post, put } from "../api.js";
import { h, replace } from "../dom.js";
import { dateTime, percent } from "../format.js";
import { askForText } from "./dialog.js";
import { toast } from "./notice.js";

/** @param {any} alias */
function share({ model, share }) {
  return share && `; ${model}@${share.version} for ${percent(share.fraction)} of clients`;
}

/**
 * @param {any} model
 * @param {any[]} aliases of its name
 * @param {(action: () => Promise<void>) => Promise<void>} attempt runs an action and shows its error
 */
export function aliasList(model, aliases, attempt) {
  const list = h("ul.list");
  const path = (...rest) => apiPath("/v1/models", model.name, "aliases", ...rest);

  function show(moved) {
    aliases = [...aliases.filter((one) => one.id !== moved.id), moved].sort((a, b) => (a.id < b.id ? -1 : 1));
    render();
    toast(`${model.name}@${moved.id} is ${moved.target}.`);
  }

  const moveHere = (alias) => attempt(async () => show(await put(path(alias), { version: model.version })));
  const rollBack = (alias) => attempt(async () => show(await post(path(alias, "rollback"))));

  async function add() {
    const alias = await askForText({
      title: `Alias for ${model.id}`,
      label: "Alias",
      action: "Set alias",
      value: "champion",
      text: `Calls that name ${model.name}@ALIAS use this version. An existing alias is moved to it.`,
    });
    if (alias) await moveHere(alias);
  }

  function item(one) {
    const button = (label, action) =>
      h("button.button", { "aria-label": `${label}: ${one.id}`, onclick: () => action(one.id) }, label);
    return h(
      "li.row.apart",
      h("span", h("span.strong", one.id), " → ", one.target, share(one)),
      h("span.muted.small", dateTime(one.moved_at), one.moved_by && ` · ${one.moved_by}`),
      h("span.row", one.version !== model.version && button("Move here", moveHere), button("Roll back", rollBack)),
    );
  }

  function render() {
    replace(list, ...aliases.map(item));
  }

  render();
  return h(
    "section.card.stack",
    h("h2", "Aliases"),
    h("p.muted.small", "Names that point to a version, such as champion, and can be moved to another one."),
    list,
    h("button.button", { onclick: add }, "Set alias…"),
  );
}
