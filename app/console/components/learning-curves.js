/** A training run as lines of a chart, from the metrics that its job or its model tells. */

import { clock, decimal, whole } from "../format.js";

const CLOCK_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

/**
 * What the curves can be drawn against.
 *
 * @type {Record<string, {label: string, key: string, format: (x: number) => string, steps?: number[]}>}
 */
export const AXES = {
  seconds: { label: "time", key: "elapsed_seconds", format: clock, steps: CLOCK_STEPS },
  epochs: { label: "epochs", key: "epoch", format: (x) => decimal(x) },
  steps: { label: "steps", key: "step", format: whole },
};

/**
 * Return the lines of one run: held out, and in training beside it.
 *
 * @param {any[]} points metrics as the trainer tells them
 * @param {{axis?: string, color?: number, name?: string, withTraining?: boolean}} [options]
 * @returns {import('./line-chart.js').Series[]}
 */
export function runLines(points, { axis = "seconds", color = 0, name = "", withTraining = true } = {}) {
  const x = AXES[axis].key;
  /** @returns {[number, number][]} */
  const line = (y) =>
    points
      .filter((point) => Number.isFinite(point[x]) && Number.isFinite(point[y]))
      .map((point) => [point[x], point[y]]);
  /** @type {import('./line-chart.js').Series[]} */
  const lines = [{ name: name || "held out", points: line("validation_bits_per_character"), color }];
  if (withTraining) {
    lines.push({
      name: name ? `${name} in training` : "in training",
      points: line("train_bits_per_character"),
      color: name ? color : 1,
      dashed: true,
    });
  }
  return lines;
}

/** Return the chart's options for an axis. @param {string} axis */
export function axisOf(axis) {
  const { label, format, steps } = AXES[axis];
  return { xLabel: label, formatX: format, xSteps: steps };
}
