/**
 * The API reference: Swagger UI on the service's OpenAPI document, with a search over operations and fields.
 *
 * The key of this browser tab is shared with the console. It is sent in a header and never in a URL.
 */

import { apiKey, setApiKey } from "./api-key.js";
import { get } from "./api.js";
import { errorBox } from "./components/notice.js";
import { h, replace } from "./dom.js";
import { themeButton } from "./theme.js";

const SCHEME = "API key";
const JSON_TYPE = "application/json";

const root = document.documentElement;
const main = /** @type {HTMLElement} */ (document.getElementById("main"));
const reference = /** @type {HTMLElement} */ (document.getElementById("reference"));
const intro = /** @type {HTMLElement} */ (document.getElementById("intro"));
const rooms = /** @type {HTMLElement} */ (document.getElementById("rooms"));
const search = /** @type {HTMLInputElement} */ (document.getElementById("search"));
const found = /** @type {HTMLElement} */ (document.getElementById("found"));

themeButton(/** @type {HTMLElement} */ (document.getElementById("theme")));
followTheme();
new MutationObserver(followTheme).observe(root, { attributeFilter: ["data-theme"] });

document.getElementById("skip")?.addEventListener("click", (event) => {
  event.preventDefault(); // the hash names an operation
  search.focus();
});
window.addEventListener("keydown", (event) => {
  const isWriting = event.target instanceof Element && event.target.closest("input, textarea, select");
  if (event.key !== "/" || isWriting || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  search.focus();
});

show();

async function show() {
  let spec;
  try {
    spec = await get("/openapi.json");
  } catch (error) {
    replace(reference, errorBox(error, { retry: show }));
    return;
  } finally {
    main.removeAttribute("aria-busy");
  }
  intro.textContent = `${spec.info.summary} Version ${spec.info.version}.`;
  // All errors have the one shape that the page shows above: without it at each status an operation fits a screen.
  for (const response of errorResponses(spec)) delete response.content;
  const texts = searchTexts(spec);
  listRooms(spec);
  const ui = /** @type {any} */ (window).SwaggerUIBundle({
    spec,
    domNode: reference,
    deepLinking: true,
    displayRequestDuration: true,
    defaultModelsExpandDepth: -1,
    filter: true,
    syntaxHighlight: { activated: false },
    validatorUrl: "none", // by default the document's address is sent to a public validator
    plugins: [searchPlugin(texts), keyPlugin, partsPlugin, resolverPlugin, examplesPlugin(spec)],
    onComplete: () => {
      const key = apiKey();
      if (key && spec.components.securitySchemes) ui.preauthorizeApiKey(SCHEME, key);
    },
  });
  search.addEventListener("input", () => {
    ui.layoutActions.updateFilter(search.value);
    const count = matching(texts, search.value).size;
    found.textContent = search.value.trim() ? `${count} of ${texts.size} operations` : "";
  });
}

/** Fill the menu: a link to the operations of each tag. */
function listRooms(spec) {
  const link = ({ name, description }) => {
    const scroll = () =>
      document.querySelector(`#reference [data-tag="${CSS.escape(name)}"]`)?.scrollIntoView({ behavior: "smooth" });
    return h("li", h("button", { title: description, onclick: scroll }, name));
  };
  replace(rooms, h("ul", spec.tags.map(link)));
}

function errorResponses(spec) {
  return Object.values(spec.paths)
    .flatMap((methods) => Object.values(methods))
    .flatMap(({ responses }) => Object.entries(responses))
    .filter(([status]) => Number(status) >= 400)
    .map(([, response]) => response);
}

/** Give Swagger UI the page's theme. */
function followTheme() {
  root.classList.toggle("dark-mode", root.dataset.theme === "dark");
}

/* Search */

/**
 * Return a text in lower case for each "method path": its path, summary and descriptions, and the names and
 * descriptions of all fields that a request or a response may have.
 *
 * @returns {Map<string, string>}
 */
function searchTexts(spec) {
  const texts = new Map();
  for (const [path, methods] of Object.entries(spec.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const words = [method, path, ...wordsOf(operation, spec, new Set())];
      texts.set(`${method} ${path}`, words.join("\n").toLowerCase());
    }
  }
  return texts;
}

/** Return the keys and strings of a value and of the schemas it refers to, each schema once. */
function wordsOf(value, spec, schemas) {
  if (typeof value === "string") return [value];
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([key, inner]) => {
    if (key !== "$ref") return [key, ...wordsOf(inner, spec, schemas)];
    if (schemas.has(inner)) return [];
    schemas.add(inner);
    return wordsOf(referenced(inner, spec), spec, schemas);
  });
}

