/** Ghost text in Monaco, by its own inline suggestions: Tab accepts, Ctrl + right arrow a word, Escape dismisses. */

import { Nextchar } from "./client.js";
import { Suggester, promptOf } from "./suggester.js";

export function monaco(options, { languages }, selector = "*") {
  const client = options.client ?? new Nextchar(options);
  const suggesters = new WeakMap(); // by text, so that editors side by side do not cancel each other's requests

  return languages.registerInlineCompletionsProvider(selector, {
    async provideInlineCompletions(model, { lineNumber, column }, _, token) {
      const none = { items: [] };
      if (model.getLineContent(lineNumber).slice(column - 1).trim()) return none;
      if (!suggesters.has(model)) suggesters.set(model, new Suggester(client, options.model, options));
      const stop = new AbortController();
      token.onCancellationRequested(() => stop.abort());
      const range = { startLineNumber: 1, startColumn: 1, endLineNumber: lineNumber, endColumn: column };
      const before = model.getValueInRange(range).replaceAll("\r\n", "\n");
      const insertText = await suggesters.get(model).suggest(promptOf(before), { signal: stop.signal });
      if (!insertText) return none;
      return { items: [{ insertText, range: { ...range, startLineNumber: lineNumber, startColumn: column } }], model };
    },
    handlePartialAccept({ model }) {
      suggesters.get(model).acceptsWords = true;
    },
    freeInlineCompletions() {}, // the name before Monaco 0.54
    disposeInlineCompletions() {},
  });
}
