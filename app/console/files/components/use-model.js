/** "Use this model": a code snippet for each kind of program that does with the model what its kind is for. */

import { apiKey } from "../api-key.js";
import { apiPath, get } from "../api.js";
import { h, replace } from "../dom.js";

const STORAGE_KEY = "nextchar.use-model"; // of the tab selected last, in localStorage
const KEY_PLACEHOLDER = "YOUR_API_KEY";
const MAX_PROMPT_CHARACTERS = 24;

/** What a call is named, by the kind of the model's text, and the field of its body that the prompt is in. */
const CALLS = {
  text: { call: "complete", body: (prompt) => `{"prompt": ${quoted(prompt)}}` },
  records: { call: "suggest", body: (prompt) => `{"prefix": ${quoted(prompt)}}` },
  log: { call: "score", body: (prompt) => `{"lines": [${quoted(prompt)}]}` },
};

/**
 * @typedef {{model: string, url: string, prompt: string, key: string | null, kind: "text" | "records" | "log"}} Values
 *   `key` is null without API keys; `kind` decides which call the code makes
 * @typedef {{id: string, label: string, code: (values: Values) => string, runsInBrowser?: boolean,
 *   kinds?: string[]}} Snippet
 */

/** @type {Snippet[]} */
const SNIPPETS = [
  {
    id: "html",
    label: "HTML",
    runsInBrowser: true,
    kinds: ["text", "records"],
    code: ({ model, url, key, kind }) => {
      const attributes = `data-nextchar="${model}"${kind === "records" ? ' data-nextchar-mode="list"' : ""}`;
      const field = `${attributes}${key ? ` data-nextchar-key="${key}"` : ""}`;
      return [
        `<script type="module" src="${url}/clients/js/nextchar.js"></script>`,
        kind === "records" ? `<input ${field}>` : `<textarea ${field}></textarea>`,
      ].join("\n");
    },
  },
  {
    id: "javascript",
    label: "JavaScript",
    runsInBrowser: true,
    code: ({ model, url, prompt, key, kind }) =>
      [
        `import { Nextchar } from "${url}/clients/js/nextchar.js";`,
        "",
        `const client = new Nextchar(${key ? `{ key: "${key}" }` : ""});`,
        `const response = await client.${CALLS[kind].call}("${model}", ${quoted(prompt)});`,
        {
          text: "console.log(response.completions[0].text);",
          records: "for (const { text } of response.suggestions) console.log(text);",
          log: "console.log(response.anomalous, response.p_value);",
        }[kind],
      ].join("\n"),
  },
  {
    id: "python",
    label: "Python",
    code: ({ model, url, prompt, key, kind }) =>
      [
        "# pip install nextchar",
        "from nextchar import Client",
        "",
        `with Client("${url}"${key ? `, api_key="${key}"` : ""}) as client:`,
        ...{
          text: [
            `    response = client.complete("${model}", ${quoted(prompt)})`,
            '    print(response["completions"][0]["text"])',
          ],
          records: [
            `    response = client.suggest("${model}", ${quoted(prompt)})`,
            '    print([one["text"] for one in response["suggestions"]])',
          ],
          log: [
            `    for line in client.score_lines("${model}", open("app.log"), only="anomalous"):`,
            '        print(line["p_value"], line["text"])',
          ],
        }[kind],
      ].join("\n"),
  },
  {
    id: "curl",
    label: "curl",
    code: ({ model, url, prompt, key, kind }) =>
      [
        `curl ${url}/v1/models/${model}/${CALLS[kind].call}`,
        ...(key ? [`-H 'Authorization: Bearer ${key}'`] : []),
        "-H 'Content-Type: application/json'",
        `-d ${shellQuoted(CALLS[kind].body(prompt))}`,
      ].join(" \\\n  "),
  },
  {
    id: "command-line",
    label: "Command line",
    code: ({ model, url, prompt, key, kind }) =>
      [
        "# pip install nextchar",
        `export NEXTCHAR_SERVER=${url}`,
        ...(key ? [`export NEXTCHAR_API_KEY=${key}`] : []),
        kind === "log"
          ? `tail -f app.log | nextchar score --model ${model}`
          : `nextchar ${CALLS[kind].call} ${model} ${prompt.startsWith("-") ? "-- " : ""}${shellQuoted(prompt)}`,
      ].join("\n"),
  },
  {
    id: "openai",
    label: "openai SDK",
    kinds: ["text"],
    code: ({ model, url, prompt, key }) =>
      [
        "# pip install openai",
        "from openai import OpenAI",
        "",
        `client = OpenAI(base_url="${url}/v1", api_key="${key ?? "none"}")`,
        `response = client.completions.create(model="${model}", prompt=${quoted(prompt)}, max_tokens=40)`,
        "print(response.choices[0].text)",
      ].join("\n"),
  },
];

/**
 * Return a card with one tab per snippet.
 *
 * @param {{id: string, name: string, kind: string | null, corpus: string | null, characters: string}} model
 * @param {{signal: AbortSignal}} options
 */
