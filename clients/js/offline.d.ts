/** Packed models without a service. Requests and responses have the fields of the HTTP API, as far as there are some. */

import type { Completion, CompletionFields, Distribution, NextFields, StreamEvent, SuggestFields,
  Suggestions, Usage } from "./nextchar.js";

export interface LoadOptions {
  /** Hashes as of the HTML attribute of this name: `sha256-`, `sha384-` or `sha512-` and base64. */
  integrity?: string;
  /** Keep what `remember` and `accept` are told, in this browser's IndexedDB. Default false. */
  remember?: boolean;
  /** Keep the tables that are made from the file on the device, so that it opens at once the next time. Default false. */
  cache?: boolean;
  /** What it is kept under. Default: the model's name. */
  name?: string;
  /** False: in this thread, which it blocks while it reads a prompt. An address: of `offline-worker.js`. Default true. */
  worker?: boolean | string | URL;
  /** The address or the bytes of `nextchar.wasm`. Default: next to this module. */
  wasm?: string | URL | ArrayBuffer | ArrayBufferView;
  signal?: AbortSignal;
}

export interface ModelInfo {
  name: string;
  kind: "records" | "text";
  alphabet: "characters" | "bytes";
  layers: number;
  units: number;
  /** Of the vocabulary. */
  characters: number;
  /** How much text it knows. */
  known_characters: number;
  /** Whether it replaces values such as times and addresses by placeholders. */
  masked: boolean;
  /** Whether lines have scores, not only bits. */
  calibrated: boolean;
  /** Size of its file. */
  bytes: number;
}

export interface OfflineCallOptions {
  signal?: AbortSignal;
  /** Milliseconds. Default 30,000; of streams none. */
  timeout?: number | null;
}

/** `logprobs` is 0 or null, `expert` the mixture, `precision` int8. Another option is refused. */
export type OfflineCompletionFields = Pick<CompletionFields, "n" | "max_characters" | "temperature" | "top_k" | "top_p" | "min_p"
  | "seed" | "stop" | "until" | "confidence_bits" | "logprobs" | "suffix" | "expert" | "precision" | "client_id">;

type OfflineUsage = { usage: Omit<Usage, "cached_characters"> };

export type OfflineCompletion = Omit<Completion, "usage"> & OfflineUsage;

export type OfflineStreamEvent =
  | Exclude<StreamEvent, { type: "done" }>
  | (Omit<Extract<StreamEvent, { type: "done" }>, "usage"> & OfflineUsage);

/** How unusual a line is; the last four are null without a calibration in the file, and for several lines. */
export interface OfflineLineScore {
  lines: number;
  characters: number;
  bits_per_character: number;
  peak_bits: number;
  total_bits: number;
  score: number | null;
  /** One normal line of 1 / p_value has such a score. */
  p_value: number | null;
  anomalous: boolean | null;
  /** Whether the training text has lines with the same words. */
  known_template: boolean | null;
}

export interface OfflineScoreOptions {
  /** The rate of normal lines that may be anomalous. */
  false_alarms?: number;
}

/** The sums over all lines, and for a text that was not in a list the rest of its score. */
export interface OfflineScore extends Partial<Omit<OfflineLineScore, "lines">> {
  object: "score";
  model: string;
  characters: number;
  total_bits: number;
  bits_per_character: number;
  /** Null for a text that was not in a list. */
  lines: OfflineLineScore[] | null;
}

/** The calls of a model as `Nextchar` has them, with a name that is not looked at, for `attach`, `Suggester` and editors. */
export interface OfflineClient {
  complete(model: unknown, prompt: string, options?: OfflineCompletionFields & OfflineCallOptions): Promise<OfflineCompletion>;
  stream(model: unknown, prompt: string, options?: OfflineCompletionFields & OfflineCallOptions): AsyncGenerator<OfflineStreamEvent>;
  next(model: unknown, prompt: string, options?: NextFields & OfflineCallOptions): Promise<Distribution>;
  suggest(model: unknown, prefix: string, options?: SuggestFields & OfflineCallOptions): Promise<Suggestions>;
  score(model: unknown, text: string | string[], options?: OfflineScoreOptions & OfflineCallOptions): Promise<OfflineScore>;
}

/**
 * Opens what `nextchar pack` has written: an address, the bytes, or in Node.js a file. Throws `NextcharError`: `unreachable`,
 * `invalid_file`, or `unsupported` in a browser without WebAssembly and SIMD or where the page forbids it.
 */
export function load(source: string | URL | ArrayBuffer | ArrayBufferView, options?: LoadOptions): Promise<Model>;

/** A model that `load` has opened. One call after another; a `signal` that aborts one ends it. */
export class Model {
  private constructor();
  info: ModelInfo;
  client: OfflineClient;
  complete(
    prompt: string,
    options?: OfflineCompletionFields & OfflineCallOptions & { onText?: (text: string, index: number) => void },
  ): Promise<OfflineCompletion>;
  /** Leaving the loop stops the completion. */
  stream(
    prompt: string,
    options?: OfflineCompletionFields & OfflineCallOptions,
  ): AsyncGenerator<OfflineStreamEvent, void, undefined>;
  /** The distribution of the next character. */
  next(prompt: string, options?: NextFields & OfflineCallOptions): Promise<Distribution>;
  /**
   * Completes the prompt with each of the `top` likeliest characters after it, and tells these prompts and their responses, the
   * likeliest first. Ends early after 150 ms of computing, and with a `NextcharError` when another call is made.
   */
  ahead(
    prompt: string,
    onResponse: (found: { prompt: string; response: OfflineCompletion }) => void,
    options: OfflineCompletionFields & OfflineCallOptions & { top: number },
  ): Promise<void>;
  /** Lines of the model's corpus. */
  suggest(prefix: string, options?: SuggestFields & OfflineCallOptions): Promise<Suggestions>;
  score(text: string | string[], options?: OfflineScoreOptions & OfflineCallOptions): Promise<OfflineScore>;
  /** Read these lines before prompts, and keep them on the device. Needs `remember`. */
  remember(text: string): Promise<void>;
  /** Suggest this line before others, and keep that on the device. Needs `remember`. */
  accept(line: string): Promise<void>;
  /** Delete what `remember` and `accept` have kept. */
  forget(): Promise<void>;
  /** End its thread. */
  close(): void;
}
