/**
 * Repeats: lines that are rare enough to be flagged, and are only counted. At the false-alarm rate that the service used
 * they are those that it found (models/anomaly/flag_rule.py); at another rate this is its rule, simplified: with the
 * console's templates for kinds, because the rate can be changed without a request.
 */

const MIN_ALLOWED = 5;
const NOISE = 2; // standard deviations above the expected false alarms

/**
 * Return 1 for each row that is a repeat, else 0.
 *
 * @param {import('./scored-log.js').ScoredLog} log
 * @param {(row: number) => boolean} isBelow whether the p-value of a row is low enough to flag it
 * @param {number} rate the false-alarm rate
 */
export function findRepeats(log, isBelow, rate) {
  if (rate === log.start?.false_alarms) return log.isRepeat.slice(0, log.length);
  const isRepeat = new Uint8Array(log.length);
  const wasFlagged = new Uint8Array(log.templates.texts.length);
  let flagged = 0;
  for (let row = 0; row < log.length; row += 1) {
    if (!isBelow(row)) continue;
    const expected = rate * (row + 1);
    const allowed = MIN_ALLOWED + expected + NOISE * Math.sqrt(expected);
    const template = log.template[row];
    if (wasFlagged[template] && flagged >= allowed) {
      isRepeat[row] = 1;
    } else {
      wasFlagged[template] = 1;
      flagged += 1;
    }
  }
  return isRepeat;
}
