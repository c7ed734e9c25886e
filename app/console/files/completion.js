/** Streamed completions of a text. The models were trained on lines, so a prompt starts with the line break before it. */

import { apiPath, request } from "./api.js";
import { readEvents } from "./event-stream.js";

/**
 * Stream one completion; call `onText` with each piece. Returns the final event: {finish_reason, bits, characters}.
 *
 * @param {string} model
 * @param {string} text
 * @param {Record<string, any>} options fields of `/complete` besides the prompt
 * @param {{signal: AbortSignal, onText: (text: string) => void}} handlers
 */
export async function streamCompletion(model, text, options, { signal, onText }) {
  const body = { ...options, prompt: promptFor(text), stream: true };
  const response = await request("POST", apiPath("/v1/models", model, "complete"), { body, signal });
  let finished = null;
  for await (const { event, data } of readEvents(response)) {
    if (event === "piece") onText(data.text);
    if (event === "finished") finished = data;
  }
  return finished;
}

/** Return the prompt for a text that starts on a new line. @param {string} text */
export function promptFor(text) {
  return `\n${text}`;
}
