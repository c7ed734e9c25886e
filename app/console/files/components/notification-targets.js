/** Where alerts and other events are reported: whether messages arrive, and a test message to each target. */

import { apiPath, listAll, post } from "../api.js";
import { h, inlineCode, replace } from "../dom.js";
import { dateTime } from "../format.js";
import { errorBox } from "./notice.js";

/**
 * Return the section, or null if the API key may not see targets.
 *
 * @param {AbortSignal} signal
 */
export async function notificationTargets(signal) {
  let targets;
  try {
    targets = await listAll("/v1/notification_targets", { signal });
  } catch (error) {
    if (error.status === 401 || error.status === 403) return null;
    throw error;
  }
  return h(
    "section",
    { class: "card stack" },
    h("h2", {}, "Notification targets"),
    targets.length
      ? h(
          "ul",
          { class: "list" },
          targets.map((target) => item(target, signal)),
        )
      : h("p", { class: "muted small" }, inlineCode("None. Add a webhook with `nextchar targets add URL`.")),
  );
}

function item(target, signal) {
  const result = h("div", { role: "status" });
  const button = h("button", { type: "button", class: "button small", onclick: test }, "Send test message");

  async function test() {
    button.disabled = true;
    try {
      const response = await post(apiPath("/v1/notification_targets", target.id, "test"), undefined, { signal });
      const said = response.answer ? `: ${response.answer}` : "";
      replace(
        result,
        response.delivered
          ? h("p", { class: "small" }, `Delivered in ${response.seconds} s, status ${response.status}${said}`)
          : errorBox(new Error(response.error)),
      );
    } catch (error) {
      if (!signal.aborted) replace(result, errorBox(error));
    } finally {
      button.disabled = false;
    }
  }

  const health = target.last_error_at > (target.last_success_at ?? 0) ? `Failed: ${target.last_error}` : "";
  const success = target.last_success_at ? `last success ${dateTime(target.last_success_at)}` : "no message yet";
  return h(
    "li",
    { class: "stack" },
    h(
      "div",
      { class: "row apart" },
      h("span", {}, h("span", { class: "strong" }, target.kind), ` ${target.url}`),
      h("span", { class: "muted small" }, `${target.waiting} waiting · ${target.dead} given up · ${success}`),
      button,
    ),
    h("p", { class: "muted small" }, target.events.join(", ")),
    health && h("p", { class: "small" }, health),
    result,
  );
}
