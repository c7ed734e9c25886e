/** One model: its figures and learning curves, how it compares with baselines, what it copies, its files. */

import { apiPath, get, patch } from "../api.js";
import { acceptance } from "../components/acceptance.js";
import { aliasList } from "../components/alias-list.js";
import { baselines } from "../components/baselines.js";
import { askForText } from "../components/dialog.js";
import { experts } from "../components/experts.js";
import { fact, timeAgo } from "../components/facts.js";
import { axisOptions, learningCurves } from "../components/learning-curves.js";
import { lineChart } from "../components/line-chart.js";
import { memorization } from "../components/memorization.js";
import { calibrationList, provenance, quantization, vocabulary } from "../components/model-details.js";
import { modelActions } from "../components/model-actions.js";
import { modelFiles } from "../components/model-files.js";
import { attemptIn, deleteAll, problemsBox, toast } from "../components/notice.js";
import { useModel } from "../components/use-model.js";
import { h } from "../dom.js";
import { bits, duration, integer } from "../format.js";
import { navigate } from "../router.js";

/** @param {import('../router.js').Page} page */
export async function modelView({ params, signal }) {
  const model = await get(apiPath("/v1/models", params.model), { signal });
  const [fullReport, { data: calibrations }, { data: aliases }, accepted, usage] = await Promise.all([
    getIfThere(apiPath("/v1/models", model.id, "report"), signal),
    get(apiPath("/v1/models", model.id, "calibrations"), { signal }),
    get(apiPath("/v1/models", model.name, "aliases"), { signal }),
    getIfThere(apiPath("/v1/models", model.name, "acceptance"), signal),
    useModel(model, { signal }),
  ]);
  const report = { ...model.report, ...fullReport };
  const status = h("div");
  const id = encodeURIComponent(model.id);

  const attempt = attemptIn(status, signal);

  async function rename() {
    const name = await askForText({
      title: `Rename ${model.id}`,
      label: "New name",
      action: "Rename",
      value: model.name,
      text:
        "The model becomes the next version of the new name. Calls with the old name get an older version or " +
        "fail. The alerts and settings of the last version move with it.",
    });
    if (!name || name === model.name) return;
    const renamed = await patch(apiPath("/v1/models", model.id), { name });
    toast(`Renamed to ${renamed.id}.`);
    navigate(`/models/${encodeURIComponent(renamed.id)}`, { replaces: true });
  }

  const deleteModel = () =>
    deleteAll("model", [model], {
      name: () => model.id,
      path: () => apiPath("/v1/models", model.id),
      text:
        "Its files are deleted, and calls of this version fail. With the last version of a name its alerts, their labels " +
        "and suppressions, and its settings are deleted, too. This cannot be undone.",
      attempt,
      onDeleted: () => navigate("/models", { replaces: true }),
    });

  return h(
    "div.view",
    h("p.breadcrumb", h("a", { href: "#/models" }, "Models"), " / ", model.id),
    h(
      "div.row.apart",
      h("h1", model.id),
      h(
        "div.row",
        modelActions(model),
        h("button.button.small", { onclick: () => attempt(rename) }, "Rename"),
        h("button.button.small.danger", { onclick: deleteModel }, "Delete"),
      ),
    ),
    status,
    problemsBox(report),
    h(
      "section.card",
      { "aria-label": "Results" },
      h(
        "dl.facts",
        fact("Held-out bits per character", bits(report.validation_bits_per_character)),
        fact("Training bits, network alone", bits(report.train_bits_per_character)),
        fact("Parameters", integer(model.parameters)),
        fact("Layers × units", `${model.network.layers} × ${model.network.units}`),
        fact("Training time", duration(report.training_seconds)),
        fact("Created", timeAgo(model.created_at)),
      ),
    ),
    usage,
    accepted && acceptance(accepted),
    h("div.columns", curves(report), baselines(report), experts(report)),
    memorization(report),
    h("div.columns", quantization(report), calibrationList(calibrations, id), aliasList(model, aliases, attempt)),
    modelFiles(model, attempt),
    h("div.columns", provenance(model), vocabulary(model)),
  );
}

/** Return what is at a path, or null if there is nothing, such as a report of a model that has none. */
async function getIfThere(path, signal) {
  try {
    return await get(path, { signal });
  } catch (error) {
    if (error.status === 404 || (error.status === 503 && path.endsWith("/acceptance"))) return null;
    throw error;
  }
}

function curves(report) {
  if (!report.curve?.length) return null;
  const chart = lineChart({ label: "Learning curves", yLabel: "Bits per character", ...axisOptions("seconds") });
  chart.update(learningCurves(report.curve));
  return h("section.card.stack", h("h2", "Learning curves"), chart.node);
}
