/** Why more lines of a log are rare than the false-alarm rate explains, with what to do about it. */

import { h } from "../dom.js";
import { dateTime, integer } from "../format.js";
import { sentence, warningBox } from "./notice.js";

/**
 * @param {any} change that of the service
 * @param {{onTrain?: () => void, onRecalibrate: () => void}} options what to do with these lines
 */
export function logChange(change, { onTrain, onRecalibrate }) {
  const [head, advice] = change.sentence.split(": ");
  const since = change.since ? ` since ${dateTime(change.since)}` : "";
  const button = (label, onclick) => h("button.button.small", { onclick }, label);
  return warningBox(
    h("p", sentence(`${head}${since}: ${advice}`)),
    change.examples.length > 0 &&
      h(
        "details",
        h("summary", "Show one of each"),
        h(
          "ul.stack.tight.examples",
          change.examples.map(({ lines, line }) =>
            h("li", h("p.log-text.mono", h("span.muted", `${integer(lines)} × `), line)),
          ),
        ),
      ),
    h(
      "div.row",
      onTrain && button("Train again with these lines", onTrain),
      button("Recalibrate on these lines", onRecalibrate),
    ),
  );
}
