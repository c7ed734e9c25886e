/** All models: look at one, write with it, choose some to compare. */

import { at, get, list, remove } from "../api.js";
import { confirmed } from "../components/dialog.js";
import { h } from "../dom.js";
import { moment, whole } from "../format.js";
import { empty, failure, sentence, toast, warning } from "../components/notice.js";
import { go } from "../router.js";

/** @param {import('../router.js').Page} page */
export async function modelsView({ signal, again }) {
  const [models, { damaged = [] }] = await Promise.all([
    list("/v1/models", { signal }),
    get("/v1/models?limit=1", { signal }),
  ]);
  const unusable = damaged.length > 0 && damagedModels(damaged, { signal, again });
  if (!models.length) {
    return h(
      "div",
      { class: "view" },
      h("h1", {}, "Models"),
      unusable,
      empty(
        "No model yet",
        "Models come from training. With the sample text the first one is a minute away.",
        h("a", { class: "button primary", href: "#/" }, "Make the first one"),
      ),
    );
  }
  const compare = h("button", { class: "button", type: "submit", disabled: true }, "Compare");

  function chosen(form) {
    return new FormData(form).getAll("model").map(String);
  }

  return h(
    "div",
    { class: "view" },
    h(
      "form",
      {
        class: "stack",
        "aria-label": "Models",
        onchange: (event) => {
          const number = chosen(event.currentTarget).length;
          compare.disabled = number < 2;
          compare.textContent = number < 2 ? "Compare" : `Compare ${number}`;
        },
        onsubmit: (event) => {
          event.preventDefault();
          go(`/compare?models=${chosen(event.target).map(encodeURIComponent).join(",")}`);
        },
      },
      h(
        "div",
        { class: "row apart" },
        h("h1", {}, "Models"),
        h("div", { class: "row" }, compare, h("a", { class: "button primary", href: "#/train" }, "Train another")),
      ),
      unusable,
      h("div", { class: "list" }, models.map(item)),
    ),
  );
}

/** Models whose card cannot be read: what is wrong with each, and a way to delete it. */
function damagedModels(damaged, { signal, again }) {
  return warning(
    h("p", { class: "strong" }, damaged.length === 1 ? "One model cannot be used" : `${damaged.length} models cannot be used`),
    ...damaged.map((model) => {
      const advice = model.code === "model_damaged" && "Restore its card from a backup, or delete the model.";
      const row = h(
        "div",
        { class: "stack tight" },
        h("p", {}, h("strong", {}, model.id), ": ", sentence(model.message), " ", advice),
        h(
          "div",
          { class: "row" },
          h(
            "button",
            { type: "button", class: "button small danger", "aria-label": `Delete ${model.id}`, onclick: deleteIt },
            "Delete",
          ),
        ),
      );

      async function deleteIt() {
        const sure = await confirmed({
          title: `Delete ${model.id}?`,
          text: "A deleted model cannot be restored from its files.",
          action: "Delete the model",
        });
        if (!sure) return;
        try {
          await remove(at("/v1/models", model.id));
          toast(`${model.id} is deleted.`);
          again();
        } catch (error) {
          if (!signal.aborted) row.append(failure(error));
        }
      }

      return row;
    }),
  );
}

function item(model) {
  const id = encodeURIComponent(model.id);
  const { network } = model;
  return h(
    "article",
    { class: "item" },
    h(
      "div",
      { class: "row apart" },
      h(
        "div",
        { class: "row" },
        h("input", { type: "checkbox", name: "model", value: model.id, "aria-label": `Compare ${model.id}` }),
        h("h2", {}, h("a", { href: `#/models/${id}` }, model.id)),
      ),
      h(
        "div",
        { class: "row" },
        h("a", { class: "button small", href: `#/playground?model=${id}` }, "Write"),
        h("a", { class: "button small", href: `#/anomalies?model=${id}` }, "Anomalies"),
      ),
    ),
    h(
      "p",
      { class: "muted small number" },
      `${network.architecture}, ${network.layers} × ${network.units} · ${whole(model.parameters)} weights · ${moment(model.created_at)}`,
    ),
  );
}
