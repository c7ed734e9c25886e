/** A client of a nextchar service for web pages. Requests and responses have the fields of the HTTP API. */

export interface ClientOptions {
  /** The service's address. Default: where the module was loaded from, else this page's origin. */
  url?: string | URL;
  /** An API key. Everybody who can open the page can read it: use one with the scope `complete` only. */
  key?: string | null;
  /** How often a call is retried when the service is busy (429), after its `Retry-After`. Default 2. */
  retries?: number;
  /** Timeout of a call in milliseconds; streams have none. Default 30,000. */
  timeout?: number;
}

export interface CallOptions {
  signal?: AbortSignal;
  retries?: number;
  timeout?: number;
}

/** One version of a model, as `GET /v1/models` lists it. */
export interface Model {
  object: "model";
  /** `name@version`. The bare name means the newest version, `name@alias` the one of an alias. */
  id: string;
  name: string;
  version: number;
  /** Unix seconds, UTC. */
  created_at: number;
  /** The same, for OpenAI's clients. */
  created: number;
  owned_by: "nextchar";
  /** The job that trained it. */
  job: string | null;
  /** The corpus it was trained on, which may have been deleted since. */
  corpus: string | null;
  /** The model whose weights its training started from. */
  started_from: string | null;
  network: Network;
  /** The number of weights. */
  parameters: number;
  /** The aliases that point to this version. */
  aliases: string[];
}

export interface Network {
  architecture: string;
  layers: number;
  /** Hidden units per layer. */
  units: number;
  /** Dimensions of a character's embedding; null: one-hot. */
  embedding: number | null;
  /** The fraction of each layer's outputs dropped in training; null: chosen by the number of epochs. */
  dropout: number | null;
  /** Whether the LSTMs' input gate is one minus the forget gate. */
  coupled_gates: boolean;
  /** The characters that a window model sees; null: its state carries all before. */
  context: number | null;
}

export type Precision = "auto" | "float32" | "int8";

/** `mixture`: the network together with n-grams and matches. `lstm`: the network alone. Default `mixture`. */
export type Expert = "mixture" | "lstm";

export type FinishReason = "length" | "stop" | "word" | "line" | "confidence" | "timeout" | "cancelled";

/** The fields of `POST …/complete` other than the prompt. */
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
  /** With `until: "confidence"`: stops before a step whose entropy is higher. */
  confidence_bits?: number;
  /** Returns the log-probability of each character, and of this many most likely ones at its position. */
  logprobs?: number | null;
  echo?: boolean;
  best_of?: number | null;
  /** The width of a beam search. */
  beam?: number | null;
  length_penalty?: number;
  no_repeat?: number | null;
  precision?: Precision;
  expert?: Expert;
  timeout_ms?: number | null;
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

export interface Choice {
  index: number;
  text: string;
  finish_reason: FinishReason;
  /** Surprisal of the whole text, -log2 p. */
  bits: number;
  logprobs: Logprob[] | null;
}

export interface Completion {
  object: "completion";
  /** The `name@version` that was used. */
  model: string;
  completions: Choice[];
  usage: Usage;
  /** The distinct characters of the prompt that the model's vocabulary lacks. */
  unknown_characters: string[];
}

export type StreamEvent =
  | { type: "piece"; index: number; text: string; logprobs: Logprob[] | null }
  | { type: "finished"; index: number; finish_reason: FinishReason; bits: number; characters: number }
  | { type: "done"; model: string; usage: Usage; unknown_characters: string[] };

export interface Candidate {
  character: string;
  probability: number;
}

export interface Distribution {
  object: "distribution";
  model: string;
  entropy_bits: number;
  /** The most likely first. */
  candidates: Candidate[];
  unknown_characters: string[];
}

/** The fields of `POST …/score` other than the text or the lines. */
export interface ScoreFields {
  /** `line`: each line is scored as if it were the first; `stream`: as a continuation of the lines before. */
  context?: "line" | "stream";
  /** How much of each line is returned: its score only, also bits and spans, or also the bits per character. */
  detail?: "none" | "line" | "character";
  /** Returns this many most likely characters at each position. */
  expected?: number;
  /** The fraction of normal lines that may be flagged. */
  false_alarms?: number | null;
  /** The name of the calibration to compare with. */
  calibration?: string | null;
  /** With `context: "stream"`: continues the stream of this name. */
  stream_id?: string | null;
  /** Scores the most anomalous lines again to say what was expected instead. */
  explain?: boolean;
  /** Of many lines alike: `count` flags the first ones only, `flag` all of them. */
  repeats?: "count" | "flag";
  /** Counts flagged lines in the model's alerts. */
  alerts?: boolean;
  /** Where the lines come from; kept with the alerts. */
  source?: string;
}

/** Anomalous characters from `start` up to `end`, counted in characters of the line after NFC. */
export interface Span {
  start: number;
  end: number;
  /** Surprisal of these characters together. */
  bits: number;
  /** What the model expected instead; "": nothing; null: no single text. */
  expected: string | null;
}

