/** The list and the highlighter, whose modules are loaded on first use. */

import { NextcharError } from "./client.js";
import { emitError } from "./events.js";
import { isFocused } from "./field-helper.js";

export class LazyList {
  #list;
  #isEnded = false;

  constructor(field, ...options) {
    loaded(import("./list.js"), field).then(({ List }) => {
      if (this.#isEnded) return;
      this.#list = new List(field, ...options);
      if (isFocused(field)) this.#list.update();
    }, () => {});
  }

  end() {
    this.#isEnded = true;
    this.#list?.end();
  }
}

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
