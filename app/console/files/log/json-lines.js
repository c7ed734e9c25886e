/** Reading a response of newline-delimited JSON. */

import { connectionError, isAbort } from "../api.js";

/**
 * Yield the records of a response in lists, one list for each piece that arrives. Raises ApiError for a lost connection.
 *
 * @param {Response} response
 * @returns {AsyncGenerator<any[]>}
 */
export async function* readJsonLines(response) {
  const reader = /** @type {ReadableStream<any>} */ (response.body).pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        throw isAbort(error) ? error : connectionError();
      });
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop() ?? "";
      if (lines.length) yield lines.filter(Boolean).map((line) => JSON.parse(line));
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
