import type { ClientOptions, Nextchar, SuggestionOptions } from "./nextchar.js";

export interface CodeMirrorOptions extends ClientOptions, SuggestionOptions {
  model: string;
  client?: Nextchar;
}

/**
 * Ghost text as an extension of CodeMirror 6. Give it the page's own `@codemirror/state` and `@codemirror/view`:
 *
 *     codemirror({ model: "lua" }, { state, view })
 */
export function codemirror<Extension>(
  options: CodeMirrorOptions,
  libraries: { state: { Prec: { highest(extension: Extension): Extension } }; view: object },
): Extension;
