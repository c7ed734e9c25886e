/** Anomalous lines of a log: a heat map by character, lines flagged at a false-alarm rate, and what was expected. */

import { apiPath, get, post } from "../api.js";
import { maxFalseAlarmRate } from "../components/anomaly-threshold.js";
import { field, select } from "../components/form-fields.js";
import { loadModels, missingModel, modelSelect, noModelYet } from "../components/model-picker.js";
import { emptyState, errorBox, sentence, toast, warningBox } from "../components/notice.js";
import { scoredLines } from "../components/scored-lines.js";
import { h, replace } from "../dom.js";
import { count, integer, visibleCharacter } from "../format.js";
import { MAX_CHARACTERS, MAX_LINES, readLogFile, splitLines } from "../log-lines.js";

const MAX_UNKNOWN = 20;

let draft = ""; // the lines, kept while the console is open

/** @param {import('../router.js').Page} page */
export async function anomaliesView(page) {
  const { signal } = page;
  const { models, selected, missing } = await loadModels(page);
  if (!models.length) {
    return h(
      "div",
      { class: "view" },
      h("h1", {}, "Anomalies"),
      noModelYet("A model trained on normal lines finds the anomalous ones."),
    );
  }
  let model = selected;
  let calibration = ""; // the default one
  let hasResult = false;

  const area = h("textarea", {
    rows: 8,
    spellcheck: "false",
    "aria-label": "Log lines",
    placeholder: "Paste log lines, or drop a file",
    value: draft,
    oninput: () => {
      draft = area.value;
    },
  });
  const messages = h("div", { class: "stack tight", "aria-live": "polite" });
  const result = h(
    "div",
    { class: "stack" },
    emptyState(
      "Nothing scored yet",
      "Each character is colored by its surprisal, the number of bits by which the model did not expect it.",
    ),
  );
  const calibrationField = h("div", {});
  const modelField = field({
    name: "model",
    label: "Model",
    control: modelSelect(models, model, (id) => {
      model = id;
      calibration = "";
      reloadModelInfo();
      if (hasResult) score();
    }),
  });

  /** The calibrations of the selected model, and what its lines end with. */
  let modelInfo = loadModelInfo();
  modelInfo.catch(() => {}); // `score` tries again

  function reloadModelInfo() {
    modelInfo = loadModelInfo();
    modelInfo.catch(() => {});
  }

  async function loadModelInfo() {
    const requested = model;
    const [{ data: calibrations }, { characters }] = await Promise.all([
      get(apiPath("/v1/models", requested, "calibrations"), { signal }),
      get(apiPath("/v1/models", requested), { signal }),
    ]);
    if (requested === model) drawCalibrationField(calibrations);
    return { calibrations, lineEnd: characters.includes("\r") ? "\r" : "" };
  }

  function drawCalibrationField(calibrations) {
    const options = calibrations.map((one) => [one.name, `${one.name} (${count(one.lines, "line")})`]);
    const control = select([["", "Default"], ...options], calibration, {
      onchange: () => {
        calibration = control.value;
        if (hasResult) score();
      },
    });
    replace(
      calibrationField,
      calibrations.length > 1 && field({ name: "calibration", label: "Calibration", control }).node,
    );
  }

  let running = new AbortController();

  async function score() {
    const { lines, omitted } = splitLines(area.value);
    if (!lines.length) {
      replace(messages, warningBox(h("p", {}, "There are no lines to score. Paste some, or choose a log file.")));
      area.focus();
      return;
    }
    replace(messages, h("p", { class: "muted" }, `Scoring ${count(lines.length, "line")}…`));
    running.abort();
    running = new AbortController();
    const abort = AbortSignal.any([signal, running.signal]);
    const requested = { model, calibration };
    try {
      modelInfo = modelInfo.catch(loadModelInfo);
      const { calibrations, lineEnd } = await modelInfo;
      for (const line of lines) line.sent = line.text + lineEnd;
      const used = calibrations.find(({ name }) => name === (requested.calibration || "default")) ?? calibrations[0];
      // Spans are explained for lines up to this rate, so that the threshold can be moved without another request.
      const query = {
        ...(used && { false_alarms: maxFalseAlarmRate(used) }),
        ...(requested.calibration && { calibration: requested.calibration }),
      };
      const answer = await post(
        apiPath("/v1/models", requested.model, "score"),
        { lines: lines.map((line) => line.sent), detail: "character", ...query },
        { signal: abort },
      );
      hasResult = true;
      replace(
        messages,
        omitted > 0 && truncationWarning(lines.length, omitted),
        answer.drift && driftWarning(answer.drift, () => calibrate(lines)),
        answer.unknown_characters.length > 0 && unknownWarning(answer.unknown_characters),
      );
      replace(result, scoredLines(answer, lines, { model: requested.model, query, signal, onCalibrate: calibrate }));
    } catch (error) {
      if (!abort.aborted) replace(messages, errorBox(error, { retry: score }));
    }
  }

  /** Make these lines the default calibration of the model, and score again. */
  async function calibrate(lines) {
    try {
      replace(messages);
      await post(apiPath("/v1/models", model, "calibrate"), { lines: lines.map((line) => line.sent) }, { signal });
      toast(`Calibrated on ${count(lines.length, "line")}.`);
      calibration = "";
      reloadModelInfo();
      await score();
    } catch (error) {
      showError(error);
    }
  }

  async function scoreText(text) {
    area.value = text;
    draft = text;
    await score();
  }

  async function scoreFile(file) {
    replace(messages);
    try {
      await scoreText(await readLogFile(file));
    } catch (error) {
      showError(error);
    }
  }

  async function scoreExample() {
    try {
      await scoreText(await exampleLines(model, signal));
    } catch (error) {
      showError(error);
    }
  }

  function showError(error) {
    if (!signal.aborted) replace(messages, errorBox(error));
  }

  area.addEventListener("drop", (event) => {
    if (!event.dataTransfer?.files.length) return;
    event.preventDefault();
    scoreFile(event.dataTransfer.files[0]);
  });
  const fileInput = h("input", {
    type: "file",
    class: "visually-hidden",
    id: "log-file",
    onchange: () => {
      if (fileInput.files.length) scoreFile(fileInput.files[0]);
      fileInput.value = ""; // so that the same file can be chosen again
    },
  });

  return h(
    "div",
    { class: "view" },
    h("h1", {}, "Anomalies"),
    missingModel(missing, selected),
    h(
      "section",
      { class: "card stack", "aria-label": "Model and lines" },
      h("div", { class: "columns" }, modelField.node, calibrationField),
      area,
      h(
        "div",
        { class: "row" },
        h("button", { type: "button", class: "button primary", onclick: score }, "Find anomalies"),
        h("label", { class: "button", for: "log-file" }, "Choose a file"),
        fileInput,
        h("button", { type: "button", class: "button", onclick: scoreExample }, "Try an example"),
      ),
    ),
    messages,
    result,
  );
}

