/**
 * The surprisal of each character of shown lines and their anomalous spans, requested when they come into view.
 *
 * An explanation costs as much as scoring 5 to 50 lines, so only flagged lines in view are explained; the last ones are kept.
 */

import { apiPath, post } from "../api.js";

const MAX_KEPT = 400;
const MAX_REQUEST_LINES = 100;
const MAX_REQUEST_CHARACTERS = 100_000;
const MAX_VIEW_CHARACTERS = 4_000; // of a line that is requested because it is in view
const MAX_DETAIL_CHARACTERS = 20_000; // of a line that is opened; the rest is not requested
const EXPECTED_CHARACTERS = 6;
const MAX_EXPECTED_LINE = 5_000;

/**
 * @typedef {object} Detail
 * @property {string[]} characters of the line, after NFC
 * @property {number[]} offsets of each character in the service's units
 * @property {number[]} bits
 * @property {{start: number, end: number, bits: number, expected: string | null}[]} spans
 * @property {string | null} reason what it has that hardly any line has in its place
 * @property {boolean} wasExplained whether explanations were requested for it
 * @property {string | null} alertId of the alert that the line belongs to, if it is flagged
 * @property {any[] | null} expected the likeliest characters at each offset; null: not requested
 * @property {string[]} unknown characters of the line that are not in the vocabulary, once `isComplete`
 * @property {boolean} isComplete whether all was requested
 */

/**
 * Return the details of a log's lines.
 *
 * @param {{model: string, query: any, lineEnd: string}} options `query` has the fields that decide what is flagged;
 *   `lineEnd` is what the model read before each newline
 */
export function lineDetails({ model, query, lineEnd }) {
  /** @type {Map<number, Detail>} */ const kept = new Map();
  const path = apiPath("/v1/models", model, "score");

  async function request(rows, texts, signal, options, isComplete = false) {
    const shown = texts.map((text) => text.normalize("NFC"));
    const lines = shown.map((text) => text + lineEnd);
    const response = await post(path, { lines, join: false, detail: "character", ...query, ...options }, { signal });
    response.lines.forEach((line, index) => {
      const detail = perCharacter(line, shown[index], lines[index]);
      keep(rows[index], { ...detail, wasExplained: options.explain, isComplete, unknown: response.unknown_characters });
    });
  }

  function keep(row, detail) {
    if (kept.get(row)?.isComplete && !detail.isComplete) return; // it arrived while the line was requested for the view
    kept.delete(row);
    kept.set(row, detail);
    if (kept.size > MAX_KEPT) kept.delete(/** @type {number} */ (kept.keys().next().value));
  }

  const lacks = (row, isFlagged) => {
    const detail = kept.get(row);
    return !detail || (isFlagged && !detail.wasExplained);
  };

  return {
    /** The details of a row if they were requested lately, else undefined. @param {number} row */
    kept: (row) => kept.get(row),

    /**
     * Request the details of rows in view that are lacking; returns whether there were any. Long lines are left out:
     * they are requested when opened.
     *
     * @param {{row: number, text: string, isFlagged: boolean}[]} lines
     * @param {AbortSignal} signal
     */
    async requestForView(lines, signal) {
      let hasNew = false;
      for (const explain of [false, true]) {
        const wanted = lines.filter(
          (one) => one.isFlagged === explain && one.text.length <= MAX_VIEW_CHARACTERS && lacks(one.row, explain),
        );
        const taken = withinLimits(wanted);
        if (!taken.length) continue;
        const texts = taken.map(({ text }) => text);
        await request(
          taken.map(({ row }) => row),
          texts,
          signal,
          { explain },
        );
        hasNew = true;
      }
      return hasNew;
    },

    /** Request all about one row: its explanation and what was expected at each character. */
    async requestAll(row, text, signal) {
      if (kept.get(row)?.isComplete) return;
      const isShort = text.length <= MAX_EXPECTED_LINE;
      const options = { explain: true, ...(isShort && { expected: EXPECTED_CHARACTERS }) };
      await request([row], [text.slice(0, MAX_DETAIL_CHARACTERS)], signal, options, true);
    },
  };
}

function withinLimits(lines) {
  let characters = 0;
  return lines.slice(0, MAX_REQUEST_LINES).filter(({ text }) => (characters += text.length) <= MAX_REQUEST_CHARACTERS);
}

/** Return bits and spans per character: a model of bytes is scored per byte. */
function perCharacter(line, text, sent) {
  const characters = Array.from(text);
  const encoder = new TextEncoder();
  const isPerByte = line.characters > Array.from(sent).length;
  const offsets = [];
  let end = 0;
  for (const character of characters) {
    offsets.push(end);
    end += isPerByte ? encoder.encode(character).length : 1;
  }
  const indexOf = (offset) => offsets.findLastIndex((one) => one <= offset);
  return {
    characters,
    offsets,
    bits: offsets.map((start, i) => line.bits.slice(start, offsets[i + 1] ?? end).reduce((sum, one) => sum + one, 0)),
    spans: (line.spans ?? [])
      .filter(({ start, end }) => start < end)
      .map((span) => ({ ...span, start: indexOf(span.start), end: indexOf(span.end - 1) + 1 })),
    reason: line.reason ?? null,
    expected: line.expected ?? null,
    alertId: line.alert_id ?? null,
  };
}
