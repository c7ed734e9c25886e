/** Ghost text in CodeMirror 6: an extension. The page passes its own libraries, so none is loaded twice. */

import { Nextchar } from "./client.js";
import { Suggester, firstWord, promptOf, visible } from "./suggester.js";

export function codemirror(options, { state, view }) {
  const { Prec, StateEffect, StateField } = state;
  const { Decoration, EditorView, ViewPlugin, WidgetType, keymap } = view;
  const suggester = new Suggester(options.client ?? new Nextchar(options), options.model, options);
  const show = StateEffect.define();

  const promptIn = ({ doc, selection }) => {
    const { head, empty } = selection.main;
    const isAtEnd = empty && selection.ranges.length === 1 && !doc.lineAt(head).text.slice(head - doc.lineAt(head).from).trim();
    return isAtEnd ? promptOf(doc.sliceString(0, head)) : null;
  };
  const suffixIn = ({ doc, selection }) => doc.sliceString(selection.main.head);

  const ghost = StateField.define({
    create: () => "",
    update(text, transaction) {
      for (const effect of transaction.effects) if (effect.is(show)) return effect.value;
      if (!transaction.docChanged) return transaction.selection ? "" : text;
      const prompt = transaction.isUserEvent("input") ? promptIn(transaction.state) : null;
      return (prompt !== null && suggester.recall(prompt, suffixIn(transaction.state))) || ""; // stays while one types along, with no request
    },
    provide: (field) =>
      EditorView.decorations.compute([field, "selection"], (now) => {
        const widget = new Ghost(now.field(field));
        return widget.text ? Decoration.set(Decoration.widget({ widget, side: 1 }).range(now.selection.main.head)) : Decoration.none;
      }),
  });

  class Ghost extends WidgetType {
    constructor(text) {
      super();
      this.text = text;
    }

    eq({ text }) {
      return text === this.text;
    }

    toDOM() {
      const span = document.createElement("span");
      span.className = "nextchar-ghost";
      span.setAttribute("aria-hidden", "true");
      span.style.color = "var(--nextchar-color, color-mix(in srgb, currentColor 62%, transparent))";
      span.textContent = visible(this.text);
      return span;
    }

    ignoreEvent() {
      return false;
    }
  }

  async function ask(editor) {
    const prompt = promptIn(editor.state);
    if (prompt === null || editor.composing) return suggester.abort();
    const text = await suggester.suggest(prompt, { suffix: suffixIn(editor.state) });
    if (!text || promptIn(editor.state) !== prompt || editor.state.field(ghost) === text) return;
    editor.dispatch({ effects: [show.of(text), EditorView.announce.of(`Suggestion: ${text}`)] });
  }

  const asking = ViewPlugin.define((editor) => ({
    update({ docChanged, transactions }) {
      if (!docChanged) return;
      const isTyped = transactions.some((one) => one.isUserEvent("input") || one.isUserEvent("delete"));
      return isTyped ? ask(editor) : suggester.abort();
    },
    destroy: () => suggester.abort(),
  }), {
    // An input method often commits the text that it already shows, so the document does not change.
    eventHandlers: { compositionend: (_, editor) => void setTimeout(() => ask(editor)) },
  });

  const accept = (take) => (editor) => {
    const text = editor.state.field(ghost);
    if (!text) return false;
    const { head } = editor.state.selection.main;
    const insert = take(text);
    editor.dispatch({ changes: { from: head, insert }, selection: { anchor: head + insert.length },
      userEvent: "input.complete", scrollIntoView: true });
    return true;
  };
  const whole = accept((text) => text);
  const word = accept(firstWord);
  const dismiss = (editor) => {
    if (!editor.state.field(ghost)) return false;
    suggester.forget();
    editor.dispatch({ effects: show.of("") });
    return true;
  };
  const isAtEnd = ({ state: { doc, selection } }) => selection.main.head === doc.length;
  const keys = [
    { key: "Tab", run: whole },
    { key: "ArrowRight", run: (editor) => isAtEnd(editor) && whole(editor) },
    { key: "Ctrl-ArrowRight", mac: "Alt-ArrowRight", run: word },
    { key: "Escape", run: dismiss },
  ];
  return [ghost, asking, Prec.highest(keymap.of(keys))];
}
