/** The shown lines as a file of CSV or JSON. */

import { rarity } from "../format.js";
import { textsOf } from "./texts.js";

const PART_ROWS = 2_000;
const COLUMNS = ["line", "time", "p_value", "rarity", "score", "flagged", "alert_id", "text"];

/**
 * Return the rows as a file. Parts of it are made one after the other, so that millions of rows fit.
 *
 * @param {import('./scored-log.js').ScoredLog} log
 * @param {ArrayLike<number>} rows
 * @param {{format: "csv" | "json", isFlagged: (row: number) => boolean, about: any, signal: AbortSignal}} options
 *   `about` is put into JSON beside the lines
 */
export async function exportRows(log, rows, { format, isFlagged, about, signal }) {
  const write = format === "csv" ? csvLine : (record) => JSON.stringify(record);
  const separator = format === "csv" ? "\r\n" : ",\n";
  const parts = [format === "csv" ? `${COLUMNS.join(",")}\r\n` : `${JSON.stringify(about).slice(0, -1)},"lines":[\n`];
  const alerts = [...log.alerts.keys()];
  for (let start = 0; start < rows.length; start += PART_ROWS) {
    const part = Array.from({ length: Math.min(PART_ROWS, rows.length - start) }, (_, i) => rows[start + i]);
    const texts = await textsOf(log, part);
    const lines = part.map((row, i) => write({ ...record(log, row, texts[i], isFlagged), alert_id: alerts[log.alert[row]] || null }));
    signal.throwIfAborted();
    const isLast = start + PART_ROWS >= rows.length;
    parts.push(lines.join(separator) + (format === "csv" || !isLast ? separator : "\n"));
  }
  if (format === "json") parts.push("]}\n");
  return new Blob(parts, { type: format === "csv" ? "text/csv" : "application/json" });
}

function record(log, row, text, isFlagged) {
  const pValue = Number(log.pValue[row].toPrecision(4)); // as the service gave it, before it was a float32
  const isCalibrated = !Number.isNaN(pValue);
  return {
    line: log.number[row],
    time: log.hasTimes && !Number.isNaN(log.time[row]) ? new Date(log.time[row]).toISOString().slice(0, -1) : null,
    p_value: isCalibrated ? pValue : null,
    rarity: isCalibrated ? rarity(pValue) : null,
    score: Number(log.score[row].toFixed(4)),
    flagged: isFlagged(row),
    text,
  };
}

function csvLine(values) {
  return COLUMNS.map((name) => csvCell(values[name])).join(",");
}

/** Return a value as a cell. A text that a spreadsheet would run as a formula gets an apostrophe before it. */
function csvCell(value) {
  if (typeof value !== "string") return value === null ? "" : String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return `"${text.replaceAll('"', '""')}"`;
}
