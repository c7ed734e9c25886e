/** Lines of a scored log to calibrate a model on: evenly spaced, as many as one quick calibration takes. */

import { lineTexts } from "./texts.js";

const MAX_LINES = 10_000;
const MAX_CHARACTERS = 500_000;

/**
 * Return normal lines as they are sent.
 *
 * @param {import('./scored-log.js').ScoredLog} log
 * @param {string} lineEnd what the model read before each newline
 * @returns {Promise<string[]>}
 */
export async function calibrationLines(log, lineEnd) {
  const texts = lineTexts(log);
  const bytesPerLine = log.length ? log.endOf(log.length - 1) / log.length : 1;
  const wanted = Math.max(1, Math.min(log.length, MAX_LINES, Math.floor(MAX_CHARACTERS / bytesPerLine)));
  const lines = [];
  let characters = 0;
  for (let i = 0; i < wanted; i += 1) {
    const text = await texts.get(Math.floor((i * log.length) / wanted));
    characters += text.length;
    if (characters > 2 * MAX_CHARACTERS) break;
    lines.push(text.normalize("NFC") + lineEnd);
  }
  return lines;
}
