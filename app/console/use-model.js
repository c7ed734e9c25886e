/** "Use this model": code that completes a prompt with a model, for each kind of program, ready to be copied. */

import { apiKey, get } from "./api.js";
import { h, replace } from "./dom.js";

const CHOICE = "nextchar.use-model"; // the tab that was chosen last, in localStorage
const KEY = "YOUR_API_KEY";
const MAX_PROMPT = 24; // characters

/**
 * @typedef {{model: string, url: string, prompt: string, key: string | null}} Use
 * @typedef {{id: string, label: string, code: (use: Use) => string, isForPages?: boolean}} Kind
 */

/** @type {Kind[]} */
const KINDS = [
  {
    id: "html",
    label: "HTML",
    isForPages: true,
    code: ({ model, url, key }) =>
      [
        `<script type="module" src="${url}/clients/js/nextchar.js"></script>`,
        `<textarea data-nextchar="${model}"${key ? ` data-nextchar-key="${key}"` : ""}></textarea>`,
      ].join("\n"),
  },
  {
    id: "javascript",
    label: "JavaScript",
    isForPages: true,
    code: ({ model, url, prompt, key }) =>
      [
        `import { Nextchar } from "${url}/clients/js/nextchar.js";`,
        "",
        `const client = new Nextchar(${key ? `{ key: "${key}" }` : ""});`,
        `const answer = await client.complete("${model}", ${quoted(prompt)});`,
        "console.log(answer.completions[0].text);",
      ].join("\n"),
  },
  {
    id: "python",
    label: "Python",
    code: ({ model, url, prompt, key }) =>
      [
        "# pip install nextchar",
        "from nextchar import Client",
        "",
        `with Client("${url}"${key ? `, api_key="${key}"` : ""}) as client:`,
        `    answer = client.complete("${model}", ${quoted(prompt)})`,
        '    print(answer["completions"][0]["text"])',
      ].join("\n"),
  },
  {
    id: "curl",
    label: "curl",
    code: ({ model, url, prompt, key }) =>
      [
        `curl ${url}/v1/models/${model}/complete`,
        ...(key ? [`-H 'Authorization: Bearer ${key}'`] : []),
        "-H 'Content-Type: application/json'",
        `-d ${shellQuoted(`{"prompt": ${quoted(prompt)}}`)}`,
      ].join(" \\\n  "),
  },
  {
    id: "command-line",
    label: "Command line",
    code: ({ model, url, prompt, key }) =>
      [
        "# pip install nextchar",
        `export NEXTCHAR_SERVER=${url}`,
        ...(key ? [`export NEXTCHAR_API_KEY=${key}`] : []),
        `nextchar complete ${model} ${prompt.startsWith("-") ? "-- " : ""}${shellQuoted(prompt)}`,
      ].join("\n"),
  },
  {
    id: "openai",
    label: "openai SDK",
    code: ({ model, url, prompt, key }) =>
      [
        "# pip install openai",
        "from openai import OpenAI",
        "",
        `client = OpenAI(base_url="${url}/v1", api_key="${key ?? "none"}")`,
        `answer = client.completions.create(model="${model}", prompt=${quoted(prompt)}, max_tokens=40)`,
        "print(answer.choices[0].text)",
      ].join("\n"),
  },
];

/**
 * Return a card with a tab of code for each kind of program.
 *
 * @param {{id: string, name: string, corpus: string | null, characters: string}} model
 * @param {{signal: AbortSignal}} options
 */
