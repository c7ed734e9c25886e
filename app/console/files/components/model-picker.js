/** The choice of a model, which the URL's query keeps. */

import { listAll } from "../api.js";
import { h } from "../dom.js";
import { setQuery } from "../router.js";
import { select } from "./form-fields.js";
import { emptyState, warningBox } from "./notice.js";

/**
 * Return all models, and the id of the one that the query names, or else of the newest. `missing` is a name in the
 * query that no model has.
 *
 * @param {import('../router.js').Page} page
 */
export async function loadModels({ query, signal }) {
  const models = await listAll("/v1/models", { signal });
  const requested = query.get("model");
  const found = models.find((model) => model.id === requested) ?? models.find((model) => model.name === requested);
  return { models, selected: (found ?? models[0])?.id ?? null, missing: requested && !found ? requested : null };
}

/** Return a select of models that writes its value to the query. @param {any[]} models */
export function modelSelect(models, value, onChange) {
  const control = select(
    models.map((model) => model.id),
    value,
    {
      onchange: () => {
        setQuery({ model: control.value });
        onChange(control.value);
      },
    },
  );
  return control;
}

/** Return a view that needs a model, while there is none. @param {string} purpose what the view does with one */
export function viewWithoutModel(title, purpose = "A model trained on normal lines finds the anomalous ones.") {
  return h(
    "div.view",
    h("h1", title),
    emptyState(
      "No model yet",
      `${purpose} Train one first; with the sample text or the sample log that takes a minute.`,
      h("a.button.primary", { href: "#/" }, "Train a model"),
    ),
  );
}

/** Return a warning if the query names a model that does not exist. */
export function missingModel(missing, selected) {
  return missing && warningBox(h("p", `There is no model ${missing}; it may have been deleted. Showing ${selected}.`));
}
