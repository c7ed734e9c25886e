/** One model: what it is, how it learned, how good it is beside others, what it has by heart, its files. */

import { at, get, patch, raw, remove } from "../api.js";
import { comparison } from "../bars.js";
import { lineChart } from "../chart.js";
import { axisOf, runLines } from "../curves.js";
import { asked, confirmed } from "../dialog.js";
import { h, replace } from "../dom.js";
import { bits, clock, count, decimal, moment, percent, size, spoken, visible, whole } from "../format.js";
import { failure, problems, toast } from "../notice.js";
import { has } from "../openapi.js";
import { go } from "../router.js";
import { useModel } from "../use-model.js";

/** @param {import('../router.js').Page} page */
export async function modelView({ params, signal }) {
  const model = await get(at("/v1/models", params.model), { signal });
  const [full, calibrations, canRename] = await Promise.all([
    optional("/v1/models/{model}/report", at("/v1/models", model.id, "report"), signal),
    optional("/v1/models/{model}/calibrations", at("/v1/models", model.id, "calibrations"), signal),
    has("patch", "/v1/models/{model}"),
  ]);
  const report = { ...model.report, ...full };
  const said = h("div", {});
  const id = encodeURIComponent(model.id);

  async function attempt(action) {
    replace(said);
    try {
      await action();
    } catch (error) {
      if (!signal.aborted) replace(said, failure(error));
    }
  }

  const rename = () =>
    attempt(async () => {
      const name = await asked({
        title: `Rename ${model.id}`,
        label: "New name",
        action: "Rename",
        value: model.name,
        text: "It becomes the next version of that name. Calls by the old name reach its older versions, or nothing.",
      });
      if (!name || name === model.name) return;
      const renamed = await patch(at("/v1/models", model.id), { name });
      toast(`It is ${renamed.id} now.`);
      go(`/models/${encodeURIComponent(renamed.id)}`, { replacing: true });
    });

  const deleteIt = () =>
    attempt(async () => {
      const sure = await confirmed({
        title: `Delete ${model.id}?`,
        text: "Its files are gone then, and whoever uses this version gets an error.",
        action: "Delete the model",
      });
      if (!sure) return;
      await remove(at("/v1/models", model.id));
      toast(`${model.id} is deleted.`);
      go("/models", { replacing: true });
    });

  return h(
    "div",
    { class: "view" },
    h("p", { class: "crumb" }, h("a", { href: "#/models" }, "Models"), " / ", model.id),
    h(
      "div",
      { class: "row apart" },
      h("h1", {}, model.id),
      h(
        "div",
        { class: "row" },
        h("a", { class: "button primary", href: `#/playground?model=${id}` }, "Write with it"),
        h("a", { class: "button", href: `#/anomalies?model=${id}` }, "Find anomalies"),
        canRename && h("button", { class: "button", type: "button", onclick: rename }, "Rename"),
        h("button", { class: "button danger", type: "button", onclick: deleteIt }, "Delete"),
      ),
    ),
    said,
    problems(report),
    h(
      "section",
      { class: "card", "aria-label": "Figures" },
      h(
        "dl",
        { class: "facts" },
        fact("Held out", `${bits(report.validation_bits_per_character)} bits`),
        fact("In training", `${bits(report.train_bits_per_character)} bits`),
        fact("Weights", whole(model.parameters)),
        fact("Network", `${model.network.layers} × ${model.network.units}`),
        fact("Trained for", clock(report.training_seconds)),
        fact("Trained", moment(model.created_at)),
      ),
    ),
    await useModel(model, { signal }),
    h("div", { class: "columns" }, curves(report), beside(report)),
    byHeart(report),
    h("div", { class: "columns" }, int8(report), calibrated(calibrations, id), origin(model)),
    h("div", { class: "columns" }, files(model, attempt), alphabet(model)),
  );
}

