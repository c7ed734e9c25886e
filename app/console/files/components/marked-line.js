/** A line as text, with its anomalous spans marked. */

import { h } from "../dom.js";

/** The names of masks by the placeholders that they leave; fonts often lack the characters. */
const PLACEHOLDERS = {
  "ⓣ": "time",
  "ⓤ": "uuid",
  "ⓘ": "ip",
  "ⓗ": "hex",
  "ⓝ": "numbers",
  "ⓓ": "date",
  "ⓨ": "date",
  "ⓛ": "long numbers",
  "ⓖ": "digits",
  "ⓒ": "loose time",
  "ⓢ": "hostname",
  "ⓐ": "alphanumeric",
  "ⓩ": "local date",
  "ⓚ": "compact time",
  "ⓟ": "date",
  "ⓥ": "elapsed",
  "ⓔ": "uptime",
  "ⓜ": "mac",
  "ⓞ": "value",
};
const PLACEHOLDER = new RegExp(`[${Object.keys(PLACEHOLDERS).join("")}]`, "u");

/**
 * Return a text as children in which each placeholder of a mask is drawn as the mask's name; copied, it is the
 * character. Spans are marked.
 *
 * @param {string} line
 * @param {{start: number, end: number}[] | null} [spans] in characters after NFC
 */
export function maskedLine(line, spans = null) {
  const characters = Array.from(line.normalize("NFC"));
  const children = [];
  let end = 0;
  for (const span of [...(spans ?? [])].sort((a, b) => a.start - b.start)) {
    const start = Math.max(end, span.start);
    if (span.end <= start) continue;
    children.push(
      placeholders(characters.slice(end, start)),
      h("mark", placeholders(characters.slice(start, span.end))),
    );
    end = span.end;
  }
  return [...children, placeholders(characters.slice(end))];
}

/** Return characters as children, with a drawing of each placeholder. @param {string[]} characters */
export function placeholders(characters) {
  const text = characters.join("");
  if (!PLACEHOLDER.test(text)) return text;
  return characters.map((one) =>
    one in PLACEHOLDERS ? h("span.placeholder", { "data-name": `‹${PLACEHOLDERS[one]}›` }, one) : one,
  );
}
