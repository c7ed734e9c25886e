/** The package's entry: exports everything, and attaches help to fields with `data-nextchar` or `data-nextchar-file`. */

import { Nextchar, NextcharError } from "./client.js";
import { emitError } from "./events.js";
import { isSupported } from "./field-helper.js";
import { GhostText } from "./ghost-text.js";
import { lazyList, lazyModel, lazyReporter } from "./lazy.js";

export { Nextchar, NextcharError };
export { forget, highlight } from "./lazy.js";
export { Suggester, firstWord, likelyLength, promptOf } from "./suggester.js";

const RANGES = { max: [1, 10_000], temperature: [0, 10], debounce: [0, 10_000], count: [1, 50],
  min: [0, 100], typos: [0, 2], ahead: [0, 32] };
const FLAG = ["", true, false, "true", "false"];
const CHOICES = { mode: ["ghost", "list"], until: ["likely", "word", "line", "confidence"], report: ["ids", "text"],
  expert: ["mixture", "network", "lstm"], constrain: ["lines", "prefer", "none"],
  first: ["service", "file"], midline: FLAG, remember: FLAG, cache: FLAG };
const OPTIONS = ["url", "key", "context", "clientId", "file", "integrity", ...Object.keys(CHOICES), ...Object.keys(RANGES)];
const attributeOf = (option) => `data-nextchar-${option === "clientId" ? "client-id" : option}`;
const FIELDS = "[data-nextchar], [data-nextchar-file]";
const helpers = new WeakMap(); // by field
const isOn = (value) => ![undefined, null, false, "false"].includes(value);

export function attach(field, options = {}) {
  helpers.get(field)?.end();
  const all = { model: field.dataset.nextchar, mode: "ghost", max: 40, temperature: 0, debounce: null, count: 6,
    typos: null, ahead: 24, label: "Suggestions", announce: (text) => `Suggestion: ${text}. Tab accepts it.`,
    announceCount: (count) => `${count} suggestion${count > 1 ? "s" : ""}.` };
  for (const name of OPTIONS) {
    const attribute = attributeOf(name);
    const value = field.closest(`[${attribute}]`)?.getAttribute(attribute);
    if (value != null) all[name] = value;
  }
  Object.assign(all, options);
  const isList = all.mode === "list";
  all.min ??= isList ? 1 : 0;
  const check = (name, isValid, requirement) => {
    if (isValid) return;
    const message = `${name} is ${JSON.stringify(all[name])} and must be ${requirement}`;
    throw new NextcharError(message, { code: "invalid_option", param: name });
  };
  for (const [name, choices] of Object.entries(CHOICES)) {
    const words = choices.filter((choice) => choice && choice !== true);
    check(name, all[name] == null || choices.includes(all[name]), words.join(" or "));
  }
  check("url", all.url == null || URL.canParse(all.url, location), "a URL");
  check("key", !/[^ -~]/.test(all.key ?? ""), "an API key, of ASCII characters");
  check("integrity", /^(?:\s*sha(?:256|384|512)-[\w+/=]+)*\s*$/.test(all.integrity ?? ""), "hashes: sha256-, sha384- or sha512- and base64");
  check("report", !all.report || all.model || !all.file, "left out where data-nextchar names no model of a service");
  Object.assign(all, { midline: isOn(all.midline), remember: isOn(all.remember), cache: isOn(all.cache) });
  for (const [name, [low, high]] of Object.entries(RANGES)) {
    if (all[name] === null) continue;
    const number = String(all[name]).trim() ? Number(all[name]) : NaN;
    check(name, number >= low && number <= high, `a number from ${low} to ${high}`);
    all[name] = number;
  }
  const parts = [];
  if (!all.client) {
    all.client = all.file && !all.model ? null : new Nextchar(all);
    if (all.file) {
      if (!all.client || all.first === "file") all.debounce ??= 0; // it shares the processor with no one
      parts.push(lazyModel(field, all, all.client));
      all.client = parts[0].client;
    }
  }
  if (all.report === "text") all.clientId ??= all.client.document;
  parts.push(isList ? lazyList(field, all.client, all) : new GhostText(field, all.client, all));
  if (all.report) parts.push(lazyReporter(field, all));
  const helper = { end: () => parts.forEach((part) => part.end()) };
  helpers.set(field, helper);
  return helper.end;
}

function attachByAttributes(field) {
  try {
    attach(field);
    helpers.get(field).isAutomatic = true;
  } catch (error) {
    emitError(field, error);
  }
}

function handleMutations(records) {
  const fields = new Map(); // to whether their options may have changed
  for (const { type, target, addedNodes, removedNodes } of records) {
    const isChanged = type === "attributes";
    for (const node of isChanged ? [target] : [...addedNodes, ...removedNodes]) {
      for (const field of [node, ...(node.querySelectorAll?.(FIELDS) ?? [])]) {
        fields.set(field, isChanged || fields.get(field));
      }
    }
  }
  for (const [field, isChanged] of fields) {
    if (field.isConnected && (field.dataset?.nextchar || field.dataset?.nextcharFile) && isSupported(field)) {
      if (isChanged || !helpers.has(field)) attachByAttributes(field);
    } else if (helpers.get(field)?.isAutomatic) {
      helpers.get(field).end();
      helpers.delete(field);
    }
  }
}

if (globalThis.document) {
  handleMutations([{ addedNodes: [document], removedNodes: [] }]);
  new MutationObserver(handleMutations).observe(document, { childList: true, subtree: true, attributes: true,
    attributeFilter: ["data-nextchar", "type", ...OPTIONS.map(attributeOf)] });
}
