/** How far the scoring of a log is, with Stop and Resume; and what was noticed on the way. */

import { h, inlineCode, replace } from "../dom.js";
import { byteSize, count, duration, integer } from "../format.js";
import { MAX_LOG_LINES } from "../log/scored-log.js";
import { logChange } from "./log-change.js";
import { errorBox, warningBox } from "./notice.js";

/**
 * Return the progress of a run; `update` shows its current state.
 *
 * @param {import('../log/run.js').ScoringRun} run
 * @param {{onResume: () => void, onTrain: () => void, onRecalibrate: () => void}} options
 */
export function runProgress(run, { onResume, onTrain, onRecalibrate }) {
  const bar = h("progress", { max: 1, value: 0, "aria-label": "Scoring" });
  const figures = h("p.small.number");
  const stop = h("button.button.small", { onclick: () => run.stop() }, "Stop");
  const resume = h("button.button.small", { onclick: onResume }, "Resume");
  const notes = h("div.stack.tight");
  const progress = h("div.stack.tight", bar, h("div.row.apart", figures, h("div.row", stop, resume)));
  const node = h("div.stack.tight", progress, notes);
  let noted = "";

  function update() {
    const { log, status, bytes, lines, linesPerSecond, source } = run;
    const total = source.blob.size;
    const isRunning = status === "running";
    bar.value = total ? bytes / total : 1;
    const secondsLeft = lines && linesPerSecond ? ((total - bytes) / (bytes || 1)) * (lines / linesPerSecond) : null;
    figures.textContent = isRunning
      ? `${byteSize(bytes)} of ${byteSize(total)}, ${count(lines, "line")}` +
        (secondsLeft === null ? "" : `, ${integer(linesPerSecond)} lines per second, ${duration(secondsLeft)} left`)
      : `${status === "stopped" ? "Stopped" : "Interrupted"} after ${byteSize(bytes)} of ${byteSize(total)}, ${count(lines, "line")}.`;
    progress.hidden = status === "done";
    stop.hidden = !isRunning;
    resume.hidden = status !== "stopped" || log.isFull;
    // Announced by screen readers, so drawn anew only when something has changed.
    const now = JSON.stringify([status, run.change, !isRunning && [log.notUtf8, log.truncated, log.isFull]]);
    if (now === noted) return;
    noted = now;
    replace(
      notes,
      status === "failed" && errorBox(run.error, { retry: onResume }),
      run.change !== null && logChange(run.change, { onTrain, onRecalibrate }),
      log.isFull &&
        warningBox(
          h(
            "p",
            inlineCode(
              `Only the first ${integer(MAX_LOG_LINES)} lines were scored. Use \`nextchar score\` for the rest.`,
            ),
          ),
        ),
      !isRunning &&
        log.notUtf8 > 0 &&
        warningBox(h("p", `${count(log.notUtf8, "line")} not UTF-8: invalid bytes count as unknown characters.`)),
      !isRunning &&
        log.truncated > 0 &&
        warningBox(
          h("p", `${count(log.truncated, "line")} longer than 50,000 characters: only the beginning was scored.`),
        ),
      status === "done" && log.length === 0 && warningBox(h("p", "All lines are empty.")),
    );
  }

  return { node, update };
}