function referenced(reference, spec) {
  return within(reference.slice(2).split("/"), spec);
}

function within(path, value) {
  return path.reduce((found, name) => found?.[name], value);
}

/** Return which "method path" have every word of `phrase`. @returns {Set<string>} */
function matching(texts, phrase) {
  const words = phrase.toLowerCase().split(/\s+/);
  return new Set([...texts.keys()].filter((id) => words.every((word) => texts.get(id).includes(word))));
}

/* Plugins of Swagger UI */

/** Filters by `texts`, where Swagger UI looks at tags and paths only; the search box and the head are the page's. */
function searchPlugin(texts) {
  return () => ({
    components: { FilterContainer: () => null, InfoContainer: () => null },
    fn: {
      opsFilter: (groups, phrase) => {
        const ids = matching(texts, phrase);
        return groups
          .map((group) =>
            group.update("operations", (operations) =>
              operations.filter((one) => ids.has(`${one.get("method")} ${one.get("path")}`)),
            ),
          )
          .filter((group) => group.get("operations").size > 0);
      },
    },
  });
}

/** Keeps a key that is given or removed in the Authorize dialog for this browser tab. */
function keyPlugin() {
  return {
    statePlugins: {
      auth: {
        wrapActions: {
          authorize: (authorize) => (given) => {
            setApiKey(given[SCHEME]?.value || null);
            return authorize(given);
          },
          logout: (logout) => (names) => {
            setApiKey(null);
            return logout(names);
          },
        },
      },
    },
  };
}

/** Parts that need no markup from text, which the page's policy forbids, and that a keyboard and a reader can use. */
function partsPlugin({ React }) {
  const e = React.createElement;
  const paragraph = (text, key) =>
    e("p", { key }, ...text.split("`").map((part, index) => (index % 2 ? e("code", { key: index }, part) : part)));
  return {
    components: {
      CloseIcon: () => e("span", {}, "Close"),
      DeepLink: ({ text }) => e("span", {}, text), // a link inside a button; the button sets the hash too
      Markdown: ({ source }) =>
        source ? e("div", { className: "renderedMarkdown" }, source.split("\n\n").map(paragraph)) : null,
      PlainTextViewer: ({ className, children }) => e("pre", { className, tabIndex: 0 }, children),
    },
    wrapComponents: {
      TextArea: (Original) => (props) => e(Original, { "aria-label": "Request body", ...props }),
    },
  };
}

/** Shows each operation's call by curl and Python, above its responses. */
function examplesPlugin(spec) {
  return ({ React }) => {
    const e = React.createElement;
    const block = (name, code) =>
      e("div", { key: name, className: "example" }, e("h5", {}, name), e("pre", { tabIndex: 0 }, code));
    return {
      wrapComponents: {
        responses: (Original) => (props) => {
          const call = exampleCall(spec, props.path, props.method);
          const examples = e("div", { className: "examples" }, block("curl", curl(call)), block("Python", python(call)));
          return e(React.Fragment, {}, examples, e(Original, props));
        },
      },
    };
  };
}

