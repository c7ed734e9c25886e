/** All models: look at one, write with it, choose some to compare. */

import { list } from "../api.js";
import { h } from "../dom.js";
import { moment, whole } from "../format.js";
import { empty } from "../notice.js";
import { go } from "../router.js";

/** @param {import('../router.js').Page} page */
export async function modelsView({ signal }) {
  const models = await list("/v1/models", { signal });
  if (!models.length) {
    return h(
      "div",
      { class: "view" },
      h("h1", {}, "Models"),
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
      h("div", { class: "list" }, models.map(item)),
    ),
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