function truncationWarning(scored, omitted) {
  return warningBox(
    h(
      "p",
      {},
      `The first ${integer(scored)} of ${integer(scored + omitted)} lines were scored. The limit here is ` +
        `${integer(MAX_LINES)} lines or ${integer(MAX_CHARACTERS)} characters; use the command line for more.`,
    ),
  );
}

function driftWarning(message, onRecalibrate) {
  return warningBox(
    h("p", {}, sentence(message)),
    h(
      "div",
      { class: "row" },
      h("button", { type: "button", class: "button small", onclick: onRecalibrate }, "Recalibrate on these lines"),
    ),
  );
}

function unknownWarning(characters) {
  return warningBox(
    h(
      "p",
      {},
      "Not in the model’s vocabulary: ",
      characters.slice(0, MAX_UNKNOWN).map((one) => [h("span", { class: "glyph mono" }, visibleCharacter(one)), " "]),
    ),
  );
}

/** Return some lines of the model's corpus, one of them with inserted characters. */
async function exampleLines(model, signal) {
  const { corpus } = await get(apiPath("/v1/models", model), { signal });
  const { sample } = await get(apiPath("/v1/corpora", corpus), { signal });
  const lines = sample
    .split("\n")
    .filter((line) => line.trim())
    .slice(0, 6);
  const anomalous = Math.min(2, lines.length - 1);
  const middle = Math.floor(lines[anomalous].length / 2);
  lines[anomalous] = `${lines[anomalous].slice(0, middle)}#@!~${lines[anomalous].slice(middle)}`;
  return lines.join("\n");
}
