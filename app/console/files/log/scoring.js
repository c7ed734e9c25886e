/**
 * Scoring a log of any size: it is sent in pieces, and the responses are read while they arrive.
 *
 * Browsers read a response only after the request is sent, so a piece is at most the 1 MiB that the service reads ahead.
 * The first pieces are small, so that the first lines are shown soon.
 */

import { ApiError, apiPath, connectionError, delay, request } from "../api.js";
import { readJsonLines } from "../event-stream.js";
import { lineCount, readLines, startOfLast } from "./source.js";

const FIRST_BYTES = 64 << 10;
const MAX_BYTES = 1 << 20;
const BUSY_MS = 1000;

/**
 * @typedef {object} Position where scoring continues after it was stopped
 * @property {number} offset in bytes, of the next piece
 * @property {number} line the number of lines before `offset`
 * @property {number} lastLine the number of the last line that was scored
 */

/** Return the position of the beginning. @returns {Position} */
export function startPosition() {
  return { offset: 0, line: 0, lastLine: 0 };
}

/**
 * Score a log from `position`, which moves along. Raises ApiError, or AbortError if `signal` is aborted; a later call
 * with the same position continues after the last scored line, and reports none twice.
 *
 * @param {Blob} blob
 * @param {object} options
 * @param {string} options.model
 * @param {Record<string, any>} options.query of `POST …/score`
 * @param {Position} options.position
 * @param {AbortSignal} options.signal
 * @param {(start: any) => void} options.onStart gets the first record of each piece
 * @param {(records: any[], piece: {data: Uint8Array, offset: number}) => void} options.onLines gets scored lines with
 *   absolute line numbers and offsets, and the bytes that contain them
 * @param {(end: any) => void} options.onEnd gets the last record of each piece
 */
export async function scoreLog(blob, { model, query, position, signal, onStart, onLines, onEnd }) {
  const path = `${apiPath("/v1/models", model, "score")}?${new URLSearchParams(query)}`;
  let maxBytes = FIRST_BYTES;
  while (position.offset < blob.size) {
    const { data, next } = await readLines(blob, position.offset, maxBytes);
    signal.throwIfAborted();
    const more = next < blob.size; // then the last event may go on in the next piece
    const end = await scorePiece(`${path}&more=${more}`, data, { position, signal, onStart, onLines });
    onEnd(end);
    position.offset = end.held ? position.offset + startOfLast(data, end.held) : next;
    position.line += end.lines;
    maxBytes = Math.min(2 * maxBytes, MAX_BYTES);
  }
}

/** Score one piece and return its last record. */
async function scorePiece(path, data, { position, signal, onStart, onLines }) {
  const { offset, line: linesBefore } = position;
  const response = await sendWhenFree(path, data, signal);
  let end = null;
  for await (const records of readJsonLines(response)) {
    const lines = [];
    for (const record of records) {
      if (record.object === "score.start") onStart(record);
      else if (record.object === "error") throw new ApiError(500, record.error);
      else if (record.object === "score.end") end = record;
      else if (record.line + linesBefore > position.lastLine) lines.push(record);
    }
    for (const record of lines) {
      record.line += linesBefore;
      record.offset += offset;
    }
    if (!lines.length) continue;
    position.lastLine = lines.at(-1).line;
    onLines(lines, { data, offset });
  }
  if (!end || end.lines + (end.held ?? 0) < lineCount(data)) throw connectionError(); // the response ended early: the service stops
  return end;
}

/** Send a piece; while the service has no room for it, wait. */
async function sendWhenFree(path, data, signal) {
  for (;;) {
    try {
      return await request("POST", path, { body: data, headers: { "Content-Type": "text/plain" }, signal });
    } catch (error) {
      if (error.status !== 429) throw error;
      await delay(BUSY_MS, signal);
      signal.throwIfAborted();
    }
  }
}
