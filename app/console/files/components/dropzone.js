/** Upload of a corpus: a file is dropped or chosen, and its progress is shown. */

import { isAbort } from "../api.js";
import { h, replace, svg } from "../dom.js";
import { byteSize, duration } from "../format.js";
import { uploadFile, uploadSampleLog, uploadSampleText } from "../upload.js";
import { errorBox } from "./notice.js";

const FILE_ICON =
  "M28 5H12a3 3 0 0 0-3 3v32a3 3 0 0 0 3 3h24a3 3 0 0 0 3-3V16zM28 5v11h11M24 36V24m-5.5 5.5L24 24l5.5 5.5";

/**
 * Return a drop zone for one text file.
 *
 * @param {{onUploaded: (corpus: any, isNew: boolean) => void, signal: AbortSignal, withSample?: boolean}} options
 *   `withSample` adds buttons that upload the sample text and the sample log
 */
export function dropzone({ onUploaded, signal, withSample = false }) {
  const input = h("input.visually-hidden", {
    type: "file",
    id: "file",
    onchange: () => takeFiles(input.files),
  });
  const status = h("div.stack.tight", { "aria-live": "polite" });
  const zone = h(
    "div.dropzone",
    fileIcon(),
    h("p.strong", "Drop a text file here"),
    h("p.muted.small", "UTF-8 plain text, optionally gzipped: logs, names, code, prose."),
    h(
      "div.row.center",
      h("label.button", { for: "file" }, "Choose a file"),
      input,
      withSample && [
        sampleButton("Use the sample text", uploadSampleText, "the sample text"),
        sampleButton("Use the sample log", uploadSampleLog, "the sample log"),
      ],
    ),
    status,
  );

  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("drag-over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("drag-over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("drag-over");
    takeFiles(event.dataTransfer.files);
  });

  function sampleButton(label, send, name) {
    return h("button.button", { onclick: () => upload(send, name) }, label);
  }

  function takeFiles(files) {
    if (files.length) {
      const [file] = files;
      upload(
        (options) => uploadFile(file, options),
        files.length > 1 ? `${file.name}, the first of ${files.length} files` : file.name,
        (options) => uploadFile(file, { ...options, asBytes: true }),
      );
    }
    input.value = ""; // so that the same file can be chosen again
  }

  /**
   * @param {(options: import('../upload.js').UploadOptions) => Promise<any>} send
   * @param {string} name
   * @param {((options: import('../upload.js').UploadOptions) => Promise<any>) | null} sendAsBytes offered if the file
   *   is not UTF-8
   */
  async function upload(send, name, sendAsBytes = null) {
    const cancel = new AbortController();
    signal.addEventListener("abort", () => cancel.abort(), { once: true });
    const bar = h("progress", { max: 1, value: 0, "aria-label": `Upload of ${name}` });
    const progressText = h("span.small.number", "Checking the file");
    replace(
      status,
      h("p.small", `Uploading ${name}`),
      bar,
      h("div.row.center", progressText, h("button.button.small", { onclick: () => cancel.abort() }, "Cancel")),
    );
    const startedAt = performance.now();
    try {
      const { corpus, isNew } = await send({
        signal: cancel.signal,
        onProgress(sent, total) {
          bar.value = sent / total;
          const secondsLeft = ((performance.now() - startedAt) / 1000) * (total / sent - 1);
          progressText.textContent =
            sent === total
              ? "Counting characters"
              : `${byteSize(sent)} of ${byteSize(total)}, ${duration(secondsLeft)} left`;
        },
      });
      replace(status);
      onUploaded(corpus, isNew);
    } catch (error) {
      if (signal.aborted) return;
      if (isAbort(error)) {
        replace(status, h("p.small", "Upload cancelled. Nothing was stored."));
        return;
      }
      const asBytes = h("button.button.small", { onclick: () => upload(sendAsBytes, name) }, "Upload as bytes");
      replace(status, errorBox(error, { actions: error.code === "corpus_not_utf8" && sendAsBytes ? [asBytes] : [] }));
    }
  }

  return zone;
}

function fileIcon() {
  return svg(
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
    svg("path", { d: FILE_ICON }),
  );
}
