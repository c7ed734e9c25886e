/** What the address keeps of an investigation: rate, filter, sort order, grouping, zoom and selection. */

import { setQuery } from "../router.js";

/**
 * @typedef {object} Investigation
 * @property {number | null} rate the threshold; null: the default
 * @property {boolean} flagged flagged lines only
 * @property {boolean} repeats lines like flagged ones are flagged, too, if there are many
 * @property {string} q search text
 * @property {boolean} byScore the most anomalous first
 * @property {boolean} grouped by alert
 * @property {number | null} like the number of a line: only lines of its alert are shown
 * @property {[number, number] | null} zoom a range of times in milliseconds, or of line numbers
 * @property {number | null} line the number of the selected line
 */

/** @param {URLSearchParams} query @returns {Investigation} */
export function readInvestigation(query) {
  const range = [number(query.get("from")), number(query.get("to"))];
  return {
    rate: number(query.get("rate")),
    flagged: query.get("show") === "flagged",
    repeats: query.get("repeats") === "flag",
    q: query.get("q") ?? "",
    byScore: query.get("sort") === "score",
    grouped: query.get("group") === "alert",
    like: number(query.get("like")),
    zoom: range[0] !== null && range[1] !== null ? [range[0], range[1]] : null,
    line: number(query.get("line")),
  };
}

/**
 * Write an investigation to the address.
 *
 * @param {Investigation} state
 * @param {{isStep?: boolean}} [options] `isStep`: the user can go back to the address before
 */
export function writeInvestigation(state, { isStep = false } = {}) {
  setQuery(
    {
      rate: state.rate === null ? "" : String(Number(state.rate.toPrecision(4))),
      show: state.flagged ? "flagged" : "",
      repeats: state.repeats ? "flag" : "",
      q: state.q,
      sort: state.byScore ? "score" : "",
      group: state.grouped ? "alert" : "",
      like: state.like === null ? "" : String(state.like),
      from: state.zoom ? String(Math.round(state.zoom[0])) : "",
      to: state.zoom ? String(Math.round(state.zoom[1])) : "",
      line: state.line === null ? "" : String(state.line),
    },
    { isStep },
  );
}

/** @param {string | null} text @returns {number | null} */
function number(text) {
  const value = text ? Number(text) : NaN;
  return Number.isFinite(value) ? value : null;
}