export async function useModel(model, { signal }) {
  const kind = model.kind === "records" || model.kind === "log" ? model.kind : "text";
  const snippets = SNIPPETS.filter(({ kinds }) => !kinds || kinds.includes(kind));
  const values = {
    model: model.id,
    kind,
    url: location.origin,
    prompt: await examplePrompt(model, signal),
    key: apiKey() === null ? null : KEY_PLACEHOLDER,
  };
  const tabs = snippets.map((snippet) =>
    h(
      "button",
      {
        role: "tab",
        id: `use-model-${snippet.id}`,
        "aria-controls": "use-model-panel",
        onclick: () => select(snippet),
        onkeydown: (event) => selectByKey(event, snippet),
      },
      snippet.label,
    ),
  );
  const panel = h("div.code-panel", { role: "tabpanel", id: "use-model-panel", tabindex: 0 });

  function show(selected) {
    snippets.forEach((snippet, index) => {
      tabs[index].setAttribute("aria-selected", String(snippet === selected));
      tabs[index].tabIndex = snippet === selected ? 0 : -1;
    });
    panel.setAttribute("aria-labelledby", `use-model-${selected.id}`);
    replace(panel, codeBlock(selected.code(values)), notes(selected, values));
  }

  function select(snippet) {
    show(snippet);
    storeTab(snippet.id);
  }

  function selectByKey(event, snippet) {
    const last = snippets.length - 1;
    const index = snippets.indexOf(snippet);
    const next = {
      ArrowLeft: index === 0 ? last : index - 1,
      ArrowRight: index === last ? 0 : index + 1,
      Home: 0,
      End: last,
    }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    select(snippets[next]);
    tabs[next].focus();
  }

  show(snippets.find((snippet) => snippet.id === storedTab()) ?? snippets[0]);
  return h(
    "section.card.stack",
    { "aria-labelledby": "use-model-title" },
    h("h2", { id: "use-model-title" }, "Use this model"),
    h("div.code-tabs", { role: "tablist", "aria-labelledby": "use-model-title" }, tabs),
    panel,
  );
}

function codeBlock(code) {
  const pre = h("pre", code);
  const status = h("span.small.muted", { role: "status" });
  const onclick = async () => {
    status.textContent = (await copy(code)) ? "Copied" : "Selected: copy it with Ctrl+C";
    if (status.textContent !== "Copied") getSelection()?.selectAllChildren(pre);
  };
  return [pre, h("div.row", h("button.button.small", { onclick }, "Copy"), status)];
}

function notes(snippet, { model, key }) {
  const code = (text) => h("code", text);
  const note = (...children) => h("p.small.muted", children);
  return [
    key &&
      note(
        "Replace ",
        code(KEY_PLACEHOLDER),
        " by an API key with the scope “complete”. ",
        snippet.runsInBrowser &&
          "Everyone who can open the page can read the key, so use a key that has only this scope.",
      ),
    snippet.runsInBrowser &&
      note(
        "For a page of another origin than ",
        code(location.origin),
        ", start the service with ",
        code(`NEXTCHAR_ALLOWED_ORIGINS=${location.protocol}//localhost:3000`),
        " (the origin of your page).",
      ),
    note(code(model), " is this version, ", code(model.split("@")[0]), " the newest one."),
  ];
}

/** Return the first words of the model's corpus, or one character of its vocabulary if the corpus cannot be read. */
async function examplePrompt({ corpus, characters, kind }, signal) {
  const known = Array.from(characters);
  const letter = known.find((one) => /\p{L}/u.test(one)) ?? known[0] ?? "";
  if (corpus === null) return letter;
  const sample = await get(apiPath("/v1/corpora", corpus), { signal }).then(
    (found) => found.sample,
    () => "", // deleted, or not permitted for this key
  );
  const line = sample.split(/\r?\n/).find((one) => one.trim()) ?? letter;
  if (kind === "log") return line.trim();
  const start = Array.from(line.trim()).slice(0, MAX_PROMPT_CHARACTERS).join("");
  const words = start.slice(0, Math.max(start.lastIndexOf(" "), 0));
  return line.trim() === start ? start.slice(0, Math.ceil(start.length / 2)) : words || start;
}

/** Return a string literal that is valid in JSON, JavaScript and Python. */
function quoted(text) {
  return JSON.stringify(text);
}

function shellQuoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Copy a text; return whether it worked. The clipboard API is not available over plain HTTP to another host. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = h("textarea.visually-hidden", { value: text, "aria-hidden": "true", tabindex: -1 });
    const focused = document.activeElement;
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    if (focused instanceof HTMLElement) focused.focus();
    return isCopied;
  }
}

function storeTab(id) {
  try {
    localStorage.setItem(STORAGE_KEY, id);
  } catch {
    // Storage is blocked: the first tab is shown again next time.
  }
}

function storedTab() {
  try {
    return localStorage.getItem(STORAGE_KEY);
  } catch {
    return null;
  }
}
