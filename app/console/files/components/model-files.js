/** The files of a model, to download. */

import { apiPath, request } from "../api.js";
import { h } from "../dom.js";
import { byteSize } from "../format.js";
import { saveFile } from "./save-file.js";
import { table } from "./table.js";

/** What each file is for, by name. */
const ABOUT = {
  "calibration.json": "scores of normal held-out lines, for anomaly scores",
  "model.json": "the card: configuration, provenance and report",
  "model.onnx": "character ids and a state to logits and the next state",
  "model.int8.npz": "int8 weights, with which completions are faster",
  "model.int8.onnx": "int8 weights, with which completions are faster",
  "model.keras": "only stock Keras layers",
  "mixture.npz": "the end of the text, and the weights of the mixture",
  "ngram.npz": "n-grams of the text, for anomaly scores",
  "word_ngram.npz": "n-grams of words, for anomaly scores",
  "templates.json": "templates of the lines, for anomaly scores",
  "successors.json": "what follows what in the lines, for anomaly scores",
  "lines.index": "the distinct lines and their counts, for suggestions",
  "mask_values.json": "what masked values look like",
  "report.html": "the report as a page",
  "report.json": "the report",
  "report.svg": "the report's picture",
};

/** @param {any} model @param {(action: () => Promise<void>) => void} attempt runs an action and shows its error */
export function modelFiles(model, attempt) {
  const files = [["model.json", null], ...Object.entries(model.files)];
  const about = (name) => ABOUT[name] ?? (name.includes("tfevents") ? "the TensorBoard log" : "");
  const link = (name) => h("button.link", { onclick: () => attempt(() => download(model, name)) }, name);
  return h(
    "section.card.stack",
    h("h2", "Files"),
    table(
      ["File", "Content", h("th.right", { scope: "col" }, "Size")],
      files.map(([name, file]) => [
        link(name),
        h("td.muted", about(name)),
        h("td.right.number", file ? byteSize(file.bytes) : "–"),
      ]),
      { isSmall: true },
    ),
  );
}

/** Download by a call, because a link cannot carry an API key. */
async function download(model, name) {
  const response = await request("GET", apiPath("/v1/models", model.id, "files", name));
  saveFile(await response.blob(), `${model.id}-${name}`);
}
