/** Whether a model's calibration follows the lines that agents send, with a switch and the history. */

import { apiPath, delay, get, put } from "../api.js";
import { h, inlineCode, replace } from "../dom.js";
import { bits, count, dateTime, integer } from "../format.js";
import { errorBox, sentence } from "./notice.js";

const POLL_MS = 10_000;
const MAX_SHOWN = 30; // entries of the history

/** @param {{signal: AbortSignal}} options of the view */
export function rollingCalibration({ signal }) {
  const toggle = h("input", {
    type: "checkbox",
    role: "switch",
    onchange: () => {
      const wanted = toggle.checked;
      changes = changes.then(() => change(wanted)); // one after the other
    },
  });
  const state = h("p", { class: "small muted" });
  const scope = h("span", {});
  const status = h("div", {});
  const entries = h("ol", { class: "stack tight small number" });
  const history = h("details", { hidden: true }, h("summary", { class: "small" }, "History"), entries);
  const node = h(
    "section",
    { class: "card stack tight", "aria-label": "Rolling calibration", hidden: true },
    h("label", { class: "checkbox-label strong" }, toggle, "Rolling calibration"),
    h(
      "p",
      { class: "small" },
      inlineCode(
        "The calibration follows normal lines that drift slowly, and never learns from flagged ones. " +
          "Agents whose requests say `recalibrate` decide for their own lines. ",
      ),
      scope,
    ),
    state,
    status,
    history,
  );
  let model = "";
  let shown = "";
  let changes = Promise.resolve();
  let isChanging = false;

  /** Show the model that is followed until `abort` is aborted. */
  async function follow(followed, abort) {
    model = followed;
    shown = "";
    node.hidden = true;
    replace(status);
    while (!abort.aborted) {
      if (!document.hidden) await refresh(abort);
      await delay(POLL_MS, abort);
    }
  }

  async function refresh(abort) {
    const path = apiPath("/v1/models", model);
    const [settings, calibrations] = await Promise.all([
      get(`${path}/ingest/settings`, { signal: abort }),
      get(`${path}/calibrations`, { signal: abort }),
    ]).catch(() => []); // another part of the view reports a failed request
    if (!settings || abort.aborted) return;
    const latest = JSON.stringify([settings, calibrations]);
    if (latest !== shown) draw(settings, calibrations.data);
    shown = latest;
  }

  function draw(settings, calibrations) {
    node.hidden = false;
    const isOn = settings.recalibrate === "rolling";
    if (!isChanging) toggle.checked = isOn;
    const rebuilds = rebuildsOf(calibrations);
    state.textContent = stateText(isOn, rebuilds[0]);
    scope.textContent = `The switch applies to all versions of ${settings.model}.`;
    const changes = settings.history.map((one) => ({ at: one.changed_at, text: changeText(one) }));
    const all = [...changes, ...rebuilds.map((one) => ({ at: one.at, text: rebuildText(one) }))];
    all.sort((a, b) => b.at - a.at);
    history.hidden = !all.length;
    replace(
      entries,
      all.slice(0, MAX_SHOWN).map(({ at, text }) => h("li", {}, h("span", { class: "muted" }, dateTime(at)), ` ${text}`)),
    );
  }

  async function change(wanted) {
    isChanging = true;
    replace(status);
    try {
      const path = apiPath("/v1/models", model, "ingest", "settings");
      await put(path, { recalibrate: wanted ? "rolling" : "never" }, { signal });
    } catch (error) {
      toggle.checked = !wanted;
      if (!signal.aborted) replace(status, errorBox(error));
    } finally {
      isChanging = false;
    }
    await refresh(signal);
  }

  return { node, follow };
}

/** Return the rebuilds of all rolling calibrations, newest first, each with the calibration that it began with. */
function rebuildsOf(calibrations) {
  return calibrations
    .filter((one) => one.rolling)
    .flatMap(({ rolling }) => rolling.rebuilds.map((one) => ({ ...one, base: rolling.base })))
    .sort((a, b) => b.at - a.at);
}

function stateText(isOn, newest) {
  if (!isOn) return "Off: the calibration stays as it is until someone calibrates.";
  if (!newest) return "On. Nothing is learned yet: that takes 1,000 lines and a minute, or 100 lines and six hours.";
  return `On. Last rebuilt ${dateTime(newest.at)}. ${rebuildText(newest)}`;
}

function rebuildText({ base, lines, flagged, learned, drift, old_thresholds: before, new_thresholds: after }) {
  const from = ["default", "validation"].includes(base) ? "" : `${base}: `;
  if (drift) return `${from}${sentence(drift)}`;
  const of = `learned ${integer(learned)} of ${count(lines, "line")}, ${integer(flagged)} flagged`;
  const moved = `${before.map(bits).join(", ")} → ${after.map(bits).join(", ")} bits`;
  return sentence(`${from}${of}; threshold ${moved}`);
}

function changeText({ recalibrate, changed_by: by }) {
  return `Switched ${recalibrate === "rolling" ? "on" : "off"}${by ? ` by ${by}` : ""}.`;
}
