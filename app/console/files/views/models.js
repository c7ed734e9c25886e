/** All models: open one, compare or delete some. */

import { apiPath, get, listAll } from "../api.js";
import { dataTable, numberColumn, timeColumn } from "../components/data-table.js";
import { attemptIn, deleteAll, emptyState, sentence, warningBox } from "../components/notice.js";
import { h } from "../dom.js";
import { bits, byteSize, corpusName } from "../format.js";
import { navigate } from "../router.js";

/** @param {import('../router.js').Page} page */
export async function modelsView({ signal, reload }) {
  const [models, { damaged = [] }, corpora] = await Promise.all([
    listAll("/v1/models", { signal }),
    get("/v1/models?limit=1", { signal }),
    listAll("/v1/corpora", { signal }).catch(() => []), // a key may not see them
  ]);
  const corpusNames = new Map(corpora.map((one) => [one.id, corpusName(one)]));
  const status = h("div");
  const table = dataTable({
    noun: "model",
    key: (model) => model.id,
    text: (model) =>
      `${model.id} ${model.kind ?? ""} ${corpusNames.get(model.corpus) ?? ""} ${model.aliases.join(" ")}`,
    sort: ["Created", true],
    columns: [
      {
        label: "Name",
        isTitle: true,
        value: (model) => model.id,
        cell: (model) => [
          h("a", { href: `#/models/${encodeURIComponent(model.id)}` }, model.id),
          model.aliases.map((alias) => [" ", h("span.badge", alias)]),
          model.problems.length > 0 && [" ", h("span.badge.paused", { title: sentence(model.problems[0]) }, "problem")],
        ],
      },
      { label: "Kind", value: (model) => model.kind ?? "" },
      {
        label: "Corpus",
        value: (model) => corpusNames.get(model.corpus) ?? "",
        cell: (model) =>
          corpusNames.has(model.corpus)
            ? h("a", { href: `#/corpora/${model.corpus}` }, corpusNames.get(model.corpus))
            : "–",
      },
      { label: "Network", value: (model) => model.parameters, isDescending: true, cell: networkOf },
      {
        label: "Bits",
        isNumber: true,
        value: (model) => model.bits_per_character,
        cell: (model) => bits(model.bits_per_character),
      },
      numberColumn("Size", (model) => model.bytes, byteSize),
      timeColumn("Created", (model) => model.created_at),
    ],
    actions: [
      {
        label: "Compare",
        min: 2,
        run: (chosen) => navigate(`/compare?models=${chosen.map(({ id }) => encodeURIComponent(id)).join(",")}`),
      },
      {
        label: "Delete",
        isDanger: true,
        run: (chosen) =>
          deleteAll("model", chosen, {
            name: ({ id }) => id,
            path: ({ id }) => apiPath("/v1/models", id),
            text:
              "Their files are deleted, and calls of these versions fail. With the last version of a name its alerts, their " +
              "labels and suppressions, and its settings are deleted, too. This cannot be undone.",
            attempt: attemptIn(status, signal),
            onDeleted: reload,
          }),
      },
    ],
    empty: emptyState(
      "No model yet",
      "A model is trained on a corpus. With the sample text that takes a minute.",
      h("a.button.primary", { href: "#/" }, "Train a model"),
    ),
    signal,
  });
  table.update(models);
  return h(
    "div.view",
    h("div.row.apart", h("h1", "Models"), h("a.button.primary", { href: "#/train" }, "Train a model")),
    damaged.length > 0 && damagedModels(damaged, { signal, reload }),
    status,
    table.node,
  );
}

function networkOf({ network, chosen_preset: preset }) {
  const size = network.layers ? `${network.layers} × ${network.units}` : network.architecture;
  return h("span", { title: network.architecture }, preset ?? size);
}

/** Models whose card cannot be read: what is wrong with each, and a button that deletes it. */
function damagedModels(damaged, { signal, reload }) {
  const title = damaged.length === 1 ? "1 model is unusable" : `${damaged.length} models are unusable`;
  return warningBox(
    h("p.strong", title),
    damaged.map((model) => damagedModel(model, { signal, reload })),
  );
}

function damagedModel(model, { signal, reload }) {
  const advice = model.code === "model_damaged" && "Restore its card from a backup, or delete the model.";
  const status = h("div");
  const deleteModel = () =>
    deleteAll("model", [model], {
      name: ({ id }) => id,
      path: ({ id }) => apiPath("/v1/models", id),
      text: "Its files are deleted, too. This cannot be undone.",
      attempt: attemptIn(status, signal),
      onDeleted: reload,
    });
  return h(
    "div.stack.tight",
    h("p", h("strong", model.id), ": ", sentence(model.message), " ", advice),
    h(
      "div.row",
      h("button.button.small.danger", { "aria-label": `Delete ${model.id}`, onclick: deleteModel }, "Delete"),
    ),
    status,
  );
}
