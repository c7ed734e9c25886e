/** All models: open one, or select some to compare. */

import { apiPath, get, listAll, remove } from "../api.js";
import { confirmAction } from "../components/dialog.js";
import { emptyState, errorBox, sentence, toast, warningBox } from "../components/notice.js";
import { h } from "../dom.js";
import { dateTime, integer } from "../format.js";
import { navigate } from "../router.js";

/** @param {import('../router.js').Page} page */
export async function modelsView({ signal, reload }) {
  const [models, { damaged = [] }] = await Promise.all([
    listAll("/v1/models", { signal }),
    get("/v1/models?limit=1", { signal }),
  ]);
  const damagedList = damaged.length > 0 && damagedModels(damaged, { signal, reload });
  if (!models.length) {
    return h(
      "div",
      { class: "view" },
      h("h1", {}, "Models"),
      damagedList,
      emptyState(
        "No model yet",
        "A model is trained on a corpus. With the sample text that takes a minute.",
        h("a", { class: "button primary", href: "#/" }, "Train a model"),
      ),
    );
  }
  const compareButton = h("button", { class: "button", type: "submit", disabled: true }, "Compare");
  const selectedIn = (form) => new FormData(form).getAll("model").map(String);

  return h(
    "div",
    { class: "view" },
    h(
      "form",
      {
        class: "view",
        "aria-label": "Models",
        onchange: (event) => {
          const number = selectedIn(event.currentTarget).length;
          compareButton.disabled = number < 2;
          compareButton.textContent = number < 2 ? "Compare" : `Compare ${number}`;
        },
        onsubmit: (event) => {
          event.preventDefault();
          navigate(`/compare?models=${selectedIn(event.target).map(encodeURIComponent).join(",")}`);
        },
      },
      h(
        "div",
        { class: "row apart" },
        h("h1", {}, "Models"),
        h(
          "div",
          { class: "row" },
          compareButton,
          h("a", { class: "button primary", href: "#/train" }, "Train a model"),
        ),
      ),
      damagedList,
      h("div", { class: "list" }, models.map(modelCard)),
    ),
  );
}

/** Models whose card cannot be read: what is wrong with each, and a button that deletes it. */
function damagedModels(damaged, { signal, reload }) {
  const title = damaged.length === 1 ? "1 model is unusable" : `${damaged.length} models are unusable`;
  return warningBox(
    h("p", { class: "strong" }, title),
    damaged.map((model) => damagedModel(model, { signal, reload })),
  );
}

function damagedModel(model, { signal, reload }) {
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
        { type: "button", class: "button small danger", "aria-label": `Delete ${model.id}`, onclick: deleteModel },
        "Delete",
      ),
    ),
  );

  async function deleteModel() {
    const isConfirmed = await confirmAction({
      title: `Delete ${model.id}?`,
      text: "Its files are deleted, too. This cannot be undone.",
      action: "Delete the model",
    });
    if (!isConfirmed) return;
    try {
      await remove(apiPath("/v1/models", model.id));
      toast(`${model.id} was deleted.`);
      reload();
    } catch (error) {
      if (!signal.aborted) row.append(errorBox(error));
    }
  }

  return row;
}

function modelCard(model) {
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
        h("a", { class: "button small", href: `#/playground?model=${id}` }, "Open playground"),
        h("a", { class: "button small", href: `#/anomalies?model=${id}` }, "Find anomalies"),
      ),
    ),
    h(
      "p",
      { class: "muted small number" },
      `${network.architecture}, ${network.layers} × ${network.units} · ${integer(model.parameters)} parameters · ${dateTime(model.created_at)}`,
    ),
  );
}
