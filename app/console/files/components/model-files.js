/** The files of a model, to download. */

import { apiPath, request } from "../api.js";
import { h } from "../dom.js";
import { byteSize } from "../format.js";
import { saveFile } from "./save-file.js";

/** @param {any} model @param {(action: () => Promise<void>) => void} attempt runs an action and shows its error */
export function modelFiles(model, attempt) {
  const files = [["model.json", null], ...Object.entries(model.files)];
  return h(
    "section",
    { class: "card stack" },
    h("h2", {}, "Files"),
    h(
      "ul",
      { class: "list" },
      files.map(([name, file]) =>
        h(
          "li",
          { class: "row apart" },
          h("button", { type: "button", class: "link", onclick: () => attempt(() => download(model, name)) }, name),
          h("span", { class: "muted small number" }, file ? byteSize(file.bytes) : "model card"),
        ),
      ),
    ),
    h(
      "p",
      { class: "muted small" },
      "The .keras file uses only stock Keras layers. The .onnx file maps character ids and a state to logits and the next state.",
    ),
  );
}

/** Download by a call, because a link cannot carry an API key. */
async function download(model, name) {
  const response = await request("GET", apiPath("/v1/models", model.id, "files", name));
  saveFile(await response.blob(), `${model.id}-${name}`);
}
