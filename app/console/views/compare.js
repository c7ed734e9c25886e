/** Several models on one chart, and their figures side by side. */

import { at, get } from "../api.js";
import { lineChart } from "../components/line-chart.js";
import { AXES, axisOf, runLines } from "../components/learning-curves.js";
import { h } from "../dom.js";
import { select } from "../components/form-fields.js";
import { bits, clock, size, whole } from "../format.js";
import { empty, warning } from "../components/notice.js";

const MOST = 6; // lines that can be told apart

/** @param {import('../router.js').Page} page */
export async function compareView({ query, signal }) {
  const ids = (query.get("models") ?? "").split(",").filter(Boolean);
  const found = await Promise.allSettled(ids.slice(0, MOST).map((id) => get(at("/v1/models", id), { signal })));
  const models = found.filter((one) => one.status === "fulfilled").map((one) => one.value);
  const missing = ids.filter((id) => !models.some((model) => model.id === id || model.name === id));
  if (!models.length) {
    return h(
      "div",
      { class: "view" },
      h("h1", {}, "Compare models"),
      empty(
        "Nothing to compare",
        "Choose two or more in the list of models.",
        h("a", { class: "button primary", href: "#/models" }, "To the models"),
      ),
    );
  }
  const chart = lineChart({
    label: "Held-out bits a character",
    yLabel: "Bits a character held out",
    ...axisOf("seconds"),
  });
  const axis = select(
    Object.entries(AXES).map(([key, { label }]) => [key, label]),
    "seconds",
    { id: "axis", onchange: draw },
  );

  function draw() {
    chart.update(
      models.flatMap((model, color) =>
        runLines(model.report.curve ?? [], { axis: axis.value, color, name: model.id, withTraining: false }),
      ),
      [],
      axisOf(axis.value),
    );
  }
  draw();

  return h(
    "div",
    { class: "view" },
    h("p", { class: "crumb" }, h("a", { href: "#/models" }, "Models"), " / compare"),
    h("h1", {}, "Compare models"),
    missing.length > 0 &&
      warning(
        h(
          "p",
          {},
          ids.length > MOST
            ? `Of ${ids.length} models the first ${MOST} are shown; more lines cannot be told apart.`
            : `Not there any more: ${missing.join(", ")}.`,
        ),
      ),
    h(
      "section",
      { class: "card stack" },
      h(
        "div",
        { class: "row apart" },
        h("h2", {}, "Bits a character, held out"),
        h("div", { class: "row" }, h("label", { for: "axis", class: "small" }, "Against"), h("div", {}, axis)),
      ),
      chart.node,
      new Set(models.map((model) => model.corpus)).size > 1 &&
        h(
          "p",
          { class: "small muted" },
          "They were trained on different texts: their bits say little about each other.",
        ),
    ),
    h(
      "section",
      { class: "card" },
      h(
        "div",
        { class: "scrolls", tabindex: 0, role: "region", "aria-label": "Figures" },
        h(
          "table",
          {},
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              ["Model", "Held out", "Network", "Weights", "Trained for", "Size"].map((head) =>
                h("th", { scope: "col" }, head),
              ),
            ),
          ),
          h(
            "tbody",
            {},
            models.map((model) =>
              h(
                "tr",
                {},
                h("th", { scope: "row" }, h("a", { href: `#/models/${encodeURIComponent(model.id)}` }, model.id)),
                h("td", { class: "number" }, bits(model.report.validation_bits_per_character)),
                h("td", {}, `${model.network.architecture}, ${model.network.layers} × ${model.network.units}`),
                h("td", { class: "number" }, whole(model.parameters)),
                h("td", { class: "number" }, clock(model.report.training_seconds)),
                h("td", { class: "number" }, size(model.files["model.onnx"]?.bytes)),
              ),
            ),
          ),
        ),
      ),
    ),
  );
}
