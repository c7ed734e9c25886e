/** Uploads of corpora, with progress and cancellation. Files that are not text are rejected before they are sent. */

import { keyHeaders, requestKey } from "./api-key.js";
import { ApiError, connectionError, get, request } from "./api.js";
import { isGzip, knownFileType } from "./file-types.js";
import { byteSize } from "./format.js";

const SNIFFED_BYTES = 65536;

/**
 * @typedef {object} UploadOptions
 * @property {AbortSignal} [signal]
 * @property {(sentBytes: number, totalBytes: number) => void} [onProgress]
 * @property {boolean} [asBytes] upload whatever the file contains; each byte becomes a character
 *
 * @typedef {{corpus: any, isNew: boolean}} Uploaded `isNew` is false if the service had the same text already
 */

/**
 * Upload a file. Raises ApiError for a file that is rejected here or by the service, AbortError when cancelled.
 *
 * @param {File} file
 * @param {UploadOptions} [options]
 * @returns {Promise<Uploaded>}
 */
export async function uploadFile(file, { signal, onProgress, asBytes = false } = {}) {
  const archive = archiveFormat(file.name);
  const isGzipped = await checkFile(file, { signal, asBytes, archive });
  return send(file, { name: corpusNameFor(file.name), isGzipped, asBytes, archive, signal, onProgress });
}

/** Upload the sample text of the service. @param {UploadOptions} [options] @returns {Promise<Uploaded>} */
export function uploadSampleText(options) {
  return uploadSample("/console/sample.txt", "python-reference", options);
}

/** Upload the sample log of the service. @param {UploadOptions} [options] @returns {Promise<Uploaded>} */
export function uploadSampleLog(options) {
  return uploadSample("/console/sample-log.txt.gz", "sample-log", options);
}

async function uploadSample(path, name, { signal, onProgress } = {}) {
  const response = await request("GET", path, { signal });
  return send(await response.blob(), { name, signal, onProgress });
}

/** Return a valid corpus name made from a file name, or null if there is none. @param {string} fileName */
function corpusNameFor(fileName) {
  const stem = fileName.replace(/(\.(txt|log|text|md|csv|tsv|gz|tar|tgz|zip))+$/i, "");
  const name = stem
    .replace(/[^A-Za-z0-9._-]+/g, "-")
    .replace(/^[^A-Za-z0-9]+/, "")
    .slice(0, 64)
    .replace(/-+$/, "");
  return name && !/^(corpus|job|model)_/.test(name) ? name : null;
}

/** Return the format of an archive, whose files become one corpus, by its name; or null. */
function archiveFormat(fileName) {
  if (/\.(tar|tar\.gz|tgz)$/i.test(fileName)) return "tar";
  return /\.zip$/i.test(fileName) ? "zip" : null;
}

/** Raise ApiError for a file that cannot be a corpus; return whether it is gzipped. */
async function checkFile(file, { signal, asBytes, archive }) {
  if (!file.size) throw rejected("corpus_empty", `${file.name} is empty. Choose a file that contains text.`);
  const { max_corpus_bytes: maxBytes } = await get("/console/about.json", { signal });
  if (file.size > maxBytes) {
    throw rejected(
      "corpus_too_large",
      `${file.name} is ${byteSize(file.size)}; this service accepts at most ${byteSize(maxBytes)}. Nothing was sent. ` +
        `Upload a part of it, for example the output of \`head -c ${maxBytes}\`, or ask the operator to raise ` +
        "`NEXTCHAR_MAX_CORPUS_BYTES`.",
    );
  }
  if (archive) return false; // the service undoes its compression, and checks the files in it
  const start = new Uint8Array(await file.slice(0, SNIFFED_BYTES).arrayBuffer());
  if (isGzip(start)) return true;
  if (asBytes) return false;
  const type = knownFileType(start);
  if (type) throw rejected("corpus_not_text", `${file.name} is ${type.name}, not plain text. ${type.advice}`);
  if (!isUtf8(start)) {
    throw rejected(
      "corpus_not_utf8",
      `${file.name} is not UTF-8 text. If it is text in another encoding, convert it first, ` +
        "for example with `iconv -f latin1 -t utf-8`.",
    );
  }
  return false;
}

function isUtf8(start) {
  try {
    // In streaming mode, because the last character may be cut.
    return !new TextDecoder("utf-8", { fatal: true }).decode(start, { stream: true }).includes("\u0000");
  } catch {
    return false;
  }
}

async function send(body, options) {
  options.signal?.throwIfAborted(); // it may have been cancelled while the file was checked
  try {
    return await post(body, options);
  } catch (error) {
    if (error.status === 401 && (await requestKey())) return send(body, options);
    // The key may not use this name: upload without one.
    if (error.code === "corpus_name_not_permitted") return send(body, { ...options, name: null });
    throw error;
  }
}

/** POST by XMLHttpRequest, because fetch does not report upload progress. */
function post(body, { name, isGzipped = false, asBytes = false, archive = null, signal, onProgress }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const query = new URLSearchParams({
      ...(name && { name }),
      ...(asBytes && { encoding: "bytes" }),
      ...(archive && { archive }),
    });
    request.open("POST", `/v1/corpora?${query}`);
    request.setRequestHeader("Content-Type", asBytes || archive ? "application/octet-stream" : "text/plain; charset=utf-8");
    if (isGzipped) request.setRequestHeader("Content-Encoding", "gzip");
    for (const [header, value] of Object.entries(keyHeaders())) request.setRequestHeader(header, value);
    request.upload.onprogress = (event) => onProgress?.(event.loaded, event.total);
    request.onerror = () => reject(connectionError());
    request.onabort = () => reject(new DOMException("the upload was cancelled", "AbortError"));
    request.onload = () => {
      const response = parseJson(request.responseText);
      if (request.status < 300) resolve({ corpus: response, isNew: request.status === 201 });
      else
        reject(
          new ApiError(request.status, response?.error ?? { message: `The upload failed (status ${request.status}).` }),
        );
    };
    signal?.addEventListener("abort", () => request.abort(), { once: true });
    request.send(body);
  });
}

function parseJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function rejected(code, message) {
  return new ApiError(422, { code, message });
}