/** Return what an example of an operation sends; names in capitals are for the reader to replace. */
function exampleCall(spec, path, method) {
  const operation = spec.paths[path][method];
  const needed = (operation.parameters ?? []).filter((one) => one.required && one.in === "query");
  const query = needed.map(({ name }) => `${name}=${name.toUpperCase()}`).join("&");
  const url = location.origin + path.replace(/{(\w+)}/g, (_, name) => name.toUpperCase()) + (query && `?${query}`);
  const [type, content] = Object.entries(operation.requestBody?.content ?? {})[0] ?? [];
  return { method, url, type, body: type === JSON_TYPE ? exampleOf(content, spec) : null, hasKey: !!operation.security };
}

function exampleOf({ example, examples, schema }, spec) {
  const first = Object.values(examples ?? {})[0]?.value;
  const { examples: ofSchema, example: one } = schema?.$ref ? referenced(schema.$ref, spec) : (schema ?? {});
  return example ?? first ?? one ?? ofSchema?.[0] ?? {};
}

/** Return a call as a command of a shell. */
function curl({ method, url, type, body, hasKey }) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const sent = {
    [JSON_TYPE]: body && `--json ${quoted(JSON.stringify(body))}`,
    "multipart/form-data": "--form purpose=batch --form file=@FILE",
  };
  const isDefault = method === (type ? "post" : "get");
  const parts = [
    `curl${isDefault ? "" : ` --request ${method.toUpperCase()}`} ${quoted(url)}`,
    hasKey && `--header "Authorization: Bearer $NEXTCHAR_API_KEY"`,
    type && (sent[type] ?? `--header 'Content-Type: ${type}' --data-binary @FILE`),
  ];
  return parts.filter(Boolean).join(" \\\n  ");
}

/** Return a call in Python. */
function python({ method, url, type, body, hasKey }) {
  const sent = { [JSON_TYPE]: `json=${literal(body)}`, "multipart/form-data": `data={"purpose": "batch"}, files={"file": open("FILE", "rb")}` };
  const headers = [
    hasKey && `"Authorization": f"Bearer {os.environ['NEXTCHAR_API_KEY']}"`,
    type && !sent[type] && `"Content-Type": ${JSON.stringify(type)}`,
  ].filter(Boolean);
  const options = [
    JSON.stringify(url),
    headers.length && `headers={${headers.join(", ")}}`,
    type && (sent[type] ?? `content=open("FILE", "rb")`),
  ].filter(Boolean);
  const call = `httpx.${method}(${options.join(", ")})`;
  const lines = method === "delete" && type ? `httpx.request("DELETE", ${options.join(", ")})` : call;
  return `import httpx${hasKey ? ", os" : ""}\n\nresponse = ${lines}\nprint(response.text)`;
}

/** Return a value of JSON as Python writes it. */
function literal(value) {
  if (value === null || typeof value === "boolean") return { null: "None", true: "True", false: "False" }[String(value)];
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${literal(one)}`).join(", ")}}`;
}

/** Resolves references; Swagger UI's own resolver converts the whole document for each operation, for seconds. */
function resolverPlugin() {
  const resolve = async (spec, path) => ({ spec: dereferenced(within(path, spec), spec), errors: [] });
  return { fn: { resolveSubtree: resolve } };
}

/** Return a value with what it refers to in place; a schema inside itself is left empty. */
function dereferenced(value, spec, outer = []) {
  if (Array.isArray(value)) return value.map((one) => dereferenced(one, spec, outer));
  if (typeof value !== "object" || value === null) return value;
  const { $ref, ...own } = value;
  const entries = Object.entries(own).map(([key, one]) => [key, dereferenced(one, spec, outer)]);
  if ($ref === undefined) return Object.fromEntries(entries);
  if (outer.includes($ref)) return {};
  return { ...dereferenced(referenced($ref, spec), spec, [...outer, $ref]), ...Object.fromEntries(entries) };
}
