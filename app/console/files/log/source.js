/** A log to score: pasted lines or a file, read in pieces that end with a line. */

import { ApiError } from "../api.js";
import { rejectedFileType } from "../file-types.js";

const SNIFFED_BYTES = 65536;
const NEWLINE = 10;

/**
 * @typedef {object} LogSource
 * @property {string} name of the file, or "pasted lines"
 * @property {Blob} blob
 * @property {number} referenceTime milliseconds since 1970: no line is much younger
 * @property {boolean} isFile
 */

/** Return pasted lines as a source. @param {string} text @param {string} lineEnd before the newline: "" or "\r" */
export function pastedSource(text, lineEnd = "") {
  const blob = new Blob([text.split(/\r?\n/).join(`${lineEnd}\n`)]);
  return { name: "pasted lines", blob, referenceTime: Date.now(), isFile: false };
}

/** Return a file as a source. Raises ApiError if it is not plain text. @param {File} file @returns {Promise<LogSource>} */
export async function fileSource(file) {
  const start = new Uint8Array(await file.slice(0, SNIFFED_BYTES).arrayBuffer());
  const type = rejectedFileType(start);
  const problem = !file.size
    ? "is empty. Choose a file with log lines."
    : type
      ? `is ${type.name}, not plain text. ${type.advice}`
      : start.includes(0) && "contains NUL characters, so it is not plain text. Choose an uncompressed text file.";
  if (problem) throw new ApiError(422, { code: "log_not_text", message: `${file.name} ${problem}` });
  return { name: file.name, blob: file, referenceTime: file.lastModified, isFile: true };
}

/**
 * Return the bytes from `offset` on, at most `maxBytes`, up to the end of a line or of the blob, and where the next
 * piece begins. Of a line that is longer than `maxBytes` the beginning is returned; the next piece is behind its end.
 *
 * @param {Blob} blob
 * @param {number} offset in bytes
 * @param {number} maxBytes
 * @returns {Promise<{data: Uint8Array, next: number}>}
 */
export async function readLines(blob, offset, maxBytes) {
  const data = await bytesAt(blob, offset, maxBytes);
  if (offset + data.length >= blob.size) return { data, next: blob.size };
  const end = data.lastIndexOf(NEWLINE) + 1;
  if (end > 0) return { data: data.subarray(0, end), next: offset + end };
  let next = offset + data.length;
  for (;;) {
    const more = await bytesAt(blob, next, maxBytes);
    const newline = more.indexOf(NEWLINE);
    if (newline >= 0) return { data, next: next + newline + 1 };
    next += more.length;
    if (next >= blob.size) return { data, next: blob.size };
  }
}

/** Return the number of lines in `data`; the last one may have no newline. @param {Uint8Array} data */
export function lineCount(data) {
  const newlines = data.reduce((count, byte) => count + Number(byte === NEWLINE), 0);
  return newlines + Number(data.length > 0 && data.at(-1) !== NEWLINE);
}

/** Return where the last `count` lines of `data` begin, which ends with a newline. */
export function startOfLast(data, count) {
  let start = data.length;
  for (let n = 0; n < count; n += 1) start = start > 1 ? data.lastIndexOf(NEWLINE, start - 2) + 1 : 0;
  return start;
}

/** Return the text of the lines that begin at `start` in `data`, without the last newline. Invalid bytes become U+FFFD. */
export function linesAt(data, start, lines) {
  let end = start - 1;
  for (let n = 0; n < lines && end < data.length; n += 1) {
    const newline = data.indexOf(NEWLINE, end + 1);
    end = newline < 0 ? data.length : newline;
  }
  return DECODER.decode(data.subarray(start, end)).replace(/\r(?=\n|$)/g, "");
}

const DECODER = new TextDecoder();

async function bytesAt(blob, start, length) {
  return new Uint8Array(await blob.slice(start, start + length).arrayBuffer());
}
