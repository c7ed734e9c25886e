/** Ghost text in Monaco, by its own inline suggestions: Tab accepts, Ctrl + right arrow a word, Escape dismisses. */

import { Nextchar } from "./client.js";
import { Suggester, promptOf } from "./suggester.js";

export function monaco(options, { languages }, selector = "*") {
  const client = options.client ?? new Nextchar(options);
  const suggesters = new WeakMap(); // by text, so that editors side by side do not cancel each other's requests

  const around = (model, { lineNumber, column }) => {
    const last = model.getLineCount();
    const read = (startLineNumber, startColumn, endLineNumber, endColumn) =>
      model.getValueInRange({ startLineNumber, startColumn, endLineNumber, endColumn }).replaceAll("\r\n", "\n");
    return [promptOf(read(1, 1, lineNumber, column)), read(lineNumber, column, last, model.getLineMaxColumn(last))];
  };

  function suggesterOf(model) {
    if (!suggesters.has(model)) {
      const suggester = new Suggester(client, options.model, options);
      suggesters.set(model, suggester);
      // Monaco asks once for several keys, and the suggester learns from each what the user accepts.
      model.onDidChangeContent(({ changes: [change] }) => {
        if (change) suggester.recall(...around(model, model.getPositionAt(change.rangeOffset + change.text.length)));
      });
    }
    return suggesters.get(model);
  }

  return languages.registerInlineCompletionsProvider(selector, {
    async provideInlineCompletions(model, position, _, token) {
      const none = { items: [] };
      const { lineNumber, column } = position;
      if (model.getLineContent(lineNumber).slice(column - 1).trim()) return none;
      const stop = new AbortController();
      token.onCancellationRequested(() => stop.abort());
      const [prompt, suffix] = around(model, position);
      const insertText = await suggesterOf(model).suggest(prompt, { suffix, signal: stop.signal });
      if (!insertText) return none;
      const range = { startLineNumber: lineNumber, startColumn: column, endLineNumber: lineNumber, endColumn: column };
      return { items: [{ insertText, range }], model };
    },
    freeInlineCompletions() {}, // the name before Monaco 0.54
    disposeInlineCompletions() {},
  });
}