/** Return what a call that the service may not have answers, or null. */
async function optional(path, address, signal) {
  if (!(await has("get", path))) return null;
  try {
    return await get(address, { signal });
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

function curves(report) {
  if (!report.curve?.length) return null;
  const chart = lineChart({ label: "Learning curves", yLabel: "Bits a character", ...axisOf("seconds") });
  chart.update(runLines(report.curve));
  return h("section", { class: "card stack" }, h("h2", {}, "How it learned"), chart.node);
}

const BASELINES = {
  uniform: "any character as likely as any",
  unigram: "how often each character is",
  bigram: "the character before",
  xz: "xz, compressing",
  gzip: "gzip, compressing",
  zstd: "zstd, compressing",
};

function beside(report) {
  const figures = Object.entries(report.baselines ?? {}).filter(([, value]) => Number.isFinite(value));
  if (!figures.length) return null;
  const label = (name) =>
    name === "ngram"
      ? `the ${report.ngram_order - 1} characters before`
      : (BASELINES[name] ?? name.replaceAll("_", " "));
  const rows = [
    {
      name: "this model",
      value: report.validation_bits_per_character,
      shown: bits(report.validation_bits_per_character),
      isOurs: true,
    },
    ...figures.map(([name, value]) => ({ name: label(name), value, shown: bits(value) })),
  ].sort((a, b) => a.value - b.value);
  return h(
    "section",
    { class: "card stack" },
    h("h2", {}, "Beside simpler predictors"),
    h("p", { class: "muted small" }, "Bits a character on the same held-out text; fewer are better."),
    comparison(rows),
  );
}

const VERDICTS = {
  novel:
    "It writes its own: what it shares with the text is no more than what the text's own end shares with the rest.",
  repetitive:
    "Much of what it writes stands in the text, as does as much of the text's own end: the text repeats itself.",
  copies: "It copies: more of what it writes stands in the text word for word than the text's own end does.",
};

/** What of its writing stands in the text word for word, beside what of the held-out text does. */
function byHeart({ memorization: found }) {
  if (!found) return null;
  const runs = (texts) => Object.keys(texts.novel).map((n) => h("td", { class: "number" }, percent(texts.novel[n])));
  const row = (name, texts) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, name),
      h("td", { class: "number" }, percent(texts.copied)),
      h("td", { class: "number" }, whole(texts.longest)),
      runs(texts),
    );
  const passages = found.generated
    .flatMap((texts) => texts.passages ?? [])
    .sort((a, b) => b.length - a.length)
    .filter((one, index, all) => all.findIndex((other) => other.text.includes(one.text)) === index);
  return h(
    "section",
    { class: "card stack" },
    h("h2", {}, "What it has by heart"),
    h("p", {}, VERDICTS[found.verdict] ?? found.verdict),
    h(
      "div",
      { class: "columns" },
      h(
        "div",
        { class: "stack tight" },
        h("h3", {}, "The longest passages it wrote that stand in the text"),
        passages.length
          ? h(
              "ol",
              { class: "timeline" },
              passages
                .slice(0, 4)
                .map((passage) =>
                  h(
                    "li",
                    {},
                    h("span", { class: "muted small number" }, count(passage.length, "character")),
                    h("div", { class: "sample" }, passage.text),
                  ),
                ),
            )
          : h("p", { class: "muted" }, "None of note."),
      ),
      h(
        "div",
        { class: "stack tight" },
        h("h3", {}, "Beside held-out text, which nobody copied"),
        h(
          "div",
          { class: "scrolls", tabindex: 0, role: "region", "aria-label": "Shares of what is new" },
          h(
            "table",
            { class: "small" },
            h(
              "thead",
              {},
              h(
                "tr",
                {},
                ["Text", "copied", "longest", ...Object.keys(found.held_out.novel).map((n) => `new runs of ${n}`)].map(
                  (head) => h("th", { scope: "col" }, head),
                ),
              ),
            ),
            h(
              "tbody",
              {},
              found.generated.map((texts) => row(`temperature ${texts.temperature}`, texts)),
              row("held out", found.held_out),
            ),
          ),
        ),
      ),
    ),
  );
}