export async function useModel(model, { signal }) {
  const use = {
    model: model.id,
    url: location.origin,
    prompt: await examplePrompt(model, signal),
    key: apiKey() === null ? null : KEY,
  };
  const tabs = KINDS.map((kind) =>
    h(
      "button",
      {
        type: "button",
        role: "tab",
        id: `use-model-${kind.id}`,
        "aria-controls": "use-model-panel",
        onclick: () => choose(kind),
        onkeydown: (event) => move(event, kind),
      },
      kind.label,
    ),
  );
  const panel = h("div", { class: "code-panel", role: "tabpanel", id: "use-model-panel", tabindex: 0 });

  function show(chosen) {
    KINDS.forEach((kind, index) => {
      tabs[index].setAttribute("aria-selected", String(kind === chosen));
      tabs[index].tabIndex = kind === chosen ? 0 : -1;
    });
    panel.setAttribute("aria-labelledby", `use-model-${chosen.id}`);
    replace(panel, codeBlock(chosen.code(use)), notes(chosen, use));
  }

  function choose(kind) {
    show(kind);
    remember(kind.id);
  }

  function move(event, kind) {
    const last = KINDS.length - 1;
    const index = KINDS.indexOf(kind);
    const next = {
      ArrowLeft: index === 0 ? last : index - 1,
      ArrowRight: index === last ? 0 : index + 1,
      Home: 0,
      End: last,
    }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    choose(KINDS[next]);
    tabs[next].focus();
  }

  show(KINDS.find((kind) => kind.id === remembered()) ?? KINDS[0]);
  return h(
    "section",
    { class: "card stack", "aria-labelledby": "use-model-title" },
    h("h2", { id: "use-model-title" }, "Use this model"),
    h("div", { class: "code-tabs", role: "tablist", "aria-labelledby": "use-model-title" }, tabs),
    panel,
  );
}

function codeBlock(code) {
  const pre = h("pre", {}, code);
  const status = h("span", { role: "status", class: "small muted" });
  const onclick = async () => {
    status.textContent = (await copy(code)) ? "Copied" : "Selected: copy it with Ctrl+C";
    if (status.textContent !== "Copied") getSelection()?.selectAllChildren(pre);
  };
  return [
    pre,
    h("div", { class: "row" }, h("button", { type: "button", class: "button small", onclick }, "Copy"), status),
  ];
}

function notes(kind, { model, key }) {
  const code = (text) => h("code", {}, text);
  const note = (...children) => h("p", { class: "small muted" }, children);
  return [
    key &&
      note(
        "Replace ",
        code(KEY),
        " by an API key that may complete. ",
        kind.isForPages && "Everyone who can open the page can read it: take one that may do nothing else.",
      ),
    kind.isForPages &&
      note(
        "A page of another origin than ",
        code(location.origin),
        " must be allowed: start the service with ",
        code(`NEXTCHAR_ALLOWED_ORIGINS=${location.protocol}//localhost:3000`),
        " if that is the origin of your page.",
      ),
    note(code(model), " is this version; ", code(model.split("@")[0]), " is always the newest one."),
  ];
}

/** Return the beginning of the text that the model was trained on, or one of the model's characters. */
async function examplePrompt({ corpus, characters }, signal) {
  const known = Array.from(characters);
  const letter = known.find((one) => /\p{L}/u.test(one)) ?? known[0] ?? "";
  if (corpus === null) return letter;
  const sample = await get(`/v1/corpora/${corpus}`, { signal }).then(
    (found) => found.sample,
    () => "", // it is deleted, or not for this key
  );
  const line = sample.split(/\r?\n/).find((one) => one.trim()) ?? letter;
  const start = Array.from(line.trim()).slice(0, MAX_PROMPT).join("");
  const words = start.slice(0, Math.max(start.lastIndexOf(" "), 0));
  return line.trim() === start ? start.slice(0, Math.ceil(start.length / 2)) : words || start;
}

/** A string of JSON is one of JavaScript and of Python too. */
function quoted(text) {
  return JSON.stringify(text);
}

function shellQuoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Return whether a text is on the clipboard now; a page that came by plain HTTP has only the older way. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = h("textarea", { class: "hidden-label", value: text, "aria-hidden": "true", tabindex: -1 });
    const focused = document.activeElement;
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    if (focused instanceof HTMLElement) focused.focus();
    return isCopied;
  }
}

function remember(id) {
  try {
    localStorage.setItem(CHOICE, id);
  } catch {
    // Storage is blocked: the first tab is shown again next time.
  }
}

function remembered() {
  try {
    return localStorage.getItem(CHOICE);
  } catch {
    return null;
  }
}
