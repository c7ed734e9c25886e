/** Search in the texts of a scored log: the file is read once per search, and once more for lines added since. */

import { allTexts } from "./texts.js";

const PAUSE_ROWS = 20_000; // after as many the page is updated

/**
 * Mark the rows whose text contains `query`, in any case.
 *
 * @param {import('./scored-log.js').ScoredLog} log
 * @param {string} query
 * @param {{signal: AbortSignal, onProgress: () => void}} options
 * @returns {{matches: Uint8Array, continue: () => Promise<void>}} `continue` searches the rows that are new; `matches`
 *   has 1 where a row matches
 */
export function searchLog(log, query, { signal, onProgress }) {
  const wanted = query.normalize("NFC").toLowerCase();
  let searched = 0;
  let running = Promise.resolve();
  const search = {
    matches: new Uint8Array(log.length),
    /** Search in rows that were added; resolves when there is none left. */
    continue() {
      running = running.then(searchNew);
      return running;
    },
  };

  async function searchNew() {
    const { length } = log;
    if (search.matches.length < length) {
      const grown = new Uint8Array(Math.max(length, 2 * search.matches.length));
      grown.set(search.matches);
      search.matches = grown;
    }
    for await (const [row, text] of allTexts(log, { firstRow: searched, signal })) {
      if (row >= length) break;
      search.matches[row] = Number(text.normalize("NFC").toLowerCase().includes(wanted));
      searched = row + 1;
      if (row % PAUSE_ROWS === 0) {
        onProgress();
        await new Promise((resolve) => setTimeout(resolve));
      }
    }
    onProgress();
  }

  return search;
}
