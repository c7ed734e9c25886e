/** Completion and anomaly scores of a nextchar service in the browser. Fields and answers are the API's own. */

export interface ClientOptions {
  /** Where the service is. Without it: where the module was loaded from, else this page's own host. */
  url?: string | URL;
  /** An API key. Everybody who can open the page can read it: take one that may only complete. */
  key?: string | null;
  /** How often a call is made again when the service is busy (429), after as long as it says. Default 2. */
  retries?: number;
  /** Milliseconds until a call, but for streams, is given up. Default 30,000. */
  timeout?: number;
}

export interface CallOptions {
  signal?: AbortSignal;
  retries?: number;
  timeout?: number;
}

export type FinishReason = "length" | "stop" | "word" | "line" | "confidence" | "timeout" | "cancelled";

/** What `/complete` takes beside the prompt; docs/serving.md says what each does. */
export interface CompletionFields {
  max_characters?: number;
  n?: number;
  temperature?: number;
  top_k?: number | null;
  top_p?: number | null;
  min_p?: number | null;
  seed?: number | null;
  stop?: string | string[] | null;
  until?: "word" | "line" | "confidence" | null;
  confidence_bits?: number;
  logprobs?: number | null;
  echo?: boolean;
  best_of?: number | null;
  beam?: number | null;
  length_penalty?: number;
  no_repeat?: number | null;
  precision?: "auto" | "float32" | "int8";
  timeout_ms?: number | null;
  [field: string]: unknown;
}

export interface Logprob {
  character: string;
  /** Natural logarithm, at temperature 1. */
  logprob: number;
  top: { character: string; logprob: number }[];
}

export interface Usage {
  prompt_characters: number;
  cached_characters: number;
  completion_characters: number;
}

export interface Completion {
  object: "completion";
  /** The `name@version` that answered. */
  model: string;
  completions: {
    index: number;
    text: string;
    finish_reason: FinishReason;
    /** Surprisal of the whole text, -log2 p. */
    bits: number;
    logprobs: Logprob[] | null;
  }[];
  usage: Usage;
  unknown_characters: string[];
}

export type StreamEvent =
  | { type: "piece"; index: number; text: string; logprobs: Logprob[] | null }
  | { type: "finished"; index: number; finish_reason: FinishReason; bits: number; characters: number }
  | { type: "done"; model: string; usage: Usage; unknown_characters: string[] };

export interface Distribution {
  object: "distribution";
  model: string;
  entropy_bits: number;
  candidates: { character: string; probability: number }[];
  unknown_characters: string[];
}

/** Of a line, in characters after NFC, the end not included. */
export interface Place {
  start: number;
  end: number;
}

export interface LineScore {
  characters: number;
  total_bits: number;
  bits_per_character: number;
  bits: number[] | null;
  anomalous?: boolean | null;
  spans?: Place[] | null;
  [field: string]: unknown;
}

export interface Score {
  object: "score";
  model: string;
  characters: number;
  total_bits: number;
  bits_per_character: number;
  bits: number[] | null;
  lines: LineScore[] | null;
  unknown_characters: string[];
  [field: string]: unknown;
}

/** The calls of one service. Errors are `NextcharError`s; an aborted `signal` throws its reason. */
export class Nextchar {
  constructor(options?: ClientOptions);
  key: string | null;
  retries: number;
  timeout: number;
  complete(model: string, prompt: string, options?: CompletionFields & CallOptions): Promise<Completion>;
  /** Leaving the loop frees the place at the service. */
  stream(
    model: string,
    prompt: string,
    options?: CompletionFields & Omit<CallOptions, "timeout">,
  ): AsyncGenerator<StreamEvent, void, undefined>;
  next(
    model: string,
    prompt: string,
    options?: { top?: number; temperature?: number } & CallOptions,
  ): Promise<Distribution>;
  /** A text, or lines each by itself. */
  score(
    model: string,
    text: string | string[],
    options?: { detail?: "character" | "line"; [field: string]: unknown } & CallOptions,
  ): Promise<Score>;
}

