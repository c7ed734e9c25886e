/** The threshold above which lines are flagged: a false-alarm rate if the model is calibrated, else bits per character. */

import { h } from "../dom.js";
import { bits, count, decimal, integer, rarity, smallPercent } from "../format.js";
import { field, rangeField } from "./form-fields.js";

const MAX_RATE = 0.2;
const MIN_RATE = 1e-5;
const DEFAULT_RATE = 0.01;
const ROUNDING = 1e-5; // p-values have four digits and are kept as float32: 1 % flags a p-value of 0.01

const BITS_STEP = 0.05;
const DEFAULT_BITS_QUANTILE = 0.9;
const SAMPLED_LINES = 10_000;

/**
 * @typedef {object} Threshold
 * @property {HTMLElement} node
 * @property {string} scoreMeaning what `scoreText` shows
 * @property {() => number} value as the address keeps it
 * @property {(row: number) => boolean} isFlagged
 * @property {(row: number) => boolean} isRepeat whether it is not flagged because it repeats a flagged line
 * @property {(row: number) => string} scoreText
 * @property {(counts: {flagged: number, repeats: number, total: number}) => string} summary
 * @property {() => void} refresh takes note of lines that were added
 */

/** Return the largest false-alarm rate that can be chosen. A calibration of few lines supports no small one. */
export function maxFalseAlarmRate(calibration) {
  return Math.max(MAX_RATE, calibration.smallest_p_value);
}

/**
 * Return the threshold for a log: on p-values if it is calibrated.
 *
 * @param {import('../log/scored-log.js').ScoredLog} log
 * @param {object} options
 * @param {number | null} options.value that of the address
 * @param {() => boolean} options.flagsRepeats
 * @param {() => void} options.onChange
 * @returns {Threshold}
 */
export function anomalyThreshold(log, options) {
  return log.isCalibrated ? falseAlarmThreshold(log, options) : bitsThreshold(log, options);
}

/** A threshold on p-values. The rate goes down to the smallest p-value that the calibration supports. */
function falseAlarmThreshold(log, { value, flagsRepeats, onChange }) {
  const { calibration } = log.start;
  const maxRate = maxFalseAlarmRate(calibration);
  const supported = calibration.has_tail ? MIN_RATE : Math.max(MIN_RATE, calibration.smallest_p_value);
  const minRate = Math.min(maxRate / 2, supported);
  const within = (rate) => Math.max(minRate, Math.min(maxRate, rate));
  let rate = within(value ?? DEFAULT_RATE);

  const slider = rangeField({
    name: "rate",
    label: "False-alarm rate",
    help:
      `The fraction of normal lines that is flagged. Calibration “${calibration.name}”: ` +
      `${count(calibration.lines, "normal line")} (${calibration.source}).`,
    min: Math.log10(minRate),
    max: Math.log10(maxRate),
    step: "any",
    value: Math.log10(rate),
  });
  const typed = field({
    name: "rate-percent",
    label: "Rate in percent",
    control: h("input.number", { type: "text", inputmode: "decimal", autocomplete: "off", size: 8 }),
  });

  function show({ exceptTyped = false } = {}) {
    slider.show(`${smallPercent(rate)}, ${rarity(rate)}`);
    if (!exceptTyped) typed.control.value = decimal(rate * 100, 6);
  }
  slider.control.addEventListener("input", () => {
    rate = Number((10 ** Number(slider.control.value)).toPrecision(3));
    rate = within(rate);
    typed.setError(null);
    show();
    onChange();
  });
  typed.control.addEventListener("input", () => {
    const wanted = Number(typed.control.value.trim().replace(/\s*%$/, "").replace(",", ".")) / 100;
    const isUsable =
      typed.control.value.trim() !== "" && wanted >= minRate * (1 - ROUNDING) && wanted <= maxRate * (1 + ROUNDING);
    typed.setError(
      isUsable ? null : `Between ${decimal(minRate * 100, 4)} and ${decimal(maxRate * 100, 4)} with this calibration.`,
    );
    if (!isUsable) return;
    rate = within(wanted);
    slider.control.value = Math.log10(rate);
    show({ exceptTyped: true });
    onChange();
  });
  typed.control.addEventListener("blur", () => {
    typed.setError(null);
    show();
  });
  show();

  const isBelow = (row) => log.pValue[row] <= rate * (1 + ROUNDING); // false for NaN
  const isRepeat = (row) => !flagsRepeats() && isBelow(row) && log.isRepeat[row] === 1;

  return {
    node: h("div.threshold", slider.node, typed.node),
    scoreMeaning: "Rarity: 1 in N normal lines has at least this score",
    value: () => rate,
    isFlagged: (row) => isBelow(row) && !isRepeat(row),
    isRepeat,
    scoreText: (row) => (Number.isNaN(log.pValue[row]) ? "–" : rarity(Number(log.pValue[row].toPrecision(4)))),
    summary({ flagged, repeats: more, total }) {
      const expected = rate * total;
      return (
        `${integer(flagged)} of ${count(total, "line")} flagged. ` +
        (more ? `${integer(more)} more repeat flagged ones. ` : "") +
        `If all were normal, about ${decimal(expected, expected < 1 ? 2 : 0)} would be flagged.`
      );
    },
    refresh() {},
  };
}

/** A threshold on bits per character, for models without a calibration. */
function bitsThreshold(log, { value, onChange }) {
  let isChosen = value !== null;
  const { node, control, show } = rangeField({
    name: "bits",
    label: "Flag lines above",
    min: 0,
    max: value ?? 1,
    step: BITS_STEP,
    value: value ?? 1,
  });
  const limit = () => Number(control.value);
  const showValue = () => show(`${bits(limit())} bits per character`);
  control.addEventListener("input", () => {
    isChosen = true;
    showValue();
    onChange();
  });

  function refresh() {
    const every = Math.max(1, Math.ceil(log.length / SAMPLED_LINES));
    const sorted = log.score
      .subarray(0, log.length)
      .filter((_, row) => row % every === 0)
      .sort();
    if (!sorted.length) return;
    const roundUp = (one) => Math.ceil((one + 0.01) / BITS_STEP) * BITS_STEP;
    const chosen = limit();
    const max = Math.max(roundUp(sorted[sorted.length - 1]), isChosen ? chosen : 0);
    control.max = String(max);
    const usual = roundUp(sorted[Math.floor((sorted.length - 1) * DEFAULT_BITS_QUANTILE)]);
    control.value = String(isChosen ? chosen : Math.min(max, usual));
    showValue();
  }
  refresh();

  return {
    node,
    scoreMeaning: "Bits per character",
    value: limit,
    isFlagged: (row) => log.score[row] > limit(),
    isRepeat: () => false,
    scoreText: (row) => bits(log.score[row]),
    summary: ({ flagged, total }) => `${integer(flagged)} of ${count(total, "line")} flagged.`,
    refresh,
  };
}
