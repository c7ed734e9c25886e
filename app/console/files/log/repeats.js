/**
 * Repeats: of a flood of lines like a flagged one only the first are flagged. The rule of the service
 * (models/anomaly/calibrated_scorer.py), with the console's templates, because here the rate can be changed without a request.
 */

const MIN_FLAGGED = 20;
const EXCESS = 3; // times the expected false alarms
const NOISE = 3; // standard deviations above that

/**
 * Return 1 for each row that is a repeat, else 0.
 *
 * @param {import('./scored-log.js').ScoredLog} log
 * @param {(row: number) => boolean} isBelow whether the p-value of a row is low enough to flag it
 * @param {number} rate the false-alarm rate
 */
export function findRepeats(log, isBelow, rate) {
  const isRepeat = new Uint8Array(log.length);
  const wasFlagged = new Uint8Array(log.templates.texts.length);
  let flagged = 0;
  for (let row = 0; row < log.length; row += 1) {
    if (!isBelow(row)) continue;
    const expected = rate * (row + 1);
    const allowed = Math.max(MIN_FLAGGED, EXCESS * expected + NOISE * Math.sqrt(expected));
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
