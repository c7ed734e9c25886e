/** A line as text, with its anomalous spans marked. */

import { h } from "../dom.js";

/**
 * Return the children of a line.
 *
 * @param {string} line
 * @param {{start: number, end: number}[] | null} spans in characters after NFC
 */
export function markedLine(line, spans) {
  const characters = Array.from(line.normalize("NFC"));
  const children = [];
  let end = 0;
  for (const span of [...(spans ?? [])].sort((a, b) => a.start - b.start)) {
    const start = Math.max(end, span.start);
    if (span.end <= start) continue;
    children.push(characters.slice(end, start).join(""), h("mark", {}, characters.slice(start, span.end).join("")));
    end = span.end;
  }
  return [...children, characters.slice(end).join("")];
}
