/** The package's entry: exports everything, and attaches help to fields with the attribute `data-nextchar`. */

import { Nextchar, NextcharError } from "./client.js";
import { emitError } from "./events.js";
import { isSupported } from "./field-helper.js";
import { GhostText } from "./ghost-text.js";
import { lazyList, lazyReporter } from "./lazy.js";

export { Nextchar, NextcharError };
export { highlight } from "./lazy.js";
export { Suggester, firstWord, likelyLength, promptOf } from "./suggester.js";

const RANGES = { max: [1, 10_000], temperature: [0, 10], debounce: [0, 10_000], count: [1, 50],
  min: [0, 100], typos: [0, 2] };
const CHOICES = { mode: ["ghost", "list"], until: ["likely", "word", "line", "confidence"], report: ["ids", "text"],
  expert: ["mixture", "network", "lstm"], constrain: ["lines", "prefer", "none"],
  midline: ["", true, false, "true", "false"] };
const OPTIONS = ["url", "key", "context", "clientId", ...Object.keys(CHOICES), ...Object.keys(RANGES)];
const attributeOf = (option) => `data-nextchar-${option === "clientId" ? "client-id" : option}`;
const helpers = new WeakMap(); // by field

export function attach(field, options = {}) {
  helpers.get(field)?.end();
  const all = { model: field.dataset.nextchar, mode: "ghost", max: 40, temperature: 0, debounce: null, count: 6,
    typos: null, label: "Suggestions", announce: (text) => `Suggestion: ${text}. Tab accepts it.`,
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
  all.midline = ![undefined, null, false, "false"].includes(all.midline);
  for (const [name, [low, high]] of Object.entries(RANGES)) {
    if (all[name] === null) continue;
    const number = String(all[name]).trim() ? Number(all[name]) : NaN;
    check(name, number >= low && number <= high, `a number from ${low} to ${high}`);
    all[name] = number;
  }
  all.client ??= new Nextchar(all);
  if (all.report === "text") all.clientId ??= all.client.document;
  const parts = [isList ? lazyList(field, all.client, all) : new GhostText(field, all.client, all)];
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
      for (const field of [node, ...(node.querySelectorAll?.("[data-nextchar]") ?? [])]) {
        fields.set(field, isChanged || fields.get(field));
      }
    }
  }
  for (const [field, isChanged] of fields) {
    if (field.isConnected && field.dataset?.nextchar && isSupported(field)) {
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
