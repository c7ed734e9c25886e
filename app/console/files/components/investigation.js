/** A scored log to investigate: threshold, histogram, filters, the list of lines or of their groups, and one line's details. */

import { isAbort } from "../api.js";
import { h, replace } from "../dom.js";
import { count, integer } from "../format.js";
import { lineDetails } from "../log/details.js";
import { exportRows } from "../log/export.js";
import { readInvestigation, writeInvestigation } from "../log/investigation.js";
import { searchLog } from "../log/search.js";
import { countOver, groupRows, selectRows } from "../log/selection.js";
import { lineTexts } from "../log/texts.js";
import { anomalyThreshold, maxFalseAlarmRate } from "./anomaly-threshold.js";
import { calibrationHint } from "./calibration-hint.js";
import { histogram } from "./histogram.js";
import { investigationControls } from "./investigation-controls.js";
import { lineAlert } from "./line-alert.js";
import { linePanel } from "./line-panel.js";
import { charactersPerRow, groupRow, lineRow, NARROW, rowHeight } from "./log-rows.js";
import { errorBox } from "./notice.js";
import { saveFile } from "./save-file.js";
import { timeText } from "./time-text.js";
import { virtualList } from "./virtual-list.js";

const MIN_PANEL_PX = 240; // of the details that are on the screen when a line is opened
const MIN_REFRESH_MS = 250;
const WITHOUT_ALERT = "lines without an alert";
const REFRESH_SHARE = 10; // while lines arrive, at most a tenth of the time is spent on counting them

/**
 * Return the view of a run, which may still add lines: call `refresh` then.
 *
 * @param {import('../log/run.js').ScoringRun} run whose log has its `start`
 * @param {{query: URLSearchParams, signal: AbortSignal, onCalibrate: () => void}} options
 */
