/** The alert of a flagged line: a link to it, or a button that records the line; and what people decide on it. */

import { apiPath, get, post } from "../api.js";
import { h, replace } from "../dom.js";
import { decide, decisionControls } from "./alert-decisions.js";
import { alertAddress } from "./alert-details.js";
import { errorBox } from "./notice.js";

/**
 * Return the row of actions; `show` shows those of a line, or none for null.
 *
 * @param {{model: string, query: any, lineEnd: string, source: string, signal: AbortSignal}} options `query` has the
 *   fields of a request that decide what is flagged, `source` is recorded with the line
 */
export function lineAlert({ model, query, lineEnd, source, signal }) {
  const node = h("div.stack.tight");
  /** @type {{text: string, alertId: string} | null} */ let shown = null;
  /** @type {any} */ let alert = null;

  async function show(line) {
    if (line?.text === shown?.text && line?.alertId === shown?.alertId) return;
    [shown, alert] = [line, null];
    replace(node);
    if (line) await reload();
  }

  async function reload() {
    const mine = shown;
    if (!mine) return;
    try {
      const found = await find(mine.alertId);
      if (mine !== shown || signal.aborted) return;
      alert = found;
      draw();
    } catch (error) {
      if (mine === shown && !signal.aborted) replace(node, errorBox(error));
    }
  }

  async function find(alertId) {
    try {
      return await get(apiPath("/v1/models", model, "alerts", alertId), { signal });
    } catch (error) {
      if (error.status === 404) return null;
      throw error;
    }
  }

  /** Record the line, if it is not yet in an alert, and return the alert. */
  async function recorded() {
    if (alert) return alert;
    const mine = /** @type {{text: string, alertId: string}} */ (shown);
    const body = { lines: [mine.text + lineEnd], alerts: true, source, ...query };
    const { lines } = await post(apiPath("/v1/models", model, "score"), body, { signal });
    if (!lines[0].alert_id) throw new Error("the line is not flagged at this false-alarm rate");
    return get(apiPath("/v1/models", model, "alerts", lines[0].alert_id), { signal });
  }

  async function attempt(decision) {
    try {
      alert = await recorded();
      if (decision) await decide([alert], decision, { signal, onDone: reload });
      draw();
    } catch (error) {
      draw();
      if (!signal.aborted) node.append(errorBox(error));
    }
  }

  function draw() {
    replace(
      node,
      h(
        "div.row.alert-actions",
        alert
          ? h("a.button.small", { href: alertAddress(alert.model, alert.id) }, `Alert (${alert.state})`)
          : h("button.button.small", { onclick: () => attempt(null) }, "Record as an alert"),
        decisionControls(alert?.label ?? null, attempt),
      ),
    );
  }

  return { node, show };
}
