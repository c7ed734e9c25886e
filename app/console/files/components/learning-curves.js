/** Learning curves: series of the line chart from the metrics of a job or a model's report. */

import { decimal, duration, integer } from "../format.js";

const TIME_STEPS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

/**
 * The x axes a curve can be drawn over.
 *
 * @type {Record<string, {label: string, key: string, format: (x: number) => string, steps?: number[]}>}
 */
export const AXES = {
  seconds: { label: "Time", key: "elapsed_seconds", format: duration, steps: TIME_STEPS_S },
  epochs: { label: "Epochs", key: "epoch", format: (x) => decimal(x) },
  steps: { label: "Steps", key: "step", format: integer },
};

/**
 * Return the two series of one run over time: held-out and training bits per character.
 *
 * @param {any[]} metrics
 * @returns {import('./line-chart.js').Series[]}
 */
export function learningCurves(metrics) {
  return [
    heldOutCurve(metrics, { name: "held-out", color: 0 }),
    { name: "training", points: pointsOf(metrics, "seconds", "train_bits_per_character"), color: 1, dashed: true },
  ];
}

/**
 * Return the held-out bits per character of one run.
 *
 * @param {any[]} metrics
 * @param {{name: string, color: number, axis?: string}} options
 * @returns {import('./line-chart.js').Series}
 */
export function heldOutCurve(metrics, { name, color, axis = "seconds" }) {
  return { name, points: pointsOf(metrics, axis, "validation_bits_per_character"), color };
}

/** Return the options of the line chart for an axis. @param {string} axis */
export function axisOptions(axis) {
  const { label, format, steps } = AXES[axis];
  return { xLabel: label, formatX: format, xSteps: steps };
}

/** @returns {[number, number][]} */
function pointsOf(metrics, axis, y) {
  const x = AXES[axis].key;
  return metrics.filter((one) => Number.isFinite(one[x]) && Number.isFinite(one[y])).map((one) => [one[x], one[y]]);
}