/** The score of one line. Values that were not requested, or that need a calibration, are null. */
export interface LineScore {
  characters: number;
  bits_per_character: number | null;
  /** The mean of the two highest. */
  peak_bits: number | null;
  total_bits: number | null;
  /** How rare the line is among normal lines, in bits. */
  score: number | null;
  /** The fraction of normal lines with an equal or higher score. */
  p_value: number | null;
  /** Whether it is flagged: the p-value is at most `false_alarms`, and it is not `repeated`. */
  anomalous: boolean | null;
  /** Whether it would be flagged, but repeats a flagged line of the request. */
  repeated: true | null;
  spans: Span[] | null;
  /** Whether the line was scored again, so that `spans` say what was expected. */
  explained: boolean | null;
  /** The alert that the line belongs to, if it is flagged; with `alerts` it is counted there. */
  alert_id: string | null;
  /** What people say that this alert is; the score of a normal one is lowered. */
  label: "normal" | "incident" | null;
  /** Surprisal of each character, -log2 p. */
  bits: number[] | null;
  expected: Candidate[][] | null;
}

/** Calibration lines of up to `longest` characters; null: the rest. */
export interface CalibrationBucket {
  longest: number | null;
  lines: number;
  has_tail: boolean;
}

/** What a rolling calibration did with a batch of lines; `drift` says why it learned none. */
export interface CalibrationRebuild {
  /** Unix seconds, UTC. */
  at: number;
  lines: number;
  flagged: number;
  learned: number;
  rate: number;
  old_thresholds: number[];
  new_thresholds: number[];
  drift: string | null;
}

/** The normal lines that scores are compared with. */
export interface Calibration {
  name: string;
  lines: number;
  kept_lines: number;
  /** The smallest p-value that needs no assumption about the tail: 1 / (n + 1). */
  smallest_p_value: number;
  /** Whether smaller ones are estimated by a generalized Pareto tail. */
  has_tail: boolean;
  /** Unix seconds, UTC. */
  created_at: number;
  source: string;
  buckets: CalibrationBucket[];
  /** Null for a calibration that does not follow ingested lines. */
  rolling?: { base: string; drift: string | null; rebuilds: CalibrationRebuild[] } | null;
}

/** The position in a stream of lines. */
export interface LineStream {
  id: string;
  /** Lines scored in this stream so far. */
  lines: number;
  /** Why the model's state was reset at the start of this call; null: it was not. */
  restarted: "new" | "model_replaced" | null;
}

/** The response of `POST …/score`: of the text, or of each line, and in total. */
export interface Score {
  object: "score";
  /** The `name@version` that was used. */
  model: string;
  characters: number;
  total_bits: number;
  bits_per_character: number;
  /** Of the text, if it is one line; see `LineScore`. */
  score: number | null;
  p_value: number | null;
  anomalous: boolean | null;
  spans: Span[] | null;
  explained: boolean | null;
  /** The alert that the line belongs to, if it is flagged; with `alerts` it is counted there. */
  alert_id: string | null;
  /** What people say that this alert is; the score of a normal one is lowered. */
  label: "normal" | "incident" | null;
  bits: number[] | null;
  expected: Candidate[][] | null;
  /** In the order of the request; null for a text. */
  lines: LineScore[] | null;
  /** The false-alarm rate that was used; null without a calibration. */
  false_alarms: number | null;
  /** The score above which a line is flagged; null without a calibration, or if it depends on the length. */
  threshold: number | null;
  calibration: Calibration | null;
  stream: LineStream | null;
  /** A warning if the lines are no longer like the calibration's. */
  drift: string | null;
  unknown_characters: string[];
}

/** Calls a service. Errors are `NextcharError`s; an aborted `signal` throws its reason. */
export class Nextchar {
  constructor(options?: ClientOptions);
  key: string | null;
  retries: number;
  timeout: number;
  /**
   * A random id of the tab or document. Its prompts go to one process of the service, and what that caches of them is
   * shared with no other id.
   */
  document: string;
  /** All versions of all models, newest first. */
  models(options?: CallOptions): Promise<Model[]>;
  complete(model: string, prompt: string, options?: CompletionFields & CallOptions): Promise<Completion>;
  /** Leaving the loop stops the completion. */
  stream(
    model: string,
    prompt: string,
    options?: CompletionFields & Omit<CallOptions, "timeout">,
  ): AsyncGenerator<StreamEvent, void, undefined>;
  /** The distribution of the next character. */
  next(
    model: string,
    prompt: string,
    options?: { top?: number; temperature?: number; expert?: Expert } & CallOptions,
  ): Promise<Distribution>;
  /** The surprisal of a text. */
  score(model: string, text: string, options?: ScoreFields & CallOptions): Promise<Score & { lines: null }>;
  /** The surprisal of lines, each by itself. */
  score(model: string, lines: string[], options?: ScoreFields & CallOptions): Promise<Score & { lines: LineScore[] }>;
  score(model: string, text: string | string[], options?: ScoreFields & CallOptions): Promise<Score>;
}

/** Codes of errors that the client finds itself; `status` is 0. */
export type ClientErrorCode = "unreachable" | "timeout" | "invalid_option" | "origin_not_allowed";

