/** Form fields: a control with its label, help and error message. */

import { h, replace, uniqueId } from "../dom.js";

/**
 * @typedef {object} Field
 * @property {string} name
 * @property {HTMLElement} node
 * @property {HTMLElement} label
 * @property {any} control
 * @property {(message: string | null) => void} setError shows what is wrong with the value; null clears it
 */

/**
 * Return a field around a control.
 *
 * @param {{name: string, label: string, control: any, help?: import('../dom.js').Child,
 *   unit?: Node}} options `unit` is put behind the control
 * @returns {Field}
 */
export function field({ name, label: labelText, control, help: helpText, unit }) {
  const id = control.id || uniqueId(name.replaceAll(".", "-"));
  control.id = id;
  const error = h("p.field-error.small", { id: `${id}-error`, hidden: true });
  const help = helpText && h("p.muted.small", { id: `${id}-help` }, helpText);
  if (help) control.setAttribute("aria-describedby", help.id);
  const label = h("label", { for: id }, labelText);
  const input = unit ? h("div.input-with-unit", control, unit) : control;
  return {
    name,
    label,
    control,
    node: h("div.field", label, input, help, error),
    setError(message) {
      error.hidden = !message;
      replace(error, message);
      control.toggleAttribute("aria-invalid", Boolean(message));
      if (message) control.setAttribute("aria-invalid", "true");
      control.setAttribute("aria-describedby", [help?.id, message && error.id].filter(Boolean).join(" "));
    },
  };
}

/** Return a range field that shows its value behind the label. `show` sets the text of the value. */
export function rangeField({ name, label, help, ...attributes }) {
  const control = h("input", { type: "range", ...attributes });
  const made = field({ name, label, control, help });
  const output = h("output.number.strong");
  made.label.append(": ", output);
  return {
    ...made,
    show(text) {
      output.textContent = text;
      control.setAttribute("aria-valuetext", text);
    },
  };
}

/** Return a select; `options` are [value, label] or values that are their own labels. */
export function select(options, value, properties = {}) {
  const pairs = options.map((option) => (Array.isArray(option) ? option : [option, option]));
  return h(
    "select",
    { ...properties, value: value ?? pairs[0]?.[0] ?? "" },
    pairs.map(([key, label]) => h("option", { value: key }, label)),
  );
}
