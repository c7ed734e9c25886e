/** The list, the reporter, the highlighter and the model of a file, whose modules are loaded on first use. */

import { NextcharError } from "./client.js";
import { emitError } from "./events.js";
import { isFocused } from "./field-helper.js";

class Lazy {
  #part;
  #isEnded = false;

  constructor(field, module, make) {
    loaded(module, field).then((found) => this.#isEnded || (this.#part = make(found)), () => {});
  }

  end() {
    this.#isEnded = true;
    this.#part?.end();
  }
}

export const lazyList = (field, ...options) =>
  new Lazy(field, import("./list.js"), ({ List }) => {
    const list = new List(field, ...options);
    if (isFocused(field)) list.update();
    return list;
  });

export const lazyReporter = (field, options) =>
  new Lazy(field, import("./reporter.js"), ({ Reporter }) => new Reporter(field, options));

// The client of a field with a file; if its module cannot be loaded, the service alone, if there is one.
export function lazyModel(field, options, service) {
  let model, isEnded;
  const opened = loaded(import("./offline-field.js"), field).then(({ FieldModel }) => {
    if (!isEnded) model = new FieldModel(field, options, service);
    return model?.client ?? service;
  });
  opened.catch(() => {});
  const call = (name) => async (...input) => (await opened.catch((error) => service ?? Promise.reject(error)))[name](...input);
  const client = { ...service, complete: call("complete"), suggest: call("suggest") };
  return { client, end: () => ((isEnded = true), model?.end()) };
}

export const forget = async () => (await import("./offline-field.js")).forget();

export function highlight(element, options) {
  let marks, isCleared;
  const start = loaded(import("./highlight.js"), element).then(({ highlight }) => {
    marks = highlight(element, options);
    if (isCleared) marks.clear();
    return marks;
  });
  const ready = start.then(({ ready }) => ready);
  ready.catch(() => {}); // the event nextchar:error tells it
  return {
    ready,
    refresh: () => start.then((marks) => marks.refresh()),
    clear() {
      isCleared = true;
      marks?.clear();
    },
  };
}

function loaded(module, element) {
  return module.catch((cause) => {
    const error = new NextcharError("a module of nextchar cannot be loaded", { code: "unreachable", cause });
    emitError(element, error);
    throw error;
  });
}
