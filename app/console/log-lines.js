/** Lines of a log: from a paste or a file to what can be scored at once. */

import { ApiError } from "./api.js";
import { size } from "./format.js";

export const MOST_LINES = 10_000;
export const MOST_CHARACTERS = 1_000_000;
const MOST_BYTES = 32 << 20;

/**
 * Return the lines of a text that are not empty, with their places from 1, as many as one call takes.
 *
 * @param {string} text
 * @returns {{lines: {place: number, text: string}[], left: number}} `left` is how many were left out
 */
export function linesOf(text) {
  const all = text
    .normalize("NFC")
    .split(/\r?\n/)
    .map((line, index) => ({ place: index + 1, text: line }))
    .filter((line) => line.text);
  let characters = 0;
  let fit = 0;
  while (fit < Math.min(all.length, MOST_LINES)) {
    characters += Array.from(all[fit].text).length;
    if (characters > MOST_CHARACTERS) break;
    fit += 1;
  }
  return { lines: all.slice(0, fit), left: all.length - fit };
}

/** Return a dropped file's text. Raises ApiError for what is none. @param {File} file */
export async function textOf(file) {
  if (file.size > MOST_BYTES) {
    throw new ApiError(413, {
      code: "log_too_large",
      message:
        `${file.name} has ${size(file.size)}; this view takes ${size(MOST_BYTES)}. ` +
        "Take a part of it, or score it from the command line.",
    });
  }
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    if (!text.includes("\u0000")) return text;
  } catch {
    // The same is to be said of it.
  }
  throw new ApiError(422, {
    code: "log_not_text",
    message: `${file.name} is not text in UTF-8. Drop a plain log file, unpacked.`,
  });
}
