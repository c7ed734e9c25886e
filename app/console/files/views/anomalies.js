/** Anomalous lines of a log: a file or pasted lines are scored while they are shown. */

import { apiPath, get, post } from "../api.js";
import { field, select } from "../components/form-fields.js";
import { investigation } from "../components/investigation.js";
import { loadModels, missingModel, modelSelect, viewWithoutModel } from "../components/model-picker.js";
import { attemptIn, emptyState, errorBox, hintBox, toast, warningBox } from "../components/notice.js";
import { runProgress } from "../components/run-progress.js";
import { h, replace } from "../dom.js";
import { count } from "../format.js";
import { calibrationLines } from "../log/calibration-lines.js";
import { loadDraft, saveDraft } from "../log/draft.js";
import { exampleLines } from "../log/example-lines.js";
import { ScoringRun } from "../log/run.js";
import { fileSource, pastedSource } from "../log/source.js";
import { currentAddress, navigate, setQuery } from "../router.js";
import { uploadFile } from "../upload.js";

/** The last run, kept while the console is open. @type {ScoringRun | null} */
let lastRun = null;

/** @param {import('../router.js').Page} page */
export async function anomaliesView(page) {
  const { signal, query } = page;
  const { models, selected, missing } = await loadModels(page);
  if (!models.length) return viewWithoutModel("Anomalies");
  let model = selected;
  let calibration = query.get("calibration") ?? ""; // "" is the default one
  /** @type {ScoringRun | null} */ let run = null;
  let requests = 0; // to score: only the latest makes a run

  const draft = loadDraft();
  const area = h("textarea", {
    rows: 5,
    spellcheck: "false",
    "aria-label": "Log lines",
    placeholder: "Paste log lines, or drop a file of any size",
    value: draft.text,
    oninput: () => saveDraft({ text: area.value, isScored: false }),
  });
  const formTitle = h("summary", "Model and lines");
  const form = h("details.card", { open: true, "aria-label": "Model and lines" }); // folds after a run
  const messages = h("div.stack.tight", { "aria-live": "polite" });
  const attempt = attemptIn(messages, signal);
  const result = h("div.stack");
  const calibrationField = h("div");
  const modelField = field({
    name: "model",
    label: "Model",
    control: modelSelect(models, model, (id) => {
      model = id;
      setCalibration("");
      modelInfo = loadModelInfo();
      modelInfo.catch(() => {});
      scoreAgain();
    }),
  });

  /** The calibrations of the selected model, and what its lines end with. */
  let modelInfo = loadModelInfo();
  modelInfo.catch(() => {}); // `score` tries again

  async function loadModelInfo() {
    const requested = model;
    const [{ data: calibrations }, { characters }] = await Promise.all([
      get(apiPath("/v1/models", requested, "calibrations"), { signal }),
      get(apiPath("/v1/models", requested), { signal }),
    ]);
    if (requested === model) drawCalibrationField(calibrations);
    return { calibrations, lineEnd: characters.includes("\r") ? "\r" : "" };
  }

  function setCalibration(name) {
    calibration = name;
    setQuery({ calibration });
  }

  function drawCalibrationField(calibrations) {
    if (!calibrations.some(({ name }) => name === calibration)) setCalibration("");
    const options = calibrations.map((one) => [one.name, `${one.name} (${count(one.lines, "line")})`]);
    const control = select([["", "Default"], ...options], calibration, {
      onchange: () => {
        setCalibration(control.value);
        scoreAgain();
      },
    });
    replace(
      calibrationField,
      calibrations.length > 1 && field({ name: "calibration", label: "Calibration", control }).node,
    );
  }

  /** Score a source; `makeSource` gets what the model's lines end with. */
  async function score(makeSource) {
    run?.stop();
    requests += 1;
    const request = requests;
    const requested = model;
    replace(messages, h("p.muted", "Reading the log…"));
    try {
      modelInfo = modelInfo.catch(loadModelInfo);
      const { calibrations, lineEnd } = await modelInfo;
      const source = await makeSource(lineEnd);
      if (request !== requests) return;
      if (requested !== model) return score(makeSource);
      lastRun = new ScoringRun(source, { model, calibration, isCalibrated: calibrations.length > 0, lineEnd });
      show(lastRun);
      await lastRun.run(signal);
    } catch (error) {
      if (signal.aborted || request !== requests) return;
      replace(messages, errorBox(error, { retry: () => score(makeSource) }));
    }
  }

  /** Show a run, which may be new, running, or of the last visit. */
  function show(shownRun) {
    run = shownRun;
    replace(messages);
    form.open = false;
    replace(formTitle, `${model}, ${run.source.name}: change`);
    /** @type {{node: Node, refresh: () => void} | null} */ let shown = null;
    const progress = runProgress(run, {
      onResume: () => shownRun.run(signal),
      onTrain: () => attempt(trainAgain),
      onRecalibrate: () => attempt(calibrate),
    });
    const body = h("div");
    replace(result, h("div", { "aria-live": "polite" }, progress.node), body);
    const update = () => {
      if (signal.aborted || run !== shownRun) return;
      progress.update();
      if (shown) shown.refresh();
      else if (shownRun.log.length > 0) {
        const address = new URLSearchParams(currentAddress().split("?")[1]);
        shown = investigation(shownRun, { query: address, signal, onCalibrate: () => attempt(calibrate) });
        replace(body, shown.node);
      }
    };
    shownRun.onChange = update;
    update();
  }

  /** Make these lines the default calibration of the model, and score them again. */
  async function calibrate() {
    if (!run) return;
    const calibrated = run;
    calibrated.stop();
    replace(messages, h("p.muted", "Calibrating…"));
    const lines = await calibrationLines(calibrated.log, calibrated.lineEnd);
    await post(apiPath("/v1/models", model, "calibrate"), { lines }, { signal });
    toast(
      `Calibrated on ${count(lines.length, "line")}${lines.length < calibrated.log.length ? ", evenly spaced" : ""}.`,
    );
    setCalibration("");
    modelInfo = loadModelInfo();
    await scoreAgain();
  }

  /** Make a corpus of these lines, to train on from the model. */
  async function trainAgain() {
    if (!run) return;
    replace(messages, h("p.muted", "Uploading…"));
    const { corpus } = await uploadFile(new File([run.source.blob], `${model.split("@")[0]}-lines.log`), { signal });
    navigate(`/train?corpus=${corpus.id}&start_from=${encodeURIComponent(model)}`);
  }

  async function scoreAgain() {
    if (run) {
      const { source } = run;
      await score((lineEnd) => (source.isFile ? source : pastedSource(area.value, lineEnd)));
    }
  }

  async function scoreText() {
    if (!area.value.trim()) {
      replace(messages, warningBox(h("p", "There are no lines to score. Paste some, or choose a log file.")));
      area.focus();
      return;
    }
    forgetSelection();
    saveDraft({ text: area.value, isScored: true });
    await score((lineEnd) => pastedSource(area.value, lineEnd));
  }

  async function scoreFile(file) {
    // After a reload the address still has the selection in this file.
    if (lastRun || new URLSearchParams(currentAddress().split("?")[1]).get("file") !== file.name) forgetSelection();
    setQuery({ file: file.name });
    await score(() => fileSource(file));
  }

  /** Other lines: what was selected in the last ones means nothing. The threshold and the order stay. */
  function forgetSelection() {
    setQuery({ line: "", like: "", from: "", to: "", q: "", file: "" });
  }

  async function scoreExample() {
    area.value = await exampleLines(model, signal);
    await scoreText();
  }

  area.addEventListener("drop", (event) => {
    if (!event.dataTransfer?.files.length) return;
    event.preventDefault();
    scoreFile(event.dataTransfer.files[0]);
  });
  const fileInput = h("input.visually-hidden", {
    type: "file",
    id: "log-file",
    onchange: () => {
      if (fileInput.files.length) scoreFile(fileInput.files[0]);
      fileInput.value = ""; // so that the same file can be chosen again
    },
  });

  form.append(
    formTitle,
    h(
      "div.stack",
      h("div.columns", modelField.node, calibrationField),
      area,
      h(
        "div.row",
        h("button.button.primary", { onclick: scoreText }, "Find anomalies"),
        h("label.button", { for: "log-file" }, "Choose a file"),
        fileInput,
        h("button.button", { onclick: () => attempt(scoreExample) }, "Try an example"),
      ),
    ),
  );

  const file = query.get("file");
  const isOfLastRun = lastRun && lastRun.model === model && lastRun.calibration === calibration;
  if (lastRun && isOfLastRun && (lastRun.source.isFile ? lastRun.source.name === file : !file)) show(lastRun);
  else if (file)
    replace(messages, hintBox(h("p", `Choose the file ${file} again to see it: a page cannot reopen it.`)));
  else if (draft.isScored && draft.text.trim()) score((lineEnd) => pastedSource(draft.text, lineEnd));
  else {
    replace(
      result,
      emptyState(
        "Nothing scored yet",
        "Each character is colored by its surprisal, the number of bits by which the model did not expect it.",
      ),
    );
  }

  return h("div.view", h("h1", "Anomalies"), missingModel(missing, selected), form, messages, result);
}
