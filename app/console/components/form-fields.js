/** Form fields: by hand with a label and a place for what is wrong, or made from an OpenAPI schema. */

import { freshId, h, prose, replace } from "../dom.js";
import { decimal } from "../format.js";

/**
 * @typedef {object} Field
 * @property {string} name
 * @property {HTMLElement} node
 * @property {HTMLElement} label
 * @property {any} control
 * @property {(message: string | null) => void} refuse says what is wrong with it, or nothing any more
 */

/**
 * Return a labelled field around a control.
 *
 * @param {{name: string, label: string, control: any, help?: import('../dom.js').Child,
 *   unit?: Node}} options `unit` stands behind the control
 * @returns {Field}
 */
export function field({ name, label, control, help, unit }) {
  const id = control.id || freshId(name.replaceAll(".", "-"));
  control.id = id;
  const wrong = h("p", { class: "wrong small", id: `${id}-wrong`, hidden: true });
  const about = help && h("p", { class: "muted small", id: `${id}-help` }, help);
  if (about) control.setAttribute("aria-describedby", about.id);
  const head = h("label", { for: id }, label);
  return {
    name,
    label: head,
    control,
    node: h("div", { class: "field" }, head, unit ? h("div", { class: "pair" }, control, unit) : control, about, wrong),
    refuse(message) {
      wrong.hidden = !message;
      replace(wrong, message);
      control.toggleAttribute("aria-invalid", Boolean(message));
      if (message) control.setAttribute("aria-invalid", "true");
      control.setAttribute("aria-describedby", [about?.id, message && wrong.id].filter(Boolean).join(" "));
    },
  };
}

/** Return a select; `options` are [value, label] or plain values. */
export function select(options, value, properties = {}) {
  const pairs = options.map((option) => (Array.isArray(option) ? option : [option, option]));
  return h(
    "select",
    { ...properties, value: value ?? pairs[0]?.[0] ?? "" },
    pairs.map(([key, label]) => h("option", { value: key }, label)),
  );
}

/**
 * Return fields for the plain properties (numbers, strings, choices, switches, lists of strings) of an object's
 * schema.
 *
 * @param {any} schema
 * @param {any} openapi the whole document, for references
 * @param {{prefix?: string, skip?: string[]}} [options]
 * @returns {(Field & {value: () => any})[]} `value` is undefined where nothing was given
 */
export function schemaFields(schema, openapi, { prefix = "", skip = [] } = {}) {
  return Object.entries(resolved(schema, openapi).properties ?? {})
    .filter(([name]) => !skip.includes(name))
    .map(([name, property]) => schemaField(name, property, openapi, prefix))
    .filter((made) => made !== null);
}

/** Return a schema without its reference, and without the null that only means "left out". */
export function resolved(schema, openapi) {
  if (!schema) return {};
  if (schema.$ref) {
    const target = schema.$ref
      .split("/")
      .slice(1)
      .reduce((value, key) => value[key], openapi);
    return { ...resolved(target, openapi), ...(schema.description ? { description: schema.description } : {}) };
  }
  const choices = (schema.anyOf ?? schema.oneOf ?? []).filter((one) => one.type !== "null");
  if (choices.length === 1)
    return { ...resolved(choices[0], openapi), ...schema, type: resolved(choices[0], openapi).type };
  return schema;
}

function schemaField(name, property, openapi, prefix) {
  const found = resolved(property, openapi);
  const label = name.replaceAll("_", " ");
  const preset = found.default ?? undefined;
  const common = { "data-param": prefix + name };
  const isNumber = found.type === "integer" || found.type === "number";
  let control;
  let value;
  if (found.enum) {
    control = select([["", preset === undefined ? "as usual" : `${preset} (as usual)`], ...found.enum], "", common);
    value = () => control.value || undefined;
  } else if (isNumber) {
    const low = found.minimum ?? found.exclusiveMinimum;
    const high = found.maximum ?? found.exclusiveMaximum;
    control = h("input", {
      ...common,
      type: "number",
      inputmode: "decimal",
      step: found.type === "integer" ? 1 : "any",
      min: low,
      max: high,
      placeholder: preset === undefined ? "as usual" : String(preset),
    });
    value = () => (control.value === "" ? undefined : Number(control.value));
    found.range =
      low !== undefined && high !== undefined && high < 2 ** 31 - 1
        ? ` ${decimal(low, 6)} to ${decimal(high, 6)}.`
        : "";
  } else if (found.type === "boolean") {
    control = select(
      [
        ["", `${preset ? "yes" : "no"} (as usual)`],
        ["true", "yes"],
        ["false", "no"],
      ],
      "",
      common,
    );
    value = () => (control.value === "" ? undefined : control.value === "true");
  } else if (found.type === "string") {
    control = h("input", {
      ...common,
      type: "text",
      placeholder: preset ?? "",
      spellcheck: "false",
      autocomplete: "off",
    });
    value = () => control.value.trim() || undefined;
  } else if (found.type === "array" && resolved(found.items, openapi).type === "string") {
    control = h("textarea", { ...common, rows: 2, spellcheck: "false", placeholder: "one a line" });
    value = () => {
      const lines = control.value
        .split("\n")
        .map((line) => line.trim())
        .filter(Boolean);
      return lines.length ? lines : undefined;
    };
  } else {
    return null;
  }
  const help = [...prose(found.description), found.range ?? ""];
  return { ...field({ name: prefix + name, label: label[0].toUpperCase() + label.slice(1), control, help }), value };
}

/** Return the values by name of the fields that are shown and were not left alone; undefined if there are none. */
export function given(fields) {
  const pairs = fields
    .filter((one) => !one.node.hidden)
    .map((one) => [one.name.split(".").at(-1), one.value()])
    .filter(([, value]) => value !== undefined);
  return pairs.length ? Object.fromEntries(pairs) : undefined;
}
