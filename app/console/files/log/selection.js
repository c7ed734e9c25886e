/** Which lines are shown, in which order; their groups; and their counts over time. All from arrays of numbers. */

// A sort key is rarity * ROWS + row, which a float64 holds exactly: 2 ** 19 bits, in steps of 1 / 1024, and 2 ** 24 rows.
const ROWS = 2 ** 24;
const STEPS_PER_BIT = 1024;
const MAX_BITS = 2 ** 19 - 1;

/**
 * @typedef {object} Filter
 * @property {(row: number) => boolean} isFlagged
 * @property {(row: number) => boolean} isRepeat
 * @property {boolean} flaggedOnly
 * @property {boolean} byScore the most anomalous first
 * @property {Uint8Array | null} matches 1 for rows whose text matches a search; null: no search
 * @property {number | null} alert its number in the log
 * @property {[number, number] | null} range of `positions`, both included
 * @property {Float64Array | Uint32Array} positions of the rows: their times, or their line numbers
 */

/** @typedef {import('./scored-log.js').ScoredLog} ScoredLog */

/** Return a function that says whether a row is in what the filter selects, flagged or not. @param {Filter} filter */
function inFilter(log, { matches, alert, range, positions }) {
  return (row) =>
    (alert === null || log.alert[row] === alert) &&
    (range === null || (positions[row] >= range[0] && positions[row] <= range[1])) &&
    (matches === null || matches[row] === 1);
}

/**
 * Return the rows to show, and how many are selected, and flagged and repeats among them.
 *
 * @param {ScoredLog} log
 * @param {Filter} filter
 */
export function selectRows(log, filter) {
  const isIn = inFilter(log, filter);
  const rows = new Uint32Array(log.length);
  let shown = 0;
  let [total, flagged, repeats] = [0, 0, 0];
  for (let row = 0; row < log.length; row += 1) {
    if (!isIn(row)) continue;
    total += 1;
    const isFlagged = filter.isFlagged(row);
    flagged += Number(isFlagged);
    repeats += Number(filter.isRepeat(row));
    if (isFlagged || !filter.flaggedOnly) rows[shown++] = row;
  }
  const selected = rows.subarray(0, shown);
  return { rows: filter.byScore ? mostAnomalousFirst(log, selected) : selected, total, flagged, repeats };
}

/** @param {ScoredLog} log @param {Uint32Array} rows */
function mostAnomalousFirst(log, rows) {
  const keys = new Float64Array(rows.length);
  for (let i = 0; i < rows.length; i += 1) {
    const bits = Math.min(MAX_BITS, Math.max(0, log.score[rows[i]] || 0));
    keys[i] = -Math.round(bits * STEPS_PER_BIT) * ROWS + rows[i];
  }
  keys.sort(); // numerically; equal scores by position
  return Uint32Array.from(keys, (key) => key - Math.floor(key / ROWS) * ROWS);
}

/**
 * @typedef {{alert: number, total: number, flagged: number, top: number}} Group `top` is its most anomalous row
 *
 * @param {ScoredLog} log
 * @param {Filter} filter
 * @returns {{groups: Group[], total: number, flagged: number, repeats: number}} the groups with most flagged lines first; by score, the
 *   one with the most anomalous line
 */
export function groupRows(log, filter) {
  const { rows, ...counts } = selectRows(log, { ...filter, byScore: false });
  /** @type {(Group | undefined)[]} */ const byAlert = new Array(log.alerts.size);
  for (const row of rows) {
    const alert = log.alert[row];
    const group = (byAlert[alert] ??= { alert, total: 0, flagged: 0, top: row });
    group.total += 1;
    group.flagged += Number(filter.isFlagged(row));
    if (log.score[row] > log.score[group.top]) group.top = row;
  }
  const groups = /** @type {Group[]} */ (byAlert.filter(Boolean));
  const byTop = (a, b) => log.score[b.top] - log.score[a.top] || a.top - b.top;
  groups.sort(filter.byScore ? byTop : (a, b) => b.flagged - a.flagged || b.total - a.total || a.top - b.top);
  return { groups, ...counts };
}

/**
 * Return the numbers of selected and flagged rows in equal parts of a range of positions.
 *
 * @param {ScoredLog} log
 * @param {Filter} filter its `range` and `flaggedOnly` are not used
 * @param {{range: [number, number], bins: number}} options
 */
export function countOver(log, filter, { range: [from, to], bins }) {
  const isIn = inFilter(log, { ...filter, range: null });
  const total = new Uint32Array(bins);
  const flagged = new Uint32Array(bins);
  const perUnit = bins / (to - from || 1);
  for (let row = 0; row < log.length; row += 1) {
    const position = filter.positions[row];
    if (!(position >= from && position <= to) || !isIn(row)) continue;
    const bin = Math.min(bins - 1, Math.floor((position - from) * perUnit));
    total[bin] += 1;
    if (filter.isFlagged(row)) flagged[bin] += 1;
  }
  return { total, flagged };
}