export type ErrorType =
  | "connection_error"
  | "invalid_request_error"
  | "authentication_error"
  | "permission_error"
  | "not_found_error"
  | "conflict_error"
  | "rate_limit_error"
  | "unavailable_error"
  | "server_error";

export class NextcharError extends Error {
  constructor(
    message: string,
    options?: Partial<Pick<NextcharError, "code" | "status" | "type" | "param" | "retryAfter">> & { cause?: unknown },
  );
  name: "NextcharError";
  /** The API's code, as `model_not_found`, or one of the client's own. */
  code: ClientErrorCode | (string & {});
  /** The HTTP status; 0 if there was no response. */
  status: number;
  type: ErrorType;
  /** The invalid field, if one is. */
  param: string | null;
  /** Seconds to wait before the next attempt, if the service gave them. */
  retryAfter: number | null;
}

export interface SuggestionOptions {
  /**
   * Where a suggestion ends. `likely`: where the expected number of saved keystrokes is highest, which may be
   * nowhere; the others are the API's. Default `likely`.
   */
  until?: "likely" | "word" | "line" | "confidence";
  /** The maximum length of a suggestion in characters. Default 40. */
  max?: number;
  /** Above 0, suggestions are sampled. Default 0: always the most likely character. */
  temperature?: number;
  expert?: Expert;
  /** Milliseconds to wait for another key before a request. Default: the service's latency, at most 250. */
  debounce?: number | null;
}

/**
 * Suggests how a text continues, for editors of any kind. Typing what was suggested needs no request.
 *
 * It learns from the prompts what the user accepts: several more characters of a suggestion at once have been accepted.
 * A user who accepts fewer of the right suggestions is shown fewer, and one who accepts first words alone longer ones.
 */
export class Suggester {
  constructor(
    client: Pick<Nextchar, "complete">,
    model: string,
    options?: SuggestionOptions & {
      /** Called for each failed request; there is no other for `pause` milliseconds. */
      onError?: (error: NextcharError, pause: number) => void;
    },
  );
  /** What follows, without a request: "" for nothing, null if it is not known. */
  recall(prompt: string): string | null;
  /** What follows: "" for nothing, null if a newer call or `signal` aborted this one. Never throws. */
  suggest(prompt: string, options?: { signal?: AbortSignal }): Promise<string | null>;
  /** Aborts the request in flight. */
  abort(): void;
  /** Discards the last suggestion. */
  forget(): void;
}

/** The text before a caret as a prompt. Long texts are cut at a line's start that stays the same while one types. */
export function promptOf(before: string): string;

/**
 * How many characters with these natural log-probabilities to show, so that they and the suggestions after them save the
 * most keystrokes, in expectation; 0 if they save less than 0.1, for a user who accepts this fraction of right suggestions
 * (default 0.5). With the length of the first word, also where it is accepted alone.
 */
export function likelyLength(logprobs: number[], wordLength?: number, acceptance?: number): number;

/** The first word of a suggestion, with the spaces before it. */
export function firstWord(text: string): string;

export interface AttachOptions extends ClientOptions, SuggestionOptions {
  model?: string;
  client?: Nextchar;
  mode?: "ghost" | "list";
  /** Also suggest where text follows on the same line. */
  midline?: boolean;
  /** The maximum number of candidates in a list. Default 6. */
  count?: number;
  /** What a screen reader says about a suggestion; "" for nothing. */
  announce?: (text: string) => string;
  /** What a screen reader says about a list. */
  announceCount?: (count: number) => string;
  /** The accessible name of the list. */
  label?: string;
}

/**
 * Adds suggestions to a field, also in a shadow root, where `data-nextchar` is not looked for. Options that are not
 * given are read from the attributes. Returns a function that removes them. Throws `NextcharError`
 * (`invalid_option`).
 */
export function attach(field: HTMLTextAreaElement | HTMLInputElement, options?: AttachOptions): () => void;

export interface AnomalousSpan {
  /** In UTF-16 code units of the element's text. */
  start: number;
  end: number;
  text: string;
}

export interface HighlightOptions extends ClientOptions {
  model: string;
  client?: Nextchar;
  /** Characters of at least this surprisal are anomalous, if the model is not calibrated. Default 7. */
  bits?: number;
  /** Score again whenever the text changes. */
  live?: boolean;
}

/** Marks anomalies in an element's text, as `::highlight(nextchar-anomaly)` or `<mark class="nextchar-anomaly">`. */
export function highlight(
  element: HTMLElement,
  options: HighlightOptions,
): {
  ready: Promise<AnomalousSpan[]>;
  refresh(): Promise<AnomalousSpan[]>;
  clear(): void;
};

declare global {
  interface HTMLElementEventMap {
    "nextchar:suggestion": CustomEvent<{ text: string; values?: string[] }>;
    "nextchar:accept": CustomEvent<{ text: string; whole: boolean }>;
    "nextchar:error": CustomEvent<{ error: NextcharError; pause?: number }>;
    "nextchar:highlight": CustomEvent<{ spans: AnomalousSpan[] }>;
  }
}
