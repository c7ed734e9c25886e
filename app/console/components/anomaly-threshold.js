/** Which lines are flagged: by a rate of false alarms where a model is calibrated, else by bits alone. */

import { h } from "../dom.js";
import { field } from "./form-fields.js";
import { bits, count, decimal, percent, whole } from "../format.js";

const HIGHEST_RATE = 0.2;
const LOWEST_RATE = 1e-5;
const USUAL_RATE = 0.01;

/**
 * @typedef {object} Threshold
 * @property {HTMLElement} node
 * @property {HTMLInputElement} control tells `input` when it is moved
 * @property {string} meaning what `figure` is
 * @property {(row: any) => boolean} isFlagged
 * @property {(row: any) => string} figure
 * @property {(a: any, b: any) => number} compare the oddest first
 * @property {(flagged: number, all: number) => string} sentence
 */

/**
 * The highest rate of false alarms that can be chosen: odd places are asked for up to it. A calibration of few lines
 * knows no low one.
 */
export function highestRate(calibration) {
  return Math.max(HIGHEST_RATE, calibration.smallest_p_value);
}

/**
 * Lines with p-values are flagged by a rate of false alarms, down to the smallest that the calibration can tell.
 *
 * @returns {Threshold}
 */
export function byFalseAlarms(rows, calibration) {
  const highest = highestRate(calibration);
  const lowest = Math.min(
    highest / 2,
    calibration.has_tail ? LOWEST_RATE : Math.max(LOWEST_RATE, calibration.smallest_p_value),
  );
  const control = h("input", {
    type: "range",
    min: Math.log10(lowest),
    max: Math.log10(highest),
    step: "any",
    value: Math.log10(Math.max(lowest, Math.min(highest, USUAL_RATE))),
  });
  const rate = () => 10 ** Number(control.value) * (1 + 1e-9);
  const made = field({
    name: "rate",
    label: "Of ordinary lines, flag",
    control,
    help: `Compared with ${count(calibration.lines, "ordinary line")}, “${calibration.name}”: ${calibration.source}.`,
  });
  const shown = h("output", { class: "number strong" });
  made.label.append(" ", shown);
  return {
    node: made.node,
    control,
    meaning: "p-value: the share of ordinary lines that score as high",
    isFlagged: (row) => Number.isFinite(row.p_value) && row.p_value <= rate(),
    figure: (row) => (Number.isFinite(row.p_value) ? share(row.p_value) : "–"),
    compare: (a, b) => (a.p_value ?? 1) - (b.p_value ?? 1) || (b.score ?? 0) - (a.score ?? 0),
    sentence: (flagged, all) => {
      shown.textContent = share(rate());
      control.setAttribute("aria-valuetext", shown.textContent);
      return `${count(flagged, "line")} of ${whole(all)} flagged; of as many ordinary lines about ${decimal(rate() * all, all * rate() < 1 ? 2 : 0)} would be, by chance.`;
    },
  };
}

/** A small share so that it can be compared: "5 %", "0.02 %", "1 in a million". */
function share(value) {
  return value >= 0.0001 ? percent(value) : `${Number((value * 100).toPrecision(1))} %`;
}

/** Without a calibration lines are flagged by their bits a character alone. @returns {Threshold} */
export function byBits(rows) {
  const all = rows.map((row) => row.bits_per_character).sort((a, b) => a - b);
  const top = Math.ceil((all.at(-1) + 0.01) * 20) / 20;
  const start = Math.min(top, Math.ceil((all[Math.floor((all.length - 1) * 0.9)] + 0.01) * 20) / 20);
  const control = h("input", { type: "range", min: 0, max: top, step: 0.05, value: start });
  const made = field({ name: "bits", label: "Flag a line above", control });
  const shown = h("output", { class: "number strong" });
  made.label.append(" ", shown);
  const limit = () => Number(control.value);
  return {
    node: made.node,
    control,
    meaning: "bits a character",
    isFlagged: (row) => row.bits_per_character > limit(),
    figure: (row) => bits(row.bits_per_character),
    compare: (a, b) => b.bits_per_character - a.bits_per_character,
    sentence: (flagged, number) => {
      shown.textContent = `${bits(limit())} bits a character`;
      control.setAttribute("aria-valuetext", shown.textContent);
      return `${count(flagged, "line")} of ${whole(number)} flagged.`;
    },
  };
}
