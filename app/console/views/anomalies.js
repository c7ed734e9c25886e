/**
 * Which lines of a log are odd, and where: a heat map by character, lines flagged by a threshold that is chosen
 * by its false alarms, and what was expected at any place instead.
 */

import { at, get, post } from "../api.js";
import { h, replace } from "../dom.js";
import { field, select } from "../components/form-fields.js";
import { count, visible, whole } from "../format.js";
import { MOST_LINES, linesOf, textOf } from "../log-lines.js";
import { goneModel, modelSelect, modelsFor, noModel } from "../components/model-picker.js";
import { empty, failure, toast, warning } from "../components/notice.js";
import { scoredLines } from "../components/scored-lines.js";
import { highestRate } from "../components/anomaly-threshold.js";

let draft = "";

/** @param {import('../router.js').Page} page */
export async function anomaliesView(page) {
  const { signal } = page;
  const { models, chosen, missing } = await modelsFor(page);
  if (!models.length) {
    return h(
      "div",
      { class: "view" },
      h("h1", {}, "Anomalies"),
      noModel("A model that was trained on ordinary lines is surprised by the odd ones."),
    );
  }
  let model = chosen;
  /** @type {any} */ let scored = null;
  let calibration = "";

  const area = h("textarea", {
    rows: 8,
    spellcheck: "false",
    "aria-label": "Log lines",
    placeholder: "Paste lines here, or drop a file",
    value: draft,
    oninput: () => {
      draft = area.value;
    },
  });
  const said = h("div", { class: "stack tight", "aria-live": "polite" });
  const result = h("div", { class: "stack" });
  const calibrations = h("div", {});
  const picker = field({
    name: "model",
    label: "Model",
    control: modelSelect(models, model, (id) => {
      model = id;
      calibration = "";
      known = learn();
      known.catch(() => {});
      if (scored) score();
    }),
  });

  /** Ask for the model's calibrations, and whether its lines end in a carriage return. */
  async function learn() {
    const asked = model;
    const [{ data }, { characters }] = await Promise.all([
      get(at("/v1/models", asked, "calibrations"), { signal }),
      get(at("/v1/models", asked), { signal }),
    ]);
    if (asked === model) drawCalibrations(data);
    return { calibrations: data, end: characters.includes("\r") ? "\r" : "" };
  }

  /** Where there is a choice of ordinary lines, let it be made. */
  function drawCalibrations(data) {
    replace(
      calibrations,
      data.length > 1 &&
        field({
          name: "calibration",
          label: "Compared with",
          control: select(
            [["", "the usual lines"], ...data.map((one) => [one.name, `${one.name} (${count(one.lines, "line")})`])],
            calibration,
            {
              onchange: (event) => {
                calibration = event.target.value;
                if (scored) score();
              },
            },
          ),
        }).node,
    );
  }

  let known = learn();
  known.catch(() => {}); // `score` asks again
  let asking = new AbortController();

  area.addEventListener("drop", async (event) => {
    if (!event.dataTransfer?.files.length) return;
    event.preventDefault();
    await take(event.dataTransfer.files[0]);
  });

  async function take(file) {
    replace(said);
    try {
      const text = await textOf(file);
      area.value = text;
      draft = text;
      await score();
    } catch (error) {
      replace(said, failure(error));
    }
  }

  async function score() {
    const { lines, left } = linesOf(area.value);
    if (!lines.length) {
      replace(said, warning(h("p", {}, "There is no line to look at. Paste some, or drop a log file.")));
      area.focus();
      return;
    }
    replace(said, h("p", { class: "muted" }, `Reading ${count(lines.length, "line")}…`));
    asking.abort(); // a newer question overtakes
    asking = new AbortController();
    const asked = { model, calibration, signal: AbortSignal.any([signal, asking.signal]) };
    try {
      known = known.catch(learn);
      const { calibrations, end } = await known;
      for (const line of lines) line.sent = line.text + end;
      const compared = calibrations.find(({ name }) => name === (asked.calibration || "default")) ?? calibrations[0];
      const query = {
        ...(compared && { false_alarms: highestRate(compared) }),
        ...(asked.calibration && { calibration: asked.calibration }),
      };
      const answer = await post(
        at("/v1/models", asked.model, "score"),
        { lines: lines.map((line) => line.sent), detail: "character", ...query },
        { signal: asked.signal },
      );
      scored = answer;
      replace(
        said,
        left > 0 &&
          warning(
            h(
              "p",
              {},
              `Of ${whole(left + lines.length)} lines the first ${whole(lines.length)} are shown; one look takes ${whole(MOST_LINES)}.`,
            ),
          ),
        answer.drift &&
          warning(
            h("p", {}, answer.drift),
            h(
              "div",
              { class: "row" },
              h(
                "button",
                { type: "button", class: "button small", onclick: () => calibrate(lines) },
                "Use these lines as normal",
              ),
            ),
          ),
        answer.unknown_characters.length > 0 &&
          warning(
            h(
              "p",
              {},
              "The model has never seen: ",
              answer.unknown_characters
                .slice(0, 20)
                .map((one) => [h("span", { class: "glyph mono" }, visible(one)), " "]),
            ),
          ),
      );
      replace(result, scoredLines(answer, lines, { model: asked.model, query, signal, onCalibrate: calibrate }));
    } catch (error) {
      if (!asked.signal.aborted) replace(said, failure(error, { retry: score }));
    }
  }

  async function calibrate(lines) {
    replace(said);
    try {
      await post(at("/v1/models", model, "calibrate"), { lines: lines.map((line) => line.sent) }, { signal });
      toast("Lines are compared with these from now on.");
      calibration = ""; // the new one, which is used where none is chosen
      known = learn();
      await score();
    } catch (error) {
      if (!signal.aborted) replace(said, failure(error));
    }
  }

  const input = h("input", {
    type: "file",
    class: "hidden-label",
    id: "log-file",
    onchange: () => {
      if (input.files.length) take(input.files[0]);
      input.value = "";
    },
  });
  replace(
    result,
    empty(
      "Nothing scored yet",
      "Each character is coloured by its surprise: how many bits it costs a model that has read ordinary lines. Odd lines rise to the top.",
    ),
  );

  return h(
    "div",
    { class: "view" },
    h("h1", {}, "Anomalies"),
    goneModel(missing, chosen),
    h(
      "section",
      { class: "card stack", "aria-label": "What to look at" },
      h("div", { class: "columns" }, picker.node, calibrations),
      area,
      h(
        "div",
        { class: "row" },
        h("button", { type: "button", class: "button primary", onclick: score }, "Find what is odd"),
        h("label", { class: "button", for: "log-file" }, "Choose a file"),
        input,
        h(
          "button",
          {
            type: "button",
            class: "button",
            onclick: () =>
              example(model, signal)
                .then((text) => {
                  area.value = text;
                  draft = text;
                  return score();
                })
                .catch((error) => replace(said, failure(error))),
          },
          "Try it on its own text",
        ),
      ),
    ),
    said,
    result,
  );
}

/** Some lines that the model learned from, the third of them damaged: something to look at for a start. */
async function example(model, signal) {
  const { corpus } = await get(at("/v1/models", model), { signal });
  const { sample } = await get(at("/v1/corpora", corpus), { signal });
  const lines = sample
    .split("\n")
    .filter((line) => line.trim())
    .slice(0, 6);
  const odd = Math.min(2, lines.length - 1);
  const middle = Math.floor(lines[odd].length / 2);
  lines[odd] = `${lines[odd].slice(0, middle)}#@!~${lines[odd].slice(middle)}`;
  return lines.join("\n");
}
