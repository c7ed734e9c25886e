/** Lines of a scored log to calibrate a model on: evenly spaced, as many as one quick calibration takes. */

import { textsOf } from "./texts.js";

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
  const bytesPerLine = log.length ? (log.offset[log.length - 1] + 1) / log.length : 1;
  const wanted = Math.max(1, Math.min(log.length, MAX_LINES, Math.floor(MAX_CHARACTERS / bytesPerLine)));
  const rows = Array.from({ length: wanted }, (_, i) => Math.floor((i * log.length) / wanted));
  const texts = await textsOf(log, rows);
  return texts.map((text) => text.normalize("NFC") + lineEnd);
}
