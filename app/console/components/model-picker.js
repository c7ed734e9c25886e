/** Which model a view works with: a choice that the address remembers. */

import { list } from "../api.js";
import { h } from "../dom.js";
import { select } from "./form-fields.js";
import { empty, warning } from "./notice.js";
import { remember } from "../router.js";

/**
 * Return the models there are, and the one the address asks for, or else the newest.
 *
 * @param {import('../router.js').Page} page
 */
export async function modelsFor({ query, signal }) {
  const models = await list("/v1/models", { signal });
  const wanted = query.get("model");
  const found = models.find((model) => model.id === wanted) ?? models.find((model) => model.name === wanted);
  return { models, chosen: (found ?? models[0])?.id ?? null, missing: wanted && !found ? wanted : null };
}

/** Return a select of models that keeps the address in step. @param {any[]} models */
export function modelSelect(models, value, onChange) {
  const control = select(
    models.map((model) => model.id),
    value,
    {
      onchange: () => {
        remember({ model: control.value });
        onChange(control.value);
      },
    },
  );
  return control;
}

/** Return what stands where a model is needed and there is none. */
export function noModel(what) {
  return empty(
    "First a model",
    `${what} With the sample text the first one is a minute away.`,
    h("a", { class: "button primary", href: "#/" }, "Make the first one"),
  );
}

/** Return a word about a model of the address that is gone. */
export function goneModel(id, chosen) {
  return id && warning(h("p", {}, `There is no model ${id}; it may have been deleted. This is ${chosen} instead.`));
}
