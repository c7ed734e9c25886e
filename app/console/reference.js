/** The API reference, drawn from the service's own description: every call, field, limit, status and example. */

import { get } from "./api.js";
import { h, inlineCode as prose, replace } from "./dom.js";
import { resolveSchema as resolved } from "./components/schema-fields.js";
import { errorBox as failure } from "./components/notice.js";
import { themeButton } from "./theme.js";

const main = /** @type {HTMLElement} */ (document.getElementById("main"));
const contents = /** @type {HTMLElement} */ (document.getElementById("contents"));
const DEEPEST = 5; // levels of fields inside fields

themeButton(/** @type {HTMLElement} */ (document.getElementById("theme")));
draw();

async function draw() {
  let spec;
  try {
    spec = await get("/openapi.json");
  } catch (error) {
    replace(main, h("h1", {}, "API reference"), failure(error, { retry: draw }));
    return;
  }
  const groups = grouped(spec);
  const search = h("input", {
    type: "search",
    placeholder: "Find a call or a field",
    "aria-label": "Find a call or a field",
    oninput: () => find(search.value),
  });
  replace(
    contents,
    search,
    h(
      "div",
      { class: "calls" },
      [...groups].map(([tag, calls]) =>
        h(
          "div",
          { "data-group": true },
          h("h2", {}, tag),
          h(
            "ul",
            {},
            calls.map((call) =>
              h(
                "li",
                { "data-call": call.id },
                h("a", { href: `#${call.id}` }, method(call), call.path.replace("/v1", "")),
              ),
            ),
          ),
        ),
      ),
    ),
  );
  replace(
    main,
    h(
      "div",
      { class: "view" },
      h(
        "div",
        { class: "stack tight" },
        h("h1", {}, "API reference"),
        h("p", { class: "lead" }, spec.info.summary),
        h(
          "p",
          { class: "muted" },
          `Version ${spec.info.version}. JSON in and out; times are Unix seconds, lengths characters after Unicode NFC. `,
          "Every error has one shape: ",
          h("code", {}, '{"error": {"type", "code", "message", "param"}}'),
          ".",
        ),
      ),
      [...groups.values()].map((calls) => calls.map((call) => operation(call, spec))),
    ),
  );
  // The address named a place before there was one.
  document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

function grouped(spec) {
  const groups = new Map();
  for (const [path, methods] of Object.entries(spec.paths)) {
    for (const [verb, about] of Object.entries(methods)) {
      const tag = about.tags?.[0] ?? "other";
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push({ verb, path, about, id: about.operationId });
    }
  }
  return groups;
}

/** Show only what has the words in it. */
function find(words) {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  for (const section of /** @type {NodeListOf<HTMLElement>} */ (main.querySelectorAll(".operation"))) {
    const text = section.textContent?.toLowerCase() ?? "";
    const isFound = wanted.every((word) => text.includes(word));
    section.hidden = !isFound;
    contents.querySelector(`[data-call="${CSS.escape(section.id)}"]`)?.toggleAttribute("hidden", !isFound);
  }
  for (const group of /** @type {NodeListOf<HTMLElement>} */ (contents.querySelectorAll("[data-group]")))
    group.hidden = !group.querySelector("[data-call]:not([hidden])");
}

function method({ verb }) {
  return h("span", { class: `method ${verb}` }, verb.toUpperCase().replace("DELETE", "DEL"));
}

function operation(call, spec) {
  const { about, verb, path, id } = call;
  const parameters = about.parameters ?? [];
  const body = about.requestBody?.content ?? {};
  return h(
    "section",
    { class: "card operation", id, "aria-label": `${verb.toUpperCase()} ${path}` },
    h("h2", {}, h("span", { class: `method ${verb}` }, verb.toUpperCase()), h("a", { href: `#${id}` }, path)),
    h("p", {}, prose(about.description ?? about.summary)),
    parameters.length > 0 && [
      h("h3", {}, "Parameters"),
      h(
        "ul",
        { class: "members" },
        parameters.map((one) =>
          member(one.name, { ...one.schema, description: one.description ?? one.schema?.description }, spec, {
            isNeeded: one.required,
            where: one.in,
          }),
        ),
      ),
    ],
    Object.entries(body).map(([kind, content]) => [
      h("h3", {}, "Body, ", h("code", {}, kind)),
      about.requestBody.description && h("p", { class: "muted" }, prose(about.requestBody.description)),
      fieldsOf(content.schema, spec),
      exampleOf(
        content,
        spec,
        `curl ${verb === "post" ? "" : `-X ${verb.toUpperCase()} `}${location.origin}${path.replace(/\{(\w+)\}/g, "$1")}`,
        kind,
      ),
    ]),
    h("h3", {}, "Answers"),
    h(
      "ul",
      { class: "members" },
      Object.entries(about.responses)
        .sort()
        .map(([status, answer]) => response(status, answer, spec)),
    ),
  );
}

function response(status, answer, spec) {
  const contents = Object.entries(answer.content ?? {});
  const isError = Number(status) >= 400;
  return h(
    "li",
    {},
    h(
      "div",
      { class: "member-head" },
      h("span", { class: "status" }, status),
      h("span", {}, prose(answer.description)),
    ),
    !isError &&
      contents.map(([kind, content]) =>
        h(
          "details",
          { class: "small" },
          h("summary", {}, kind),
          fieldsOf(content.schema, spec),
          exampleOf(content, spec),
        ),
      ),
  );
}

function fieldsOf(schema, spec, depth = 0) {
  const found = inner(schema, spec);
  const entries = Object.entries(found.properties ?? {});
  if (!entries.length || depth > DEEPEST) return null;
  return h(
    "ul",
    { class: "members" },
    entries.map(([name, property]) =>
      member(name, property, spec, { isNeeded: found.required?.includes(name) && !("default" in property), depth }),
    ),
  );
}

/** A list is described by what it is a list of. */
function inner(schema, spec) {
  const found = resolved(schema, spec);
  return found.type === "array" ? inner(found.items, spec) : found;
}

function member(name, schema, spec, { isNeeded = false, where = "", depth = 0 }) {
  const found = resolved(schema, spec);
  return h(
    "li",
    {},
    h(
      "div",
      { class: "member-head" },
      h("span", { class: "name" }, name),
      h("span", { class: "type" }, typeOf(schema, spec), where && `, in the ${where}`),
      isNeeded && h("span", { class: "needed" }, "required"),
      found.default !== undefined &&
        found.default !== null &&
        typeof found.default !== "object" &&
        h("span", { class: "type" }, "default ", h("code", {}, JSON.stringify(found.default))),
    ),
    (schema.description ?? found.description) &&
      h("p", { class: "small" }, prose(schema.description ?? found.description)),
    fieldsOf(schema, spec, depth + 1),
  );
}

/** A type in words, with its limits: "integer, 1 to 64, or null". */
function typeOf(schema, spec) {
  if (!schema) return "anything";
  if (schema.$ref) return typeOf(resolved(schema, spec), spec);
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return choices.map((one) => typeOf(one, spec)).join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  if (schema.type === "array")
    return `list of ${typeOf(schema.items, spec)}${limits(schema.minItems, schema.maxItems, "items")}`;
  if (schema.type === "string") return `string${limits(schema.minLength, schema.maxLength, "characters")}`;
  return `${schema.type ?? "anything"}${limits(schema.minimum, schema.maximum)}${
    schema.exclusiveMinimum === undefined ? "" : `, above ${schema.exclusiveMinimum}`
  }${schema.exclusiveMaximum === undefined ? "" : `, below ${schema.exclusiveMaximum}`}`;
}

function limits(low, high, unit = "") {
  const what = unit && ` ${unit}`;
  const number = (value) => value.toLocaleString("en", { maximumFractionDigits: 6 });
  if (low !== undefined && high !== undefined) return `, ${number(low)} to ${number(high)}${what}`;
  if (high !== undefined) return `, at most ${number(high)}${what}`;
  return low === undefined ? "" : `, at least ${number(low)}${what}`;
}

/** An example, and for a request the command that sends it. */
function exampleOf(content, spec, command = "", kind = "") {
  const schema = resolved(content.schema, spec);
  const example = content.example ?? Object.values(content.examples ?? {})[0]?.value ?? schema.examples?.[0];
  if (example === undefined) return null;
  const text = typeof example === "string" ? example : JSON.stringify(example, null, 2);
  const shown = command && kind === "application/json" ? `${command} --json '${text.replaceAll("'", "'\\''")}'` : text;
  const said = h("span", { role: "status", class: "small muted" });
  return h(
    "div",
    { class: "stack tight" },
    h(
      "div",
      { class: "example-head" },
      h("span", { class: "small muted" }, "Example"),
      h(
        "span",
        { class: "row" },
        said,
        h(
          "button",
          {
            type: "button",
            class: "link small",
            onclick: () =>
              navigator.clipboard.writeText(shown).then(
                () => {
                  said.textContent = "copied";
                },
                () => {
                  said.textContent = "mark it and copy";
                },
              ),
          },
          "Copy",
        ),
      ),
    ),
    h("pre", { class: "example", tabindex: 0 }, shown),
  );
}
