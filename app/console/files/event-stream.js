/** Server-sent events: reading one stream, and following one across disconnections. */

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
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        throw isAbort(error) ? error : connectionError();
      });
      if (done) return;
      const blocks = (buffer + value).split("\n\n");
      buffer = blocks.pop() ?? "";
      for (const block of blocks) {
        const event = parseEvent(block);
        if (event?.event === "error") throw new ApiError(500, event.data.error);
        if (event) yield event;
      }
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
