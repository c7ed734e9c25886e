/** The threshold above which lines are flagged: a false-alarm rate if the model is calibrated, else bits per character. */

import { bits, count, decimal, integer, percent } from "../format.js";
import { rangeField } from "./form-fields.js";

const MAX_RATE = 0.2;
const MIN_RATE = 1e-5;
const DEFAULT_RATE = 0.01;

const BITS_STEP = 0.05;
const DEFAULT_BITS_QUANTILE = 0.9;

/**
 * @typedef {object} Threshold
 * @property {HTMLElement} node
 * @property {HTMLInputElement} control fires `input` when the threshold changes
 * @property {string} scoreMeaning what `scoreText` shows
 * @property {(line: any) => boolean} isFlagged
 * @property {(line: any) => string} scoreText
 * @property {(a: any, b: any) => number} compare sorts the most anomalous first
 * @property {(flagged: number, total: number) => string} summary
 * @property {() => void} showValue writes the current value next to the label
 */

/** Return the largest false-alarm rate that can be chosen. A calibration of few lines supports no small one. */
export function maxFalseAlarmRate(calibration) {
  return Math.max(MAX_RATE, calibration.smallest_p_value);
}

/**
 * Return a threshold on p-values. The rate goes down to the smallest p-value that the calibration supports.
 *
 * @returns {Threshold}
 */
export function falseAlarmThreshold(calibration) {
  const maxRate = maxFalseAlarmRate(calibration);
  const supported = calibration.has_tail ? MIN_RATE : Math.max(MIN_RATE, calibration.smallest_p_value);
  const minRate = Math.min(maxRate / 2, supported);
  const { node, control, show } = rangeField({
    name: "rate",
    label: "False-alarm rate",
    help:
      `The share of normal lines that is flagged. Calibration “${calibration.name}”: ` +
      `${count(calibration.lines, "normal line")} (${calibration.source}).`,
    min: Math.log10(minRate),
    max: Math.log10(maxRate),
    step: "any",
    value: Math.log10(Math.max(minRate, Math.min(maxRate, DEFAULT_RATE))),
  });
  const rate = () => 10 ** Number(control.value) * (1 + 1e-9); // despite rounding, 1 % flags a p-value of 0.01
  return {
    node,
    control,
    scoreMeaning: "p-value: the share of normal lines with at least this score",
    isFlagged: (line) => Number.isFinite(line.p_value) && line.p_value <= rate(),
    scoreText: (line) => (Number.isFinite(line.p_value) ? smallPercent(line.p_value) : "–"),
    compare: (a, b) => (a.p_value ?? 1) - (b.p_value ?? 1) || (b.score ?? 0) - (a.score ?? 0),
    summary(flagged, total) {
      const expected = rate() * total;
      return (
        `${integer(flagged)} of ${count(total, "line")} flagged. ` +
        `If all were normal, about ${decimal(expected, expected < 1 ? 2 : 0)} would be flagged.`
      );
    },
    showValue: () => show(smallPercent(rate())),
  };
}

/** Return a threshold on bits per character, for models without a calibration. @returns {Threshold} */
export function bitsThreshold(lines) {
  const sorted = lines.map((line) => line.bits_per_character).sort((a, b) => a - b);
  const roundUp = (value) => Math.ceil((value + 0.01) / BITS_STEP) * BITS_STEP;
  const max = roundUp(sorted.at(-1));
  const { node, control, show } = rangeField({
    name: "bits",
    label: "Flag lines above",
    min: 0,
    max,
    step: BITS_STEP,
    value: Math.min(max, roundUp(sorted[Math.floor((sorted.length - 1) * DEFAULT_BITS_QUANTILE)])),
  });
  const limit = () => Number(control.value);
  return {
    node,
    control,
    scoreMeaning: "bits per character",
    isFlagged: (line) => line.bits_per_character > limit(),
    scoreText: (line) => bits(line.bits_per_character),
    compare: (a, b) => b.bits_per_character - a.bits_per_character,
    summary: (flagged, total) => `${integer(flagged)} of ${count(total, "line")} flagged.`,
    showValue: () => show(`${bits(limit())} bits per character`),
  };
}

/** Return a share as a percentage that keeps one digit however small it is: "5.0 %", "0.002 %". */
function smallPercent(share) {
  return share >= 0.0001 ? percent(share) : `${Number((share * 100).toPrecision(1))} %`;
}
