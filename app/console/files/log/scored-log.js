/**
 * The scores of a log's lines, in arrays of numbers: 35 bytes per line. Texts stay in the file and are read again
 * where they are shown.
 */

import { makeClock } from "./clock.js";
import { linesAt } from "./source.js";

export const MAX_LOG_LINES = 4_000_000;
const FIRST_CAPACITY = 4096;

/** The columns, and the kind of array of each. */
const COLUMNS = {
  number: Uint32Array, // of the line in the log, from 1
  lines: Uint16Array, // of the event, of which this is the first
  offset: Float64Array, // in bytes
  pValue: Float32Array, // NaN without a calibration
  score: Float32Array, // bits of rarity, or bits per character without a calibration
  time: Float64Array, // milliseconds since 1970; of a line without one, that of the line before; NaN at first
  alert: Uint32Array, // index into `alerts`
  isRepeat: Uint8Array, // 1 if the service calls it a repeat at the rate of its first record
};

export class ScoredLog {
  /** The number of lines that are kept; empty lines are not. */
  length = 0;
  /** Ids of alerts; the first one is that of lines without one. */
  alerts = new Map([["", 0]]);
  /** Lines whose time was found in them. */
  timed = 0;
  /** Lines that are not UTF-8, and lines of which only the beginning was scored. */
  notUtf8 = 0;
  truncated = 0;
  firstTime = Infinity;
  lastTime = -Infinity;
  /** The calibration and threshold of the service's first record. @type {any} */
  start = null;

  #capacity = 0;
  #clock;

  /** @param {import('./source.js').LogSource} source */
  constructor(source) {
    this.source = source;
    this.#clock = makeClock(source.referenceTime);
    this.#grow(FIRST_CAPACITY);
  }

  get isCalibrated() {
    return Boolean(this.start?.calibration);
  }

  /** Whether no further line can be added. */
  get isFull() {
    return this.length >= MAX_LOG_LINES;
  }

  /** Whether most lines have a time, and not all the same. */
  get hasTimes() {
    return this.timed * 2 > this.length && this.lastTime > this.firstTime;
  }

  /** Add scored lines. @param {any[]} records @param {{data: Uint8Array, offset: number}} piece the bytes with them */
  add(records, { data, offset }) {
    for (const record of records) {
      if (!record.characters) continue;
      if (this.isFull) return;
      if (this.length === this.#capacity) this.#grow(Math.min(2 * this.#capacity, MAX_LOG_LINES));
      this.notUtf8 += Number("not_utf8" in record);
      this.truncated += Number("truncated" in record);
      const row = this.length;
      const text = linesAt(data, record.offset - offset, record.lines);
      this.number[row] = record.line;
      this.lines[row] = record.lines;
      this.offset[row] = record.offset;
      this.pValue[row] = record.p_value ?? NaN;
      this.score[row] = record.score ?? record.bits_per_character ?? NaN;
      this.alert[row] = this.#numberOf(record.alert_id ?? "");
      this.isRepeat[row] = Number(Boolean(record.repeated));
      this.time[row] = this.#timeOf(text, row);
      this.length += 1;
    }
  }

  /** Return the row of a line number, or -1. */
  rowOf(number) {
    let low = 0;
    let high = this.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.number[middle] < number) low = middle + 1;
      else high = middle;
    }
    return low < this.length && this.number[low] === number ? low : -1;
  }

  /** The end of a row's line in bytes, with its newline and empty lines behind it. */
  endOf(row) {
    return row + 1 < this.length ? this.offset[row + 1] : this.source.blob.size;
  }

  #numberOf(alertId) {
    if (!this.alerts.has(alertId)) this.alerts.set(alertId, this.alerts.size);
    return this.alerts.get(alertId);
  }

  #timeOf(text, row) {
    const time = this.#clock(text);
    if (Number.isNaN(time)) return row > 0 ? this.time[row - 1] : NaN;
    this.timed += 1;
    this.firstTime = Math.min(this.firstTime, time);
    this.lastTime = Math.max(this.lastTime, time);
    return time;
  }

  #grow(capacity) {
    for (const [name, Kind] of Object.entries(COLUMNS)) {
      const grown = new Kind(capacity);
      if (this[name]) grown.set(this[name]);
      this[name] = grown;
    }
    this.#capacity = capacity;
  }
}
