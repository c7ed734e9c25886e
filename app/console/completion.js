/** Completions as they come. A text begins as a line does, so it is given the line break before it. */

import { at, events, raw } from "./api.js";

/**
 * Stream one completion of a text; `onText` gets each piece. Returns how it ended: {finish_reason, bits,
 * characters}.
 *
 * @param {string} model
 * @param {string} text
 * @param {Record<string, any>} options what `/complete` takes beside the prompt
 * @param {{signal: AbortSignal, onText: (text: string) => void}} handling
 */
export async function complete(model, text, options, { signal, onText }) {
  const body = { ...options, prompt: promptOf(text), stream: true };
  const answer = await raw("POST", at("/v1/models", model, "complete"), { body, signal });
  let ended = null;
  for await (const { event, data } of events(answer)) {
    if (event === "piece") onText(data.text);
    if (event === "finished") ended = data;
  }
  return ended;
}

/** What a model is asked to go on from, for a text that somebody writes. @param {string} text */
export function promptOf(text) {
  return `\n${text}`;
}
