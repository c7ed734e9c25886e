/** Short sections about a model: int8 quantization, calibrations, provenance, vocabulary. */

import { h } from "../dom.js";
import { bits, characterName, count, decimal, integer, visibleCharacter } from "../format.js";
import { fact, timeAgo } from "./facts.js";
import { placeholders } from "./marked-line.js";

const MAX_SHOWN_CHARACTERS = 400;

/** Return nothing for a model that was not quantized. @param {any} report */
export function quantization({ int8 }) {
  if (!int8) return null;
  return section(
    "int8 quantization",
    h(
      "p",
      int8.kept
        ? "On: completions use int8 weights, which are faster, unless the request asks for float32."
        : "Off: int8 weights cost too many bits on held-out text.",
    ),
    h(
      "dl.facts.plain",
      fact("Held-out bits per character", bits(int8.validation_bits_per_character)),
      fact("Increase over float32", `${decimal(int8.lost_nats / Math.LN2, 4)} bits`),
    ),
  );
}

/** @param {any[]} calibrations @param {string} id of the model, escaped */
export function calibrationList(calibrations, id) {
  return section(
    "Calibrations",
    h("p.muted.small", "Scores of normal lines, from which p-values and false-alarm rates follow."),
    calibrations.length
      ? h(
          "ul.list",
          calibrations.map((one) =>
            h(
              "li.row.apart",
              h("span.strong", one.name),
              h("span.muted.small", `${count(one.lines, "line")} · ${one.source} · `, timeAgo(one.created_at)),
            ),
          ),
        )
      : h("p", "None yet. ", h("a", { href: `#/anomalies?model=${id}` }, "Calibrate on normal lines"), "."),
  );
}

/** @param {any} model */
export function provenance(model) {
  const rows = model.report.rows ?? model.training.rows;
  const window = model.report.window ?? model.training.window;
  const corpusQuery = model.corpus ? `corpus=${model.corpus}&` : "";
  return section(
    "Training",
    h(
      "dl.facts.plain",
      model.job && fact("Job", h("a", { href: `#/jobs/${model.job}` }, model.job)),
      model.corpus && fact("Corpus", h("a", { href: `#/corpora/${model.corpus}` }, model.corpus)),
      fact("Architecture", model.network.architecture),
      model.preset && fact("Preset", model.chosen_preset ? `auto: ${model.chosen_preset}` : model.preset),
      model.started_from && fact("Started from", model.started_from),
      fact("Seed", String(model.training.seed)),
      fact("Rows × window", `${rows} × ${window}`),
      model.report.dropout != null && fact("Dropout", `${Math.round(100 * model.report.dropout)} %`),
    ),
    h(
      "a",
      { href: `#/train?${corpusQuery}start_from=${encodeURIComponent(model.id)}` },
      "Train a new model from this one",
    ),
  );
}

/** @param {any} model */
export function vocabulary(model) {
  const characters = Array.from(model.characters);
  const hidden = characters.length - MAX_SHOWN_CHARACTERS;
  return section(
    `Vocabulary (${count(characters.length, "character")})`,
    h(
      "ul.row",
      characters
        .slice(0, MAX_SHOWN_CHARACTERS)
        .map((one) => h("li.glyph.mono", { title: characterName(one) }, placeholders([visibleCharacter(one)]))),
    ),
    hidden > 0 && h("p.muted.small", `and ${integer(hidden)} more`),
  );
}

function section(title, ...content) {
  return h("section.card.stack", h("h2", title), ...content);
}