export function investigation(run, { query, signal, onCalibrate }) {
  const { log } = run;
  const state = readInvestigation(query);
  const texts = lineTexts(log);
  const { calibration } = log.start;
  const scoring = {
    model: run.model,
    lineEnd: run.lineEnd,
    query: {
      // Spans are marked for lines up to this rate, so that the threshold can be moved without another request.
      ...(calibration && { false_alarms: maxFalseAlarmRate(calibration) }),
      ...(run.calibration && { calibration: run.calibration }),
    },
  };
  const details = lineDetails(scoring);
  let shown = { rows: new Uint32Array(), groups: /** @type {any[]} */ ([]) };
  /** @type {any} */ let search = null;
  let stopSearch = new AbortController();
  let stopDetails = new AbortController();
  let timer = 0;
  let refreshMs = 0;

  const threshold = anomalyThreshold(log, {
    value: state.rate,
    flagsRepeats: () => state.repeats,
    onChange: () => change({ rate: threshold.value() }),
  });
  const controls = investigationControls(state, {
    onChange: change,
    onExport,
    hasAlerts: log.isCalibrated,
    signal,
  });
  const summary = h("p.number", { role: "status" });
  const messages = h("div");
  const none = h("p.muted", { hidden: true }, "No line matches these filters.");
  const chart = histogram({
    counts: countBins,
    format: positionText,
    onZoom: (zoom) => change({ zoom }, { isStep: true }),
    signal,
  });
  const panel = linePanel({
    log,
    texts,
    details,
    describe: (row) => ({
      rarity: threshold.scoreText(row),
      isFlagged: threshold.isFlagged(row),
      isRepeat: threshold.isRepeat(row),
      time: log.hasTimes && !Number.isNaN(log.time[row]) ? timeText(log.time[row], 0) : null,
      hasAlert: log.alert[row] > 0,
    }),
    alert: lineAlert({ ...scoring, source: run.source.isFile ? run.source.name.slice(0, 200) : "console", signal }),
    onAlert: (row) => change({ like: log.number[row], grouped: false }, { isStep: true }),
    onDetail: () => list.fill(),
    signal,
  });
  const list = virtualList({
    label: "Scored lines",
    rowHeight,
    renderRow,
    onSelect: select,
    onOpen: open,
    onKey: (event) => panel.moveCharacter(event),
    onVisible: requestDetails,
    signal,
  });
  NARROW.addEventListener("change", () => list.redraw(), { signal });

  function filter() {
    const like = state.like === null ? -1 : log.rowOf(state.like);
    return {
      isFlagged: threshold.isFlagged,
      isRepeat: threshold.isRepeat,
      flaggedOnly: state.flagged,
      byScore: state.byScore,
      matches: search?.matches ?? null,
      alert: state.like === null ? null : like < 0 ? -1 : log.alert[like],
      range: state.zoom,
      positions: log.hasTimes ? log.time : log.number,
    };
  }

  function change(changes, { isStep = false } = {}) {
    if ("grouped" in changes && changes.grouped) changes.like = null;
    Object.assign(state, changes);
    writeInvestigation(state, { isStep });
    if ("q" in changes) startSearch();
    if (isStep && "grouped" in changes) controls.setGrouped(state.grouped);
    refreshNow();
  }

  function startSearch() {
    stopSearch.abort();
    stopSearch = new AbortController();
    search = state.q
      ? searchLog(log, state.q, { signal: AbortSignal.any([signal, stopSearch.signal]), onProgress: refresh })
      : null;
    continueSearch();
  }

  function continueSearch() {
    search?.continue().catch((error) => {
      if (!isAbort(error)) replace(messages, errorBox(error));
    });
  }

  /** Show what has changed soon; often called while lines arrive. */
  function refresh() {
    timer ||= setTimeout(refreshNow, Math.max(MIN_REFRESH_MS, REFRESH_SHARE * refreshMs));
  }

  function refreshNow() {
    clearTimeout(timer);
    timer = 0;
    const startedAt = performance.now();
    threshold.refresh();
    const now = filter();
    const selected = state.grouped ? { ...groupRows(log, now), rows: null } : { ...selectRows(log, now), groups: null };
    shown = { rows: selected.rows ?? new Uint32Array(), groups: selected.groups ?? [] };
    const length = state.grouped ? shown.groups.length : shown.rows.length;
    summary.textContent = threshold.summary(selected) + (state.grouped ? ` ${count(length, "group")}.` : "");
    controls.showAlert(
      state.like === null
        ? null
        : now.alert === 0
          ? "Only lines without an alert"
          : `Only lines of the alert of line ${integer(state.like)}`,
    );
    chart.update({ isZoomed: state.zoom !== null, label: log.hasTimes ? "Lines over time" : "Lines by position" });
    none.hidden = length > 0;
    list.setCount(length);
    selectFromState();
    refreshMs = performance.now() - startedAt;
  }

  /** Select the line that the address names, once it is in the list. */
  function selectFromState() {
    const row = state.line === null ? -1 : log.rowOf(state.line);
    const index = state.grouped || row < 0 ? -1 : shown.rows.indexOf(row);
    if (index !== list.selected()) list.select(index);
    panel.show(state.grouped ? -1 : row);
  }

  function renderRow(index) {
    if (state.grouped) {
      const { alert, total, flagged, top } = shown.groups[index];
      const group = { total, flagged, score: threshold.scoreText(top) };
      const line = alert ? { text: texts.kept(top), detail: details.kept(top) } : { text: WITHOUT_ALERT };
      return groupRow({ ...group, ...line }, charactersPerRow(list.node.clientWidth));
    }
    const row = shown.rows[index];
    const line = {
      number: log.number[row],
      score: threshold.scoreText(row),
      isFlagged: threshold.isFlagged(row),
      text: texts.kept(row),
      detail: details.kept(row),
    };
    return lineRow(line, charactersPerRow(list.node.clientWidth));
  }

  function select(index) {
    if (state.grouped) return;
    const row = shown.rows[index];
    state.line = log.number[row];
    writeInvestigation(state);
    panel.show(row);
  }

  function open(index) {
    if (!state.grouped) {
      select(index);
      // Below the list there is room for the details then.
      if (panel.node.getBoundingClientRect().top > window.innerHeight - MIN_PANEL_PX) list.node.scrollIntoView();
    } else change({ like: log.number[shown.groups[index].top], grouped: false }, { isStep: true });
  }

  /** Read the texts of the rows in view, then request what explains them. */
  async function requestDetails(first, end) {
    stopDetails.abort();
    stopDetails = new AbortController();
    const abort = AbortSignal.any([signal, stopDetails.signal]);
    const rows = state.grouped
      ? shown.groups.slice(first, end).flatMap(({ alert, top }) => (alert ? [top] : []))
      : [...shown.rows.subarray(first, end)];
    try {
      const lines = await Promise.all(
        rows.map(async (row) => ({ row, text: await texts.get(row), isFlagged: threshold.isFlagged(row) })),
      );
      if (abort.aborted) return;
      list.fill();
      if (await details.requestForView(lines, abort)) list.fill();
    } catch (error) {
      if (!isAbort(error) && !abort.aborted)
        replace(messages, errorBox(error, { retry: () => requestDetails(first, end) }));
    }
  }

  function countBins(bins) {
    if (log.length < 2) return null;
    const whole = log.hasTimes ? [log.firstTime, log.lastTime] : [log.number[0], log.number[log.length - 1]];
    const range = /** @type {[number, number]} */ (state.zoom ?? whole);
    return { ...countOver(log, filter(), { range, bins }), range };
  }

  function positionText(position, [from, to]) {
    return log.hasTimes ? timeText(position, to - from) : integer(Math.round(position));
  }

  async function onExport(format) {
    try {
      const { rows } = selectRows(log, filter());
      const about = {
        model: log.start.model,
        calibration: calibration?.name ?? null,
        source: run.source.name,
        threshold: threshold.value(),
      };
      saveFile(
        await exportRows(log, rows, { format, isFlagged: threshold.isFlagged, about, signal }),
        `${run.source.isFile ? run.source.name : "lines"}-anomalies.${format}`,
      );
    } catch (error) {
      if (!isAbort(error)) replace(messages, errorBox(error));
    }
  }

  const node = h(
    "div.stack",
    h(
      "section.card.stack",
      { "aria-label": "Threshold and filters" },
      h("h2", run.source.isFile ? run.source.name : "Scored lines"),
      threshold.node,
      summary,
      !log.isCalibrated && calibrationHint(onCalibrate),
      chart.node,
      controls.node,
    ),
    messages,
    none,
    list.node,
    panel.node,
  );
  signal.addEventListener("abort", () => clearTimeout(timer));
  if (state.q) startSearch();
  refreshNow();

  return {
    node,
    refresh() {
      refresh();
      continueSearch();
    },
  };
}
