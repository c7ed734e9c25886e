/** Scored lines: coloured, flagged, and what was expected at the place that is pointed at. */

import { at, post } from "../api.js";
import { distribution } from "./bar-chart.js";
import { h, replace } from "../dom.js";
import { bits, spoken, visible, whole } from "../format.js";
import { heat, legend } from "./heat-map.js";
import { failure } from "./notice.js";
import { byBits, byFalseAlarms } from "./anomaly-threshold.js";
import { walkable } from "./line-navigation.js";

const SHOWN = 100; // lines, and as many more when asked for
const SETTLED_MS = 40;
const EXPECTED = 6;

/**
 * Return the lines of an answer of `/score`.
 *
 * @param {any} answer
 * @param {{place: number, text: string, sent: string}[]} lines as they are shown, and as they were sent
 * @param {{model: string, query?: any, signal: AbortSignal, onCalibrate: (lines: any[]) => void}} options `query` has
 *   the fields by which lines were flagged
 */
export function scoredLines(answer, lines, { model, query = {}, signal, onCalibrate }) {
  const rows = answer.lines.map((line, index) => byCharacter({ ...line, ...lines[index] }));
  const isCalibrated = rows.some((row) => Number.isFinite(row.p_value));
  const threshold = isCalibrated ? byFalseAlarms(rows, answer.calibration) : byBits(rows);
  const readout = h("div", { class: "stack tight", "aria-live": "polite" });
  const listed = h("ol", { class: "lines", role: "listbox", "aria-label": "Lines by surprise" });
  const more = h(
    "button",
    {
      type: "button",
      class: "button",
      onclick: () => {
        shown += SHOWN;
        draw();
      },
    },
    "Show more",
  );
  const only = h("input", { type: "checkbox", onchange: draw });
  const sorted = h("input", { type: "checkbox", onchange: draw });
  const figures = h("p", { class: "number", role: "status" });
  let shown = SHOWN;

  function draw() {
    const flagged = rows.filter(threshold.isFlagged);
    figures.textContent = threshold.sentence(flagged.length, rows.length);
    let wanted = only.checked ? flagged : rows;
    if (sorted.checked) wanted = [...wanted].sort(threshold.compare);
    replace(
      listed,
      wanted.slice(0, shown).map((row, index) => lineEntry(row, threshold, index === 0)),
    );
    more.hidden = wanted.length <= shown;
    listed.hidden = wanted.length === 0;
  }

  let timer = 0;
  let asking = new AbortController();

  function tell(row, place) {
    clearTimeout(timer);
    asking.abort();
    if (!row) {
      replace(
        readout,
        h("h2", {}, "What was expected"),
        h(
          "p",
          { class: "muted" },
          "Point at a character, or walk there with the arrow keys, and see what the model thought would come.",
        ),
      );
      return;
    }
    const head = costs(row, place);
    replace(readout, head);
    timer = setTimeout(async () => {
      asking = new AbortController();
      try {
        await ask(row, { model, query, signal: asking.signal });
        mark(row);
        const candidates = row.expected[row.starts[place]];
        const expected = h("p", { class: "small muted" }, "Expected there:");
        replace(readout, costs(row, place), expected, distribution(candidates));
      } catch (error) {
        if (error.name !== "AbortError" && !signal.aborted) replace(readout, head, failure(error));
      }
    }, SETTLED_MS);
  }

  /** Mark the spans of a line that has been explained by now. */
  function mark(row) {
    if (!threshold.isFlagged(row)) return;
    const isMarked = (at) => row.spans?.some(({ start, end }) => start <= at && at < end);
    for (const one of listed.querySelectorAll(`[data-place="${row.place}"] .log-text [data-at]`)) {
      one.classList.toggle("flagged", Boolean(isMarked(Number(one.dataset.at))));
    }
  }

  function costs(row, place) {
    const character = row.characters[place];
    const span = (row.spans ?? []).find(({ start, end }) => start <= place && place < end);
    return [
      h("h2", {}, "Line ", whole(row.place), ", character ", whole(place + 1)),
      h(
        "p",
        {},
        h("span", { class: "glyph mono", "aria-hidden": "true" }, visible(character)),
        h("span", { class: "hidden-label" }, spoken(character)),
        ` costs ${bits(row.bits[place])} bits; `,
        h(
          "span",
          { class: "muted" },
          row.bits[place] < 1
            ? "it was the likely one."
            : `its chance was 1 in ${whole(Math.round(2 ** Math.min(40, row.bits[place])))}.`,
        ),
      ),
      span?.expected &&
        h(
          "p",
          {},
          "Instead of ",
          h("code", {}, row.characters.slice(span.start, span.end).join("")),
          " it expected ",
          h("code", {}, span.expected),
          ".",
        ),
    ];
  }

  threshold.control.addEventListener("input", draw);
  draw();
  walkable(listed, rows, tell);
  tell(null, 0);
  return h(
    "div",
    { class: "beside" },
    h(
      "section",
      { class: "stack", "aria-label": "Lines" },
      h(
        "div",
        { class: "card stack" },
        threshold.node,
        figures,
        h(
          "div",
          { class: "row" },
          h("label", { class: "check" }, only, "Flagged lines only"),
          h("label", { class: "check" }, sorted, "The oddest first"),
        ),
        !isCalibrated &&
          h(
            "div",
            { class: "box" },
            h(
              "p",
              {},
              "This model has not been told what ordinary lines score, so false alarms cannot be expected, only bits compared.",
            ),
            h(
              "div",
              { class: "row" },
              h(
                "button",
                { type: "button", class: "button small", onclick: () => onCalibrate(lines) },
                "These lines are ordinary",
              ),
            ),
          ),
        legend(),
      ),
      listed,
      h("div", { class: "row center" }, more),
    ),
    h("section", { class: "card sticky", "aria-label": "Expected" }, readout),
  );
}

