/** Several models: their learning curves on one chart, and their figures in a table. */

import { apiPath, get } from "../api.js";
import { select } from "../components/form-fields.js";
import { AXES, axisOptions, heldOutCurve } from "../components/learning-curves.js";
import { lineChart } from "../components/line-chart.js";
import { emptyState, warningBox } from "../components/notice.js";
import { scrollable, table } from "../components/table.js";
import { h } from "../dom.js";
import { bits, byteSize, duration, integer } from "../format.js";

const MAX_MODELS = 6; // the palette has this many distinguishable colors

/** @param {import('../router.js').Page} page */
export async function compareView({ query, signal }) {
  const ids = (query.get("models") ?? "").split(",").filter(Boolean);
  const shownIds = ids.slice(0, MAX_MODELS);
  const results = await Promise.allSettled(shownIds.map((id) => get(apiPath("/v1/models", id), { signal })));
  const models = results.filter((one) => one.status === "fulfilled").map((one) => one.value);
  const missing = shownIds.filter((_, index) => results[index].status === "rejected");
  if (!models.length) {
    return h(
      "div.view",
      h("h1", "Compare models"),
      emptyState(
        "Nothing to compare",
        "Select two or more models in the list to compare them.",
        h("a.button.primary", { href: "#/models" }, "Models"),
      ),
    );
  }
  const chart = lineChart({
    label: "Learning curves",
    yLabel: "Held-out bits per character, network alone",
    ...axisOptions("seconds"),
  });
  const axis = select(
    Object.entries(AXES).map(([key, { label }]) => [key, label]),
    "seconds",
    { id: "axis", onchange: draw },
  );

  function draw() {
    const curves = models.map(({ id, report }, color) =>
      heldOutCurve(report.curve ?? [], { name: id, color, axis: axis.value }),
    );
    chart.update(curves, axisOptions(axis.value));
  }
  draw();

  return h(
    "div.view",
    h("p.breadcrumb", h("a", { href: "#/models" }, "Models"), " / Compare"),
    h("h1", "Compare models"),
    ids.length > MAX_MODELS &&
      warningBox(h("p", `The first ${MAX_MODELS} of ${ids.length} models are shown. Select fewer models.`)),
    missing.length > 0 && warningBox(h("p", `Not found: ${missing.join(", ")}. They may have been deleted.`)),
    h(
      "section.card.stack",
      h(
        "div.row.apart",
        h("h2", "Held-out bits per character, network alone"),
        h("div.row", h("label.small", { for: "axis" }, "X axis"), h("div", axis)),
      ),
      chart.node,
      new Set(models.map((model) => model.corpus)).size > 1 &&
        h(
          "p.small.muted",
          "These models were trained on different corpora, so their bits per character are not comparable.",
        ),
    ),
    h("section.card", figuresTable(models)),
  );
}

function figuresTable(models) {
  return scrollable(
    "Figures",
    table(
      ["Model", "Held-out bits per character", "Network", "Parameters", "Training time", "Size"],
      models.map(({ id, network, parameters, report, files }) => [
        h("a", { href: `#/models/${encodeURIComponent(id)}` }, id),
        bits(report.validation_bits_per_character),
        h("td", `${network.architecture}, ${network.layers} × ${network.units}`),
        integer(parameters),
        duration(report.training_seconds),
        byteSize(files["model.onnx"]?.bytes),
      ]),
    ),
  );
}
