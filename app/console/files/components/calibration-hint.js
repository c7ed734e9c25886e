/** What to do about a model without a calibration. */

import { h } from "../dom.js";
import { hintBox } from "./notice.js";

/** @param {() => void} onCalibrate makes the shown lines the calibration */
export function calibrationHint(onCalibrate) {
  return hintBox(
    h(
      "p",
      "This model is not calibrated, so lines are compared by bits per character. " +
        "To set a false-alarm rate, calibrate the model on normal lines.",
    ),
    h("div.row", h("button.button.small", { onclick: onCalibrate }, "Calibrate on these lines")),
  );
}
