/** Log lines from pasted text or a file, limited to what one scoring request takes. */

import { ApiError } from "./api.js";
import { byteSize } from "./format.js";

export const MAX_LINES = 10_000;
export const MAX_CHARACTERS = 1_000_000;
const MAX_FILE_BYTES = 32 << 20;

/**
 * Return the non-empty lines of a text with their line numbers (from 1), as many as one request takes.
 *
 * @param {string} text
 * @returns {{lines: {number: number, text: string}[], omitted: number}} `omitted` is the number of lines left out
 */
export function splitLines(text) {
  const all = text
    .normalize("NFC")
    .split(/\r?\n/)
    .map((line, index) => ({ number: index + 1, text: line }))
    .filter((line) => line.text);
  let characters = 0;
  let taken = 0;
  while (taken < Math.min(all.length, MAX_LINES)) {
    characters += Array.from(all[taken].text).length;
    if (characters > MAX_CHARACTERS) break;
    taken += 1;
  }
  return { lines: all.slice(0, taken), omitted: all.length - taken };
}

/** Return the text of a log file. Raises ApiError if it is too large or not text. @param {File} file */
export async function readLogFile(file) {
  if (file.size > MAX_FILE_BYTES) {
    throw new ApiError(413, {
      code: "log_too_large",
      message:
        `${file.name} is ${byteSize(file.size)}; this page reads files of at most ${byteSize(MAX_FILE_BYTES)}. ` +
        "Choose a part of it, or score it with the command line.",
    });
  }
  const text = decodeUtf8(await file.arrayBuffer());
  if (text === null || text.includes("\u0000")) {
    throw new ApiError(422, {
      code: "log_not_text",
      message: `${file.name} is not UTF-8 text. Choose an uncompressed text file.`,
    });
  }
  return text;
}

function decodeUtf8(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return null;
  }
}
