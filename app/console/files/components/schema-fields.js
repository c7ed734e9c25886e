/** Form fields made from an OpenAPI schema, so that a new option of the API needs no change here. */

import { h, inlineCode } from "../dom.js";
import { decimal } from "../format.js";
import { field, select } from "./form-fields.js";

/**
 * @typedef {import('./form-fields.js').Field & {value: () => any}} SchemaField `value` returns undefined for an empty
 *   field
 */

/**
 * Return fields for the number, string, enum, boolean and list-of-strings properties of an object's schema.
 *
 * @param {any} schema
 * @param {any} openapi the whole document, for references
 * @param {{prefix?: string, skip?: string[], labels?: Record<string, string>}} [options] `labels` replace those made
 *   from property names
 * @returns {SchemaField[]}
 */
export function schemaFields(schema, openapi, { prefix = "", skip = [], labels = {} } = {}) {
  return Object.entries(resolveSchema(schema, openapi).properties ?? {})
    .filter(([name]) => !skip.includes(name))
    .map(([name, property]) => schemaField(name, resolveSchema(property, openapi), { openapi, prefix, labels }))
    .filter((made) => made !== null);
}

/** Return a schema with its reference followed and without the null alternative of optional properties. */
export function resolveSchema(schema, openapi) {
  if (!schema) return {};
  if (schema.$ref) {
    const target = schema.$ref
      .split("/")
      .slice(1)
      .reduce((value, key) => value[key], openapi);
    return { ...resolveSchema(target, openapi), ...(schema.description ? { description: schema.description } : {}) };
  }
  const alternatives = (schema.anyOf ?? schema.oneOf ?? []).filter((one) => one.type !== "null");
  // Of a word such as "auto" or a list, the list: leaving the field empty is the word.
  const typed = alternatives.length === 1 ? alternatives[0] : alternatives.find((one) => one.type === "array");
  if (typed) {
    const only = resolveSchema(typed, openapi);
    return { ...only, ...schema, type: only.type };
  }
  return schema;
}

/** Return the values by property name of the visible fields that are not empty; undefined if there are none. */
export function filledValues(fields) {
  const pairs = fields
    .filter((one) => !one.node.hidden)
    .map((one) => [one.name.split(".").at(-1), one.value()])
    .filter(([, value]) => value !== undefined);
  return pairs.length ? Object.fromEntries(pairs) : undefined;
}

function schemaField(name, schema, { openapi, prefix, labels }) {
  const made = controlFor(schema, openapi);
  if (!made) return null;
  const words = name.replaceAll("_", " ");
  const label = labels[name] ?? words[0].toUpperCase() + words.slice(1);
  made.control.setAttribute("data-param", prefix + name);
  const help = [...inlineCode(schema.description), rangeOf(schema)];
  return { ...field({ name: prefix + name, label, control: made.control, help }), value: made.value };
}

/** Return the control for a schema and a function that returns its value, or null if the type is not supported. */
function controlFor(schema, openapi) {
  const hasDefault = schema.default !== undefined && schema.default !== null;
  if (schema.enum) {
    const control = select([["", hasDefault ? `Default (${schema.default})` : "Default"], ...schema.enum], "");
    return { control, value: () => control.value || undefined };
  }
  switch (schema.type) {
    case "integer":
    case "number": {
      const control = h("input", {
        type: "number",
        inputmode: "decimal",
        step: schema.type === "integer" ? 1 : "any",
        min: minimumOf(schema),
        max: maximumOf(schema),
        placeholder: hasDefault ? String(schema.default) : "Default",
      });
      return { control, value: () => (control.value === "" ? undefined : Number(control.value)) };
    }
    case "boolean": {
      const options = [
        ["", typeof schema.default === "boolean" ? `Default (${schema.default ? "yes" : "no"})` : "Default"],
        ["true", "yes"],
        ["false", "no"],
      ];
      const control = select(options, "");
      return { control, value: () => (control.value === "" ? undefined : control.value === "true") };
    }
    case "string": {
      const control = h("input", {
        type: "text",
        placeholder: schema.default ?? "",
        spellcheck: "false",
        autocomplete: "off",
      });
      return { control, value: () => control.value.trim() || undefined };
    }
    case "array": {
      if (resolveSchema(schema.items, openapi).type !== "string") return null;
      const control = h("textarea", { rows: 2, spellcheck: "false", placeholder: "One per line" });
      return { control, value: () => nonEmptyLines(control.value) };
    }
    default:
      return null;
  }
}

/** Return a sentence about the range of a number, or "" where it has no useful bounds. */
function rangeOf(schema) {
  const [low, high] = [minimumOf(schema), maximumOf(schema)];
  if (low === undefined || high === undefined || high >= 2 ** 31 - 1) return "";
  return ` ${decimal(low, 6)} to ${decimal(high, 6)}.`;
}

const minimumOf = (schema) => schema.minimum ?? schema.exclusiveMinimum;
const maximumOf = (schema) => schema.maximum ?? schema.exclusiveMaximum;

function nonEmptyLines(text) {
  const lines = text
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean);
  return lines.length ? lines : undefined;
}
