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
const OPTIONS = ["url", "key", "mode", "until", "expert", "midline", "constrain", "context", "report", "clientId",
  ...Object.keys(RANGES)];
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
  all.midline = ![undefined, false, "false"].includes(all.midline);
  for (const [name, [low, high]] of Object.entries(RANGES)) {
    const value = all[name];
    if (value === null) continue;
    all[name] = String(value).trim() ? Number(value) : NaN;
    if (all[name] >= low && all[name] <= high) continue;
    const message = `${name} is ${JSON.stringify(value)} and must be a number from ${low} to ${high}`;
    throw new NextcharError(message, { code: "invalid_option", param: name });
  }
  all.client ??= new Nextchar(all);
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
