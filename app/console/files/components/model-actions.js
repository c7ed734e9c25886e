/** What to do with a model: what its kind needs first. */

import { h } from "../dom.js";

/** By kind of its text: addresses with a label, the most useful first. */
const ACTIONS = {
  records: [
    ["suggestions", "Try the list"],
    ["playground", "Open playground"],
    ["anomalies", "Find anomalies"],
  ],
  log: [
    ["anomalies", "Score lines"],
    ["alerts", "Alerts"],
    ["playground", "Open playground"],
  ],
  text: [
    ["playground", "Open playground"],
    ["anomalies", "Find anomalies"],
  ],
};

/** Return links, of which the first stands out. @param {{id: string, kind: string | null}} model */
export function modelActions({ id, kind }) {
  return (ACTIONS[kind ?? "text"] ?? ACTIONS.text).map(([view, label], index) =>
    h(
      "a",
      { class: `button small${index ? "" : " primary"}`, href: `#/${view}?model=${encodeURIComponent(id)}` },
      label,
    ),
  );
}