function int8({ int8: measured }) {
  if (!measured) return null;
  return h(
    "section",
    { class: "card stack" },
    h("h2", {}, "In int8"),
    h(
      "p",
      {},
      measured.kept
        ? "Kept: completions are answered from int8 weights unless float32 is asked for, which is faster."
        : "Not kept: int8 weights cost more than 0.005 nats a character on held-out text.",
    ),
    h(
      "dl",
      { class: "facts plain" },
      fact("bits a character", bits(measured.validation_bits_per_character)),
      fact("lost, in nats", decimal(measured.lost_nats, 5)),
    ),
  );
}

function calibrated(calibrations, id) {
  if (!calibrations) return null;
  const listed = calibrations.data;
  return h(
    "section",
    { class: "card stack" },
    h("h2", {}, "Calibrations"),
    h("p", { class: "muted small" }, "What it knows of ordinary lines: they turn a score into a false-alarm rate."),
    listed.length
      ? h(
          "ul",
          { class: "list" },
          listed.map((one) =>
            h(
              "li",
              { class: "row apart" },
              h("span", { class: "strong" }, one.name),
              h(
                "span",
                { class: "muted small" },
                `${count(one.lines, "line")} · ${one.source} · ${moment(one.created_at)}`,
              ),
            ),
          ),
        )
      : h(
          "p",
          {},
          "None yet. ",
          h("a", { href: `#/anomalies?model=${id}` }, "Give it ordinary lines"),
          " in the anomaly view.",
        ),
  );
}

function files(model, attempt) {
  const entries = [["model.json", null], ...Object.entries(model.files)];
  return h(
    "section",
    { class: "card stack" },
    h("h2", {}, "Files"),
    h(
      "ul",
      { class: "list" },
      entries.map(([name, file]) =>
        h(
          "li",
          { class: "row apart" },
          h("button", { type: "button", class: "link", onclick: () => attempt(() => download(model, name)) }, name),
          h("span", { class: "muted small number" }, file ? size(file.bytes) : "the card"),
        ),
      ),
    ),
    h(
      "p",
      { class: "muted small" },
      "The .keras file is made of stock layers; the .onnx file is one step, characters and state in, logits and state out.",
    ),
  );
}

/** By a call, not by a link: a link cannot carry a key. */
async function download(model, name) {
  const answer = await raw("GET", at("/v1/models", model.id, "files", name));
  const link = h("a", { href: URL.createObjectURL(await answer.blob()), download: `${model.id}-${name}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function alphabet(model) {
  const all = Array.from(model.characters);
  return h(
    "section",
    { class: "card stack" },
    h("h2", {}, `The ${whole(all.length)} characters it knows`),
    h(
      "ul",
      { class: "row glyphs" },
      all.slice(0, 400).map((one) => h("li", { class: "glyph mono", title: spoken(one) }, visible(one))),
    ),
    all.length > 400 && h("p", { class: "muted small" }, `and ${whole(all.length - 400)} more`),
  );
}

function origin(model) {
  return h(
    "section",
    { class: "card stack" },
    h("h2", {}, "Where it comes from"),
    h(
      "dl",
      { class: "facts plain" },
      model.job && h("div", {}, h("dt", {}, "Job"), h("dd", {}, h("a", { href: `#/jobs/${model.job}` }, model.job))),
      model.corpus &&
        h("div", {}, h("dt", {}, "Text"), h("dd", {}, h("a", { href: `#/corpora/${model.corpus}` }, model.corpus))),
      fact("Architecture", model.network.architecture),
      fact("Seed", String(model.training.seed)),
      fact(
        "Rows × window",
        `${model.report.rows ?? model.training.rows} × ${model.report.window ?? model.training.window}`,
      ),
      model.report.dropout != null && fact("Dropout", `${Math.round(100 * model.report.dropout)} %`),
    ),
    h(
      "a",
      { href: `#/train?${model.corpus ? `corpus=${model.corpus}&` : ""}start_from=${encodeURIComponent(model.id)}` },
      "Train on from it",
    ),
  );
}

function fact(label, value) {
  return h("div", {}, h("dt", {}, label), h("dd", {}, value));
}
