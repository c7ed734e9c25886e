/** The scored lines of a log: a threshold, the list as a heat map, and a readout of the selected character. */

import { apiPath, post } from "../api.js";
import { h, replace } from "../dom.js";
import { bits, integer } from "../format.js";
import { bitsThreshold, falseAlarmThreshold } from "./anomaly-threshold.js";
import { characterReadout } from "./character-readout.js";
import { heatMap, heatMapLegend } from "./heat-map.js";
import { enableLineNavigation } from "./line-navigation.js";

const PAGE_SIZE = 100; // lines shown at first, and added by "Show more"
const EXPECTED_CHARACTERS = 6;
const MAX_LABEL_CHARACTERS = 300;

/**
 * Return the view of a `/score` answer.
 *
 * @param {any} answer
 * @param {{number: number, text: string, sent: string}[]} sentLines as they are shown, and as they were sent
 * @param {{model: string, query?: any, signal: AbortSignal, onCalibrate: (lines: any[]) => void}} options `query` has
 *   the fields of the request that decide what is flagged
 */
export function scoredLines(answer, sentLines, { model, query = {}, signal, onCalibrate }) {
  const lines = answer.lines.map((line, index) => perCharacter({ ...line, ...sentLines[index] }));
  const isCalibrated = lines.some((line) => Number.isFinite(line.p_value));
  const threshold = isCalibrated ? falseAlarmThreshold(answer.calibration) : bitsThreshold(lines);

  const list = h("ol", { class: "lines", role: "listbox", "aria-label": "Scored lines" });
  const flaggedOnly = h("input", { type: "checkbox", onchange: draw });
  const byScore = h("input", { type: "checkbox", onchange: draw });
  const summary = h("p", { class: "number", role: "status" });
  const showMore = h("button", { type: "button", class: "button", onclick: addPage }, "Show more");
  let shown = PAGE_SIZE;

  function draw() {
    const flagged = lines.filter(threshold.isFlagged);
    threshold.showValue();
    summary.textContent = threshold.summary(flagged.length, lines.length);
    let selected = flaggedOnly.checked ? flagged : lines;
    if (byScore.checked) selected = [...selected].sort(threshold.compare);
    replace(
      list,
      selected.slice(0, shown).map((line, index) => lineEntry(line, threshold, index === 0)),
    );
    showMore.hidden = selected.length <= shown;
    list.hidden = selected.length === 0;
  }

  function addPage() {
    shown += PAGE_SIZE;
    draw();
  }

  const readout = characterReadout({
    signal,
    async explain(line, abort) {
      await addExplanation(line, { model, query, signal: abort });
      underlineSpans(line);
    },
  });

  function underlineSpans(line) {
    if (!threshold.isFlagged(line)) return;
    const isInSpan = (index) => line.spans?.some(({ start, end }) => start <= index && index < end);
    for (const character of list.querySelectorAll(`[data-number="${line.number}"] [data-index]`)) {
      character.classList.toggle("flagged", Boolean(isInSpan(Number(character.dataset.index))));
    }
  }

  threshold.control.addEventListener("input", draw);
  draw();
  enableLineNavigation(list, lines, readout.show);

  return h(
    "div",
    { class: "with-sidebar" },
    h(
      "section",
      { class: "stack", "aria-label": "Lines" },
      h(
        "div",
        { class: "card stack" },
        threshold.node,
        summary,
        h(
          "div",
          { class: "row" },
          h("label", { class: "checkbox-label" }, flaggedOnly, "Flagged lines only"),
          h("label", { class: "checkbox-label" }, byScore, "Most anomalous first"),
        ),
        !isCalibrated && calibrationHint(() => onCalibrate(sentLines)),
        heatMapLegend(),
      ),
      list,
      h("div", { class: "row center" }, showMore),
    ),
    h("section", { class: "card sticky", "aria-label": "Selected character" }, readout.node),
  );
}

function calibrationHint(onCalibrate) {
  return h(
    "div",
    { class: "box" },
    h(
      "p",
      {},
      "This model is not calibrated, so lines are compared by bits per character. " +
        "To set a false-alarm rate, calibrate the model on normal lines.",
    ),
    h(
      "div",
      { class: "row" },
      h("button", { type: "button", class: "button small", onclick: onCalibrate }, "Calibrate on these lines"),
    ),
  );
}

/** Return a scored line with bits and spans per character: a model of bytes is scored per byte. */
function perCharacter(line) {
  const characters = Array.from(line.text);
  const encoder = new TextEncoder();
  const isPerByte = line.characters > Array.from(line.sent).length;
  const offsets = []; // of each character in the service's units
  let end = 0;
  for (const character of characters) {
    offsets.push(end);
    end += isPerByte ? encoder.encode(character).length : 1;
  }
  const indexOf = (offset) => offsets.findLastIndex((one) => one <= offset);
  return {
    ...line,
    characters,
    offsets,
    bits: offsets.map((start, i) => line.bits.slice(start, offsets[i + 1] ?? end).reduce((sum, one) => sum + one, 0)),
    spans: line.spans
      ?.filter(({ start }) => start < end)
      .map((span) => ({ ...span, start: indexOf(span.start), end: indexOf(span.end - 1) + 1 })),
  };
}

/** Request what was expected at each character of a line, and its anomalous spans if the first answer left them out. */
async function addExplanation(line, { model, query, signal }) {
  if (line.expected) return;
  const body = { lines: [line.sent], detail: "character", expected: EXPECTED_CHARACTERS, ...query };
  const [answer] = (await post(apiPath("/v1/models", model, "score"), body, { signal })).lines;
  line.expected = answer.expected;
  if (line.explained === false && answer.explained) {
    line.spans = perCharacter({ ...answer, text: line.text, sent: line.sent }).spans;
  }
}

function lineEntry(line, threshold, isFirst) {
  const isFlagged = threshold.isFlagged(line);
  const label = `Line ${line.number}${isFlagged ? ", flagged" : ""}, ${bits(line.bits_per_character)} bits per character`;
  return h(
    "li",
    {
      class: `log-line${isFlagged ? " anomalous" : ""}`,
      role: "option",
      "aria-selected": "false",
      tabindex: isFirst ? 0 : -1,
      "data-number": line.number,
      "aria-label": `${label}: ${line.text.slice(0, MAX_LABEL_CHARACTERS)}`,
    },
    h("span", { class: "line-number" }, integer(line.number)),
    h("span", { class: "line-score", title: threshold.scoreMeaning }, threshold.scoreText(line)),
    h("span", { class: "log-text" }, heatMap(line.characters, line.bits, isFlagged ? (line.spans ?? []) : [])),
  );
}
