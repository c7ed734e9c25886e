import type { ClientOptions, Nextchar, SuggestionOptions } from "./nextchar.js";

export interface MonacoOptions extends ClientOptions, SuggestionOptions {
  model: string;
  client?: Nextchar;
}

/** Ghost text in all Monaco editors of the languages that `selector` names ("*": all); `dispose()` ends it. */
export function monaco(
  options: MonacoOptions,
  monaco: { languages: { registerInlineCompletionsProvider(selector: any, provider: any): { dispose(): void } } },
  selector?: string | string[],
): { dispose(): void };