export class NextcharError extends Error {
  name: "NextcharError";
  /** The API's code, as `model_not_found`; or `unreachable`, `timeout`, `invalid_option`, `origin_not_allowed`. */
  code: string;
  /** The HTTP status; 0 if there was no answer. */
  status: number;
  type: string;
  /** The field that is wrong, if it is one. */
  param: string | null;
  /** Seconds after which to ask again, if the service said so. */
  retryAfter: number | null;
}

export interface SuggestionOptions {
  /**
   * How much is suggested. `likely`: as much as can be expected to save the most keystrokes, or nothing; the
   * others are the API's. Default `likely`.
   */
  until?: "likely" | "word" | "line" | "confidence";
  /** The longest suggestion, in characters. Default 40. */
  max?: number;
  /** 0 takes the likeliest character every time. Default 0. */
  temperature?: number;
  /** Milliseconds to wait for the next key before asking. Default: as long as the service's answers take. */
  debounce?: number | null;
}

/** What may follow a text, for an editor of any kind. What is typed along the last answer costs no request. */
export class Suggester {
  constructor(
    client: Pick<Nextchar, "complete">,
    model: string,
    options?: SuggestionOptions & {
      /** Called once for each failure; for `pause` milliseconds nothing is asked then. */
      onError?: (error: NextcharError, pause: number) => void;
    },
  );
  /** Return what is known to follow without asking: "" for nothing, null if it is not known. */
  recall(prompt: string): string | null;
  /** Return what follows: "" for nothing, null if a newer call or `signal` overtook this one. Never throws. */
  suggest(prompt: string, options?: { signal?: AbortSignal }): Promise<string | null>;
  /** Give up what is being asked. */
  abort(): void;
  /** Do not come back with what was suggested last. */
  forget(): void;
}

/** Return the text before a caret as a prompt: from a place that stays while one types, at a line's start. */
export function promptOf(before: string): string;

/** Return how many characters with these natural log-probabilities can be expected to save the most keys. */
export function likelyLength(logprobs: number[]): number;

/** Return the first word of a suggestion, with what stands before it. */
export function firstWord(text: string): string;

export interface AttachOptions extends ClientOptions, SuggestionOptions {
  model?: string;
  client?: Nextchar;
  mode?: "ghost" | "list";
  /** Suggest where other text follows on the same line too. */
  midline?: boolean;
  /** The most candidates of a list. Default 6. */
  count?: number;
  /** What a screen reader says of a suggestion; "" for nothing. */
  announce?: (text: string) => string;
  /** What a screen reader says of a list. */
  announceCount?: (count: number) => string;
  /** The name of the list. */
  label?: string;
}

/**
 * Help with a field, also one in a shadow root, where `data-nextchar` is not looked for. What `options` lack is
 * read from the field's attributes. Returns a function that ends it. Throws `NextcharError` (`invalid_option`).
 */
export function attach(field: HTMLTextAreaElement | HTMLInputElement, options?: AttachOptions): () => void;

export interface OddSpan {
  /** In UTF-16 units of the element's text. */
  start: number;
  end: number;
  text: string;
}

export interface HighlightOptions extends ClientOptions {
  model: string;
  client?: Nextchar;
  /** A character is odd from this much surprise on, where the model is not calibrated. Default 7. */
  bits?: number;
  /** Look again whenever the text changes. */
  live?: boolean;
}

/** Mark what is odd in an element's text, as `::highlight(nextchar-odd)` or `<mark class="nextchar-odd">`. */
export function highlight(
  element: HTMLElement,
  options: HighlightOptions,
): {
  ready: Promise<OddSpan[]>;
  refresh(): Promise<OddSpan[]>;
  clear(): void;
};

declare global {
  interface HTMLElementEventMap {
    "nextchar:suggestion": CustomEvent<{ text: string; values?: string[] }>;
    "nextchar:accept": CustomEvent<{ text: string; whole: boolean }>;
    "nextchar:error": CustomEvent<{ error: NextcharError; pause?: number }>;
    "nextchar:highlight": CustomEvent<{ spans: OddSpan[] }>;
  }
}
