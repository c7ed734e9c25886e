/** Where alerts and other events are reported: add and delete targets, whether messages arrive, test messages. */

import { apiPath, listAll, post, request } from "../api.js";
import { h, replace } from "../dom.js";
import { confirmAction } from "./dialog.js";
import { timeAgo } from "./facts.js";
import { field, select } from "./form-fields.js";
import { attemptIn, errorBox, hintBox, sentence } from "./notice.js";

/** Presets: how the fields of the form become a target. */
const PRESETS = {
  webhook: {
    label: "Webhook",
    body: { kind: "webhook" },
    help: "It gets signed messages in the form of Standard Webhooks.",
  },
  slack: { label: "Slack", body: { kind: "webhook", format: "slack" }, help: "The address of an incoming webhook." },
  pagerduty: { label: "PagerDuty", body: { kind: "webhook", format: "pagerduty" }, hasKey: true },
  alertmanager: { label: "Alertmanager", body: { kind: "alertmanager" }, help: "The address of its server." },
};

/**
 * Return the section, or null if the API key may not see targets.
 *
 * @param {AbortSignal} signal
 */
export async function notificationTargets(signal) {
  const list = h("ul.list");
  const message = h("div", { role: "status" });

  async function load() {
    const targets = await listAll("/v1/notification_targets", { signal });
    replace(
      list,
      targets.map((target) => item(target, { signal, onDeleted: load })),
    );
  }

  try {
    await load();
  } catch (error) {
    if (error.status === 401 || error.status === 403) return null;
    throw error;
  }

  /** Show the secret of a new target, and send it a test message. */
  async function added(target) {
    await load();
    replace(
      message,
      target.secret &&
        hintBox(h("p", "The secret that signs its messages is shown only now: ", h("code", target.secret))),
    );
    /** @type {HTMLElement | null} */ (list.querySelector(`[data-target="${target.id}"] .test`))?.click();
  }

  return h(
    "section.card.stack",
    h("h2", "Notification targets"),
    list,
    message,
    h("details", h("summary", "Add a target"), targetForm(added)),
  );
}

function targetForm(onAdded) {
  const url = h("input", { type: "url", required: true, autocomplete: "off", spellcheck: "false" });
  const key = h("input", { type: "password", autocomplete: "off" });
  const help = h("span");
  const urlField = field({ name: "url", label: "URL", control: url, help });
  const keyField = field({ name: "routing_key", label: "Integration key", control: key });
  const severity = select(
    [
      ["info", "All"],
      ["warning", "Warning or critical"],
      ["critical", "Critical"],
    ],
    "warning",
  );
  const preset = select(
    Object.entries(PRESETS).map(([name, { label }]) => [name, label]),
    "webhook",
    { onchange: showPreset },
  );
  const status = h("div");

  function showPreset() {
    const { help: text = "", hasKey = false } = PRESETS[preset.value];
    replace(help, text);
    urlField.node.hidden = hasKey;
    keyField.node.hidden = !hasKey;
    url.required = !hasKey;
    key.required = hasKey;
  }

  async function submit(event) {
    event.preventDefault();
    replace(status);
    const { body, hasKey } = PRESETS[preset.value];
    const wanted = { ...body, min_severity: severity.value };
    try {
      const target = await post("/v1/notification_targets", {
        ...wanted,
        ...(hasKey ? { routing_key: key.value } : { url: url.value.trim() }),
      });
      event.target.closest("details").open = false;
      [url.value, key.value] = ["", ""];
      await onAdded(target);
    } catch (error) {
      replace(status, errorBox(error));
    }
  }

  showPreset();
  return h(
    "form.stack",
    { onsubmit: submit, "aria-label": "Notification target" },
    h(
      "div.grid-fields",
      field({ name: "preset", label: "Kind", control: preset }).node,
      urlField.node,
      keyField.node,
      field({ name: "min_severity", label: "Alerts", control: severity }).node,
    ),
    status,
    h("div.row", h("button.button.primary", { type: "submit" }, "Add and send a test message")),
  );
}

function item(target, { signal, onDeleted }) {
  const result = h("div", { role: "status" });
  const attempt = attemptIn(result, signal);
  const button = h("button.button.small.test", { onclick: test }, "Send test message");

  async function test() {
    button.disabled = true;
    await attempt(async () => {
      const response = await post(apiPath("/v1/notification_targets", target.id, "test"), undefined, { signal });
      if (!response.delivered) throw new Error(sentence(response.error));
      const said = response.answer ? `: ${response.answer}` : "";
      replace(result, h("p.small", `Delivered in ${response.seconds} s, status ${response.status}${said}`));
    });
    button.disabled = false;
  }

  async function deleteTarget() {
    const text = "It gets no further message. Messages that wait for it are dropped.";
    if (!(await confirmAction({ title: `Delete ${target.url}?`, text, action: "Delete the target" }))) return;
    await attempt(async () => {
      await request("DELETE", apiPath("/v1/notification_targets", target.id));
      await onDeleted();
    });
  }

  const health = target.last_error_at > (target.last_success_at ?? 0) ? `Failed: ${target.last_error}` : "";
  const kind = target.format === "standard" ? target.kind : target.format;
  return h(
    "li.stack.tight",
    { "data-target": target.id },
    h(
      "div.row.apart",
      h("span", h("span.strong", kind), ` ${target.url}`),
      h(
        "div.row",
        button,
        !target.is_setting &&
          h(
            "button.button.small.danger",
            {
              "aria-label": `Delete ${target.url}`,
              onclick: deleteTarget,
            },
            "Delete",
          ),
      ),
    ),
    h(
      "p.muted.small",
      `${target.events.join(", ")} · ${target.waiting} waiting · ${target.dead} given up · `,
      target.last_success_at ? ["last success ", timeAgo(target.last_success_at)] : "no message yet",
      target.is_setting && " · one of the service's settings",
    ),
    health && h("p.small", health),
    result,
  );
}
