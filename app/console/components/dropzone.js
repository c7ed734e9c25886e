/** Where a file is dropped or chosen, and what is shown while it is sent. */

import { clock, size } from "../format.js";
import { h, replace, svg } from "../dom.js";
import { failure } from "./notice.js";
import { isAbort, uploadFile, uploadSample } from "../upload.js";

/**
 * Return a place for one text.
 *
 * @param {{onDone: (corpus: any, isNew: boolean) => void, signal: AbortSignal, withSample?: boolean}} options
 */
export function dropzone({ onDone, signal, withSample = false }) {
  const input = h("input", { type: "file", class: "hidden-label", id: "file", onchange: () => take(input.files) });
  const state = h("div", { class: "stack tight", "aria-live": "polite" });
  const zone = h(
    "div",
    { class: "drop" },
    svg(
      "svg",
      {
        viewBox: "0 0 48 48",
        width: 44,
        height: 44,
        "aria-hidden": "true",
        fill: "none",
        stroke: "currentColor",
        "stroke-width": 2.6,
        "stroke-linecap": "round",
        "stroke-linejoin": "round",
      },
      svg("path", {
        d: "M28 5H12a3 3 0 0 0-3 3v32a3 3 0 0 0 3 3h24a3 3 0 0 0 3-3V16zM28 5v11h11M24 36V24m-5.5 5.5L24 24l5.5 5.5",
      }),
    ),
    h("p", { class: "strong" }, "Drop a text file here"),
    h("p", { class: "muted small" }, "Plain text in UTF-8, as it is or gzipped: logs, names, code, prose."),
    h(
      "div",
      { class: "row center" },
      h("label", { class: "button", for: "file" }, "Choose a file"),
      input,
      withSample &&
        h(
          "button",
          { type: "button", class: "button", onclick: () => run(uploadSample, "the sample text") },
          "Use the sample text",
        ),
    ),
    state,
  );

  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    take(event.dataTransfer.files);
  });

  function take(files) {
    if (files.length > 1)
      replace(state, h("p", { class: "small" }, `Of the ${files.length} files only the first is taken.`));
    if (files.length) {
      const [file] = files;
      run(
        (options) => uploadFile(file, options),
        file.name,
        (options) => uploadFile(file, { ...options, asBytes: true }),
      );
    }
    input.value = ""; // so that the same file can be chosen again
  }

  /** @param {(options: any) => Promise<any>} upload @param {string} what @param {((options: any) => Promise<any>) | null} inBytes */
  async function run(upload, what, inBytes = null) {
    const stop = new AbortController();
    signal.addEventListener("abort", () => stop.abort(), { once: true });
    const bar = h("progress", { max: 1, value: 0, "aria-label": `Uploading ${what}` });
    const told = h("span", { class: "small number" }, "looking at the file");
    replace(
      state,
      h("p", { class: "small" }, `Uploading ${what}`),
      bar,
      h(
        "div",
        { class: "row center" },
        told,
        h("button", { type: "button", class: "button small", onclick: () => stop.abort() }, "Stop"),
      ),
    );
    const began = performance.now();
    try {
      const { corpus, isNew } = await upload({
        signal: stop.signal,
        onProgress(sent, all) {
          bar.value = sent / all;
          const left = ((performance.now() - began) / 1000) * (all / sent - 1);
          told.textContent =
            sent === all ? "counting characters" : `${size(sent)} of ${size(all)}, ${clock(left)} left`;
        },
      });
      replace(state);
      onDone(corpus, isNew);
    } catch (error) {
      if (signal.aborted) return;
      replace(
        state,
        isAbort(error)
          ? h("p", { class: "small" }, "Stopped; nothing of it was kept.")
          : failure(error, {
              actions:
                error.code === "corpus_not_utf8" && inBytes
                  ? [
                      h(
                        "button",
                        { type: "button", class: "button small", onclick: () => run(inBytes, what) },
                        "Take its bytes as they are",
                      ),
                    ]
                  : [],
            }),
      );
    }
  }

  return zone;
}