/** A scored line with its `characters`, and with bits and spans of these: a model of bytes counts bytes. */
function byCharacter(line) {
  const characters = Array.from(line.text);
  const coder = new TextEncoder();
  const sizes = characters.map((character) => coder.encode(character).length);
  const isBytes = line.characters > Array.from(line.sent).length;
  const starts = []; // of each character, in what the service counts
  let at = 0;
  for (const size of sizes) {
    starts.push(at);
    at += isBytes ? size : 1;
  }
  const placeOf = (start) => starts.findLastIndex((one) => one <= start);
  return {
    ...line,
    characters,
    starts,
    bits: starts.map((start, i) => line.bits.slice(start, starts[i + 1] ?? at).reduce((sum, one) => sum + one, 0)),
    spans: line.spans
      ?.filter(({ start }) => start < at)
      .map((span) => ({ ...span, start: placeOf(span.start), end: placeOf(span.end - 1) + 1 })),
  };
}

/**
 * Ask what the model thought would come at each place of a line; and what made it anomalous, where the answer about all
 * lines did not explain that.
 */
async function ask(row, { model, query, signal }) {
  if (row.expected) return;
  const fields = { lines: [row.sent], detail: "character", expected: EXPECTED, ...query };
  const [line] = (await post(at("/v1/models", model, "score"), fields, { signal })).lines;
  row.expected = line.expected;
  if (row.explained === false && line.explained) {
    row.spans = byCharacter({ ...line, text: row.text, sent: row.sent }).spans;
  }
}

function lineEntry(row, threshold, isFirst) {
  const isFlagged = threshold.isFlagged(row);
  return h(
    "li",
    {
      class: `log-line${isFlagged ? " anomalous" : ""}`,
      role: "option",
      "aria-selected": "false",
      tabindex: isFirst ? 0 : -1,
      "data-place": row.place,
      "aria-label": `Line ${row.place}${isFlagged ? ", flagged" : ""}, ${bits(row.bits_per_character)} bits a character: ${row.text.slice(0, 300)}`,
    },
    h("span", { class: "place" }, whole(row.place)),
    h("span", { class: "figure", title: threshold.meaning }, threshold.figure(row)),
    h("span", { class: "log-text" }, heat(row.characters, row.bits, isFlagged ? (row.spans ?? []) : [])),
  );
}
