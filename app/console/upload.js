/** A text on its way in: what cannot be one is refused before a byte is sent, progress is told, it can be stopped. */

import { ApiError, get, keyHeaders, newKey, unreachable } from "./api.js";
import { size } from "./format.js";

const SNIFFED_BYTES = 65536;

// The first bytes of what people drop by mistake.
const KINDS = [
  ["%PDF", "a PDF", "Save its text first, for example with `pdftotext`."],
  ["PK\u0003\u0004", "a ZIP archive or an Office document", "Unpack it, or save the document as plain text."],
  ["\u0089PNG", "a picture", "Only text can be learned."],
  ["\u00ff\u00d8\u00ff", "a picture", "Only text can be learned."],
  ["\u007fELF", "a program", "Only text can be learned."],
  ["\u00ff\u00fe", "text in UTF-16", "Convert it first: `iconv -f utf-16 -t utf-8`."],
  ["\u00fe\u00ff", "text in UTF-16", "Convert it first: `iconv -f utf-16 -t utf-8`."],
  ["\u00fd7zXZ", "compressed with xz", "Unpack it first; gzip can stay as it is."],
  ["BZh", "compressed with bzip2", "Unpack it first; gzip can stay as it is."],
];

/**
 * Upload a file; return its corpus, and whether the service had it already.
 *
 * @param {File} file
 * @param {{signal?: AbortSignal, onProgress?: (sent: number, all: number) => void, asBytes?: boolean}} [options]
 *   `asBytes` takes it as it is, whatever it is; each byte is a character then
 * @returns {Promise<{corpus: any, isNew: boolean}>}
 */
export async function uploadFile(file, { signal, onProgress, asBytes = false } = {}) {
  const isGzip = await check(file, { signal, asBytes });
  return send(file, { name: nameOf(file.name), isGzip, asBytes, signal, onProgress });
}

/**
 * Upload the text that the service brings along for those who have none. As `uploadFile`.
 *
 * @param {{signal?: AbortSignal, onProgress?: (sent: number, all: number) => void}} [options]
 */
export async function uploadSample({ signal, onProgress } = {}) {
  const answer = await fetch("/console/sample.txt", { signal }).catch(() => {
    throw unreachable();
  });
  return send(await answer.blob(), { name: "python-reference", signal, onProgress });
}

/** A corpus's name from a file's, or null if nothing of it can be used. @param {string} file */
export function nameOf(file) {
  const stem = file.replace(/(\.(txt|log|text|md|csv|tsv|gz))+$/i, "");
  const name = stem
    .replace(/[^A-Za-z0-9._-]+/g, "-")
    .replace(/^[^A-Za-z0-9]+/, "")
    .slice(0, 64)
    .replace(/-+$/, "");
  return name && !/^(corpus|job|model)_/.test(name) ? name : null;
}

async function check(file, { signal, asBytes }) {
  if (!file.size) throw refused("corpus_empty", `${file.name} is empty. Choose a file with some text in it.`);
  const { max_corpus_bytes: limit } = await get("/console/about.json", { signal });
  if (file.size > limit) {
    throw refused(
      "corpus_too_large",
      `${file.name} has ${size(file.size)} and this service takes ${size(limit)} at most. Nothing was sent. ` +
        `Take a part of it, for example with \`head -c ${limit}\`, or have the service started with a larger ` +
        "`NEXTCHAR_MAX_CORPUS_BYTES`.",
    );
  }
  const start = new Uint8Array(await file.slice(0, SNIFFED_BYTES).arrayBuffer());
  if (start[0] === 0x1f && start[1] === 0x8b) return true;
  if (asBytes) return false;
  const latin = String.fromCharCode(...start.subarray(0, 8));
  const kind = KINDS.find(([magic]) => latin.startsWith(magic));
  if (kind) throw refused("corpus_not_text", `${file.name} is ${kind[1]}, not plain text. ${kind[2]}`);
  if (!isUtf8(start)) {
    throw refused(
      "corpus_not_utf8",
      `${file.name} is not text in UTF-8. If it is text, convert it first, ` +
        "for example with `iconv -f latin1 -t utf-8`.",
    );
  }
  return false;
}

function isUtf8(start) {
  try {
    // As a stream: the cut may fall into the middle of a character.
    return !new TextDecoder("utf-8", { fatal: true }).decode(start, { stream: true }).includes("\u0000");
  } catch {
    return false;
  }
}

async function send(body, options) {
  options.signal?.throwIfAborted(); // it may have been stopped while the file was looked at
  try {
    return await post(body, options);
  } catch (error) {
    if (error.status === 401 && (await newKey())) return send(body, options);
    // Another text has this name, or the key may not give it: the id will do.
    if (["name_taken", "corpus_name_not_permitted"].includes(error.code)) return send(body, { ...options, name: null });
    throw error;
  }
}

/** By XMLHttpRequest, for fetch does not tell how much of a body has gone. */
function post(body, { name, isGzip = false, asBytes = false, signal, onProgress }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const query = new URLSearchParams({ ...(name && { name }), ...(asBytes && { encoding: "bytes" }) });
    request.open("POST", `/v1/corpora?${query}`);
    request.setRequestHeader("Content-Type", asBytes ? "application/octet-stream" : "text/plain; charset=utf-8");
    if (isGzip) request.setRequestHeader("Content-Encoding", "gzip");
    for (const [header, value] of Object.entries(keyHeaders())) request.setRequestHeader(header, value);
    request.upload.onprogress = (event) => onProgress?.(event.loaded, event.total);
    request.onerror = () => reject(unreachable());
    request.onabort = () => reject(new DOMException("the upload was stopped", "AbortError"));
    request.onload = () => {
      const answer = parsed(request.responseText);
      if (request.status < 300) resolve({ corpus: answer, isNew: request.status === 201 });
      else
        reject(new ApiError(request.status, answer?.error ?? { message: `The answer has status ${request.status}.` }));
    };
    signal?.addEventListener("abort", () => request.abort(), { once: true });
    request.send(body);
  });
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function refused(code, message) {
  return new ApiError(422, { code, message });
}

/** Whether an error only says that something was stopped on purpose. @param {any} error */
export function isAbort(error) {
  return error?.name === "AbortError";
}
