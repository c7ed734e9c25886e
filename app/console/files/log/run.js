/** A scoring run over a log, which can be stopped and resumed, with its progress. */

import { isAbort } from "../api.js";
import { ScoredLog } from "./scored-log.js";
import { scoreLog, startPosition } from "./scoring.js";

/**
 * @typedef {"running" | "stopped" | "done" | "failed"} Status
 */

export class ScoringRun {
  /** @type {Status} */ status = "stopped";
  /** @type {any} */ error = null;
  /** Lines and bytes scored so far; empty lines count. */
  lines = 0;
  bytes = 0;
  linesPerSecond = 0;
  /** Why more lines are rare than the rate explains, by the service. */
  change = null;
  /** Called when anything here or in `log` has changed. */
  onChange = () => {};

  #position = startPosition();
  #abort = new AbortController();

  /**
   * @param {import('./source.js').LogSource} source
   * @param {{model: string, calibration: string, isCalibrated: boolean, lineEnd: string}} options `calibration` is ""
   *   for the default one; `lineEnd` is what the model read before each newline
   */
  constructor(source, { model, calibration, isCalibrated, lineEnd }) {
    this.source = source;
    this.model = model;
    this.calibration = calibration;
    this.lineEnd = lineEnd;
    this.log = new ScoredLog(source);
    // A name by which the service judges all pieces as one log.
    const stream = `console-${Math.random().toString(36).slice(2)}${Date.now().toString(36)}`;
    this.query = {
      detail: isCalibrated ? "none" : "line",
      stream_id: stream,
      ...(calibration && { calibration }),
    };
  }

  /** Score until the end, an error or `stop`; then again from there. @param {AbortSignal} signal stops it, too */
  async run(signal) {
    this.#abort = new AbortController();
    this.#set("running", null);
    const startedAt = performance.now();
    const linesBefore = this.lines;
    try {
      await scoreLog(this.source.blob, {
        model: this.model,
        query: this.query,
        position: this.#position,
        signal: AbortSignal.any([signal, this.#abort.signal]),
        onStart: (start) => {
          this.log.start ??= start;
        },
        onLines: (records, piece) => {
          this.log.add(records, piece);
          this.lines = records.at(-1).line;
          this.bytes = records.at(-1).offset;
          this.linesPerSecond = ((this.lines - linesBefore) * 1000) / (performance.now() - startedAt);
          if (this.log.isFull) this.stop();
          this.onChange();
        },
        onEnd: (end) => {
          this.change = end.change ?? null;
        },
      });
      this.bytes = this.source.blob.size;
      this.#set("done", null);
    } catch (error) {
      if (isAbort(error)) this.#set("stopped", null);
      else this.#set("failed", error);
    }
  }

  stop() {
    this.#abort.abort();
  }

  #set(status, error) {
    this.status = status;
    this.error = error;
    this.onChange();
  }
}
