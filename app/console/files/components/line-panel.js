/** All about one line: its text as a heat map, what was expected, its rarity and time, and a readout of each character. */

import { delay, isAbort } from "../api.js";
import { h, replace } from "../dom.js";
import { bits, integer, visibleCharacter } from "../format.js";
import { characterReadout } from "./character-readout.js";
import { fact } from "./facts.js";
import { heatMap, heatMapLegend } from "./heat-map.js";
import { errorBox } from "./notice.js";

const SETTLE_MS = 60; // while the selection moves on, nothing is requested
const MAX_SHOWN = 4_000; // characters of a long line
const MAX_SENTENCES = 5;
const MAX_UNKNOWN = 20;
const REPEAT = "As rare as flagged lines, but like one that was flagged before: see “Flag repeats”.";

/**
 * Return the panel; `show(row)` fills it, `moveCharacter` moves the selected character.
 *
 * @param {object} options
 * @param {import('../log/scored-log.js').ScoredLog} options.log
 * @param {{get: (row: number) => Promise<string>}} options.texts
 * @param {any} options.details see `lineDetails`
 * @param {(row: number) => {rarity: string, isFlagged: boolean, isRepeat: boolean, time: string | null, hasAlert: boolean}} options.describe
 * @param {ReturnType<typeof import('./line-alert.js').lineAlert>} options.alert the alert of the line
 * @param {(row: number) => void} options.onAlert the user wants the lines of a row's alert
 * @param {(row: number) => void} options.onDetail a row's details have arrived
 * @param {AbortSignal} options.signal
 */
export function linePanel({ log, texts, details, describe, alert, onAlert, onDetail, signal }) {
  const readout = characterReadout();
  const node = h("section.card.stack.line-panel", { "aria-label": "Selected line", hidden: true });
  let pending = new AbortController();
  let row = -1;
  let character = -1;
  let drawn = { text: /** @type {string | null} */ (null), isFlagged: false };

  async function show(newRow) {
    const isOther = row !== newRow;
    row = newRow;
    node.hidden = row < 0;
    if (!isOther) {
      // The threshold may have moved.
      if (row >= 0 && drawn.text !== null && drawn.isFlagged !== describe(row).isFlagged) draw(drawn.text);
      return;
    }
    pending.abort();
    character = -1;
    drawn = { text: null, isFlagged: false };
    readout.clear();
    if (row >= 0) await request();
  }

  async function request() {
    pending = new AbortController();
    const abort = AbortSignal.any([signal, pending.signal]);
    try {
      const text = await texts.get(row);
      if (abort.aborted) return;
      draw(text);
      if (details.kept(row)?.isComplete) return;
      await delay(SETTLE_MS, abort);
      if (abort.aborted) return;
      await details.requestAll(row, text, abort);
      onDetail(row);
      draw(text);
    } catch (error) {
      if (!isAbort(error) && !abort.aborted) node.append(errorBox(error, { retry: request }));
    }
  }

  function draw(text) {
    const { rarity, isFlagged, isRepeat, time, hasAlert } = describe(row);
    const detail = details.kept(row);
    const spans = isFlagged ? (detail?.spans ?? []) : [];
    drawn = { text, isFlagged };
    alert.show(isFlagged && detail?.alertId ? { text, alertId: detail.alertId } : null);
    replace(
      node,
      h(
        "div.row.apart",
        h(
          "div.row",
          h("h2", `Line ${integer(log.number[row])}`),
          isFlagged && h("span.badge.failed", "flagged"),
          isRepeat && h("span.badge", { title: REPEAT }, "repeat"),
        ),
        hasAlert && h("button.button.small", { onclick: () => onAlert(row) }, "Lines of its alert"),
      ),
      h(
        "div.log-text.whole-line",
        detail ? heatMap(detail.characters.slice(0, MAX_SHOWN), detail.bits, spans) : text.slice(0, MAX_SHOWN),
      ),
      alert.node,
      text.length > MAX_SHOWN &&
        h("p.small.muted", `The first ${integer(MAX_SHOWN)} of ${integer(text.length)} characters.`),
      detail ? sentences(detail, spans) : h("p.muted", "Requesting the surprisal of each character…"),
      detail?.isComplete && detail.unknown.length > 0 && unknownCharacters(detail.unknown),
      h(
        "dl.facts.plain",
        fact(log.isCalibrated ? "Rarity" : "Bits per character", rarity),
        log.isCalibrated && fact("Score", `${bits(log.score[row])} bits`),
        time && fact("Time", time),
      ),
      heatMapLegend(),
      readout.node,
    );
    if (character >= 0) selectCharacter(character);
  }

  function selectCharacter(index) {
    const detail = details.kept(row);
    if (!detail?.characters.length) return;
    character = Math.max(0, Math.min(index, detail.characters.length - 1, MAX_SHOWN - 1));
    node.querySelector(".selected")?.classList.remove("selected");
    node.querySelector(`[data-index="${character}"]`)?.classList.add("selected");
    readout.show({ ...detail, number: log.number[row] }, character);
  }

  node.addEventListener("pointerover", (event) => {
    const target = /** @type {Element} */ (event.target).closest("[data-index]");
    if (target instanceof HTMLElement) selectCharacter(Number(target.dataset.index));
  });

  return {
    node,
    show,
    /** Handle a key of the list; returns whether it moved the selected character. @param {KeyboardEvent} event */
    moveCharacter({ key }) {
      const index = { ArrowRight: character + 1, ArrowLeft: character - 1, Home: 0, End: Infinity }[key];
      if (index === undefined || row < 0) return false;
      selectCharacter(index);
      return true;
    },
  };
}

function sentences({ characters, reason }, spans) {
  const known = spans.filter(({ expected }) => expected !== null && expected !== undefined).slice(0, MAX_SENTENCES);
  const expectations = known.map(({ start, end, expected }) =>
    h(
      "p",
      "Found ",
      h("code", characters.slice(start, end).join("")),
      expected ? [", expected ", h("code", expected)] : ", where nothing was expected",
      ".",
    ),
  );
  return reason ? [h("p", `Unlike other lines: ${reason}.`), ...expectations] : expectations;
}

function unknownCharacters(characters) {
  return h(
    "p",
    "Not in the model’s vocabulary: ",
    characters.slice(0, MAX_UNKNOWN).map((one) => [h("span.glyph.mono", visibleCharacter(one)), " "]),
  );
}
