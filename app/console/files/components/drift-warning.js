/** The warning that lines do not look like the calibration data, with what to do about it. */

import { h } from "../dom.js";
import { sentence, warningBox } from "./notice.js";

/** @param {string} message @param {() => void} onRecalibrate makes these lines the calibration */
export function driftWarning(message, onRecalibrate) {
  return warningBox(
    h("p", {}, sentence(message)),
    h(
      "div",
      { class: "row" },
      h("button", { type: "button", class: "button small", onclick: onRecalibrate }, "Recalibrate on these lines"),
    ),
  );
}
