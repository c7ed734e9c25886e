/** Streams: server-sent events, also across disconnections, and newline-delimited JSON. */

import { ApiError, connectionError, delay, isAbort, request } from "./api.js";

const RECONNECT_MS = 1000;
const PASSING = [0, 429, 502, 503, 504]; // the status while a service restarts behind a proxy, or is busy

/**
 * Yield {id, event, data} from a stream until its `done` event. After a disconnection it reconnects and continues
 * behind the last event received. Raises ApiError for an error response that does not pass, or an `error` event.
 *
 * @param {string} path
 * @param {{signal: AbortSignal}} options
 */
export async function* followEvents(path, { signal }) {
  let lastId = null;
  while (!signal.aborted) {
    try {
      const headers = { Accept: "text/event-stream", ...(lastId === null ? {} : { "Last-Event-ID": lastId }) };
      for await (const event of readEvents(await request("GET", path, { signal, headers }))) {
        lastId = event.id ?? lastId;
        yield event;
        if (event.event === "done") return;
      }
    } catch (error) {
      if (signal.aborted || !PASSING.includes(error.status ?? 0)) throw error;
    }
    await delay(RECONNECT_MS, signal);
  }
}

/** Yield the events of one response. Raises ApiError for an `error` event or a lost connection. */
export async function* readEvents(response) {
  for await (const blocks of readParts(response, "\n\n")) {
    for (const event of blocks.map(parseEvent)) {
      if (event?.event === "error") throw new ApiError(500, event.data.error);
      if (event) yield event;
    }
  }
}

/**
 * Yield the records of newline-delimited JSON in lists, one for each piece that arrives. Raises ApiError for a lost
 * connection.
 *
 * @param {Response} response
 * @returns {AsyncGenerator<any[]>}
 */
export async function* readJsonLines(response) {
  for await (const lines of readParts(response, "\n")) {
    if (lines.length) yield lines.filter(Boolean).map((line) => JSON.parse(line));
  }
}

/** Yield the texts that end with a separator, in lists, one for each piece of a response that arrives. */
async function* readParts(response, separator) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        throw isAbort(error) ? error : connectionError();
      });
      if (done) return;
      const parts = (rest + value).split(separator);
      rest = parts.pop() ?? "";
      yield parts;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parseEvent(block) {
  const fields = {};
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 1).replace(/^ /, "");
  }
  if (!fields.data) return null; // a keep-alive comment
  return { id: fields.id ?? null, event: fields.event ?? "message", data: JSON.parse(fields.data) };
}
