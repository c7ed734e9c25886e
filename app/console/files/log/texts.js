/** Texts of scored lines, read from the file where they are needed; the last ones are kept. */

import { linesAt, readLines } from "./source.js";

const MAX_LINE_BYTES = 200_000; // as many as the service scores
const MAX_KEPT = 2_000;
const SCAN_BYTES = 4 << 20;
const MAX_REGION_BYTES = 8 << 20;

/** Return a reader of the texts of `log`. @param {import('./scored-log.js').ScoredLog} log */
export function lineTexts(log) {
  /** @type {Map<number, string>} */ const kept = new Map();

  async function read(row) {
    const start = log.offset[row];
    const end = Math.min(log.endOf(row), start + MAX_LINE_BYTES);
    const data = new Uint8Array(await log.source.blob.slice(start, end).arrayBuffer());
    const text = linesAt(data, 0, log.lines[row]);
    kept.set(row, text);
    if (kept.size > MAX_KEPT) kept.delete(/** @type {number} */ (kept.keys().next().value));
    return text;
  }

  return {
    /** The text of a row if it was read lately, else undefined. @param {number} row */
    kept: (row) => kept.get(row),
    /** The text of a row. @param {number} row @returns {Promise<string>} */
    get: async (row) => kept.get(row) ?? read(row),
  };
}

/**
 * Return the texts of some rows. Rows that are near each other in the file are read at once.
 *
 * @param {import('./scored-log.js').ScoredLog} log
 * @param {ArrayLike<number>} rows
 * @returns {Promise<string[]>}
 */
export async function textsOf(log, rows) {
  const offsets = Array.from(rows, (row) => log.offset[row]);
  const start = Math.min(...offsets);
  const end = Math.max(...offsets) + MAX_LINE_BYTES;
  if (end - start > MAX_REGION_BYTES) {
    const texts = lineTexts(log);
    return Promise.all(Array.from(rows, (row) => texts.get(row)));
  }
  const data = new Uint8Array(await log.source.blob.slice(start, end).arrayBuffer());
  return offsets.map((offset, i) => linesAt(data, offset - start, log.lines[rows[i]]));
}

/**
 * Yield [row, text] of all rows from `firstRow` on, in their order, reading the file in large pieces.
 *
 * @param {import('./scored-log.js').ScoredLog} log
 * @param {{firstRow?: number, signal?: AbortSignal}} [options]
 */
export async function* allTexts(log, { firstRow = 0, signal } = {}) {
  let row = firstRow;
  while (row < log.length) {
    const offset = log.offset[row];
    const { data, next } = await readLines(log.source.blob, offset, SCAN_BYTES);
    signal?.throwIfAborted();
    for (; row < log.length && log.offset[row] < next; row += 1) {
      yield /** @type {[number, string]} */ ([row, linesAt(data, log.offset[row] - offset, log.lines[row])]);
    }
  }
}
