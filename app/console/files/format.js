/** Numbers, sizes, times and characters as text for people. */

const INTEGER = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
// Python rounds halves to even, too.
const RARITY = new Intl.NumberFormat("en", /** @type {any} */ ({ maximumFractionDigits: 0, roundingMode: "halfEven" }));
const NO_VALUE = "–";

/** 1234567 -> "1,234,567". @param {number | null | undefined} value */
export function integer(value) {
  return isMissing(value) ? NO_VALUE : INTEGER.format(value);
}

/** Bits with two decimals. @param {number | null | undefined} value */
export function bits(value) {
  return isMissing(value) ? NO_VALUE : value.toFixed(2);
}

/** At most `digits` decimals, no trailing zeros. @param {number | null | undefined} value */
export function decimal(value, digits = 2) {
  return isMissing(value) ? NO_VALUE : String(Number(value.toFixed(digits)));
}

/** 0.0312 -> "3.1 %". @param {number} share */
export function percent(share) {
  const value = share * 100;
  if (value > 0 && value < 0.005) return "< 0.01 %";
  return `${value >= 9.95 || value === 0 ? value.toFixed(0) : value.toFixed(value >= 0.095 ? 1 : 2)} %`;
}

/** Return a share as a percentage that keeps one digit however small it is: "5.0 %", "0.002 %". @param {number} share */
export function smallPercent(share) {
  return share >= 0.0001 ? percent(share) : `${Number((share * 100).toPrecision(1))} %`;
}

/** How rare a p-value is, as the command line writes it: 0.0003125 -> "1 in 3,200". @param {number} pValue */
export function rarity(pValue) {
  return `1 in ${RARITY.format(1 / pValue)}`;
}

/** 1536 -> "1.5 KiB". @param {number | null | undefined} bytes */
export function byteSize(bytes) {
  if (isMissing(bytes)) return NO_VALUE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, bytes)) / 10));
  const value = bytes / 1024 ** power;
  return `${power && value < 10 ? value.toFixed(1) : value.toFixed(0)} ${units[power]}`;
}

/** Seconds as "1:05" or "2:03:04". @param {number | null | undefined} seconds */
export function duration(seconds) {
  if (isMissing(seconds)) return NO_VALUE;
  const total = Math.max(0, Math.round(seconds));
  const twoDigits = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(total / 3600), Math.floor(total / 60) % 60];
  return hours ? `${hours}:${twoDigits(minutes)}:${twoDigits(total % 60)}` : `${minutes}:${twoDigits(total % 60)}`;
}

/** Unix seconds as a local date and time; today's as the time alone. @param {number} timestamp */
export function dateTime(timestamp) {
  const date = new Date(timestamp * 1000);
  const isToday = date.toDateString() === new Date().toDateString();
  return date.toLocaleString(
    [],
    isToday
      ? { hour: "2-digit", minute: "2-digit" }
      : { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" },
  );
}

/** "just now", "3 min ago", "5 h ago", "12 days ago"; later, the date. @param {number} timestamp Unix seconds */
export function ago(timestamp) {
  const seconds = Date.now() / 1000 - timestamp;
  if (seconds < 45) return "just now";
  if (seconds < 3600) return `${Math.max(1, Math.round(seconds / 60))} min ago`;
  if (seconds < 24 * 3600) return `${Math.round(seconds / 3600)} h ago`;
  if (seconds < 30 * 24 * 3600) return count(Math.round(seconds / (24 * 3600)), "day") + " ago";
  return new Date(timestamp * 1000).toLocaleDateString([], { day: "numeric", month: "short", year: "numeric" });
}

/** Unix seconds as a local date and time to the second. @param {number} timestamp */
export function exactTime(timestamp) {
  return new Date(timestamp * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "medium" });
}

/** Return what a corpus is called: its name, with the version of a later text, or its id. @param {any} corpus */
export function corpusName({ id, name, version }) {
  return name && version > 1 ? `${name}@${version}` : (name ?? id);
}

/** "1 line", "2 lines". */
export function count(number, noun) {
  return `${integer(number)} ${number === 1 ? noun : plural(noun)}`;
}

/** "lines", "corpora". @param {string} noun */
export function plural(noun) {
  return noun === "corpus" ? "corpora" : `${noun}s`;
}

/** A printable form of one character: whitespace and control characters are shown as symbols. */
export function visibleCharacter(character) {
  const symbols = { " ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍", "\u00a0": "⍽" };
  if (symbols[character]) return symbols[character];
  const codePoint = character.codePointAt(0);
  if (codePoint < 32) return String.fromCodePoint(0x2400 + codePoint);
  return /[\p{Cc}\p{Cf}\p{Mn}\p{Zs}]/u.test(character)
    ? `U+${codePoint.toString(16).toUpperCase().padStart(4, "0")}`
    : character;
}

/** The name of a character for screen readers. */
export function characterName(character) {
  const names = { " ": "space", "\n": "new line", "\t": "tab", "\r": "carriage return" };
  return names[character] ?? visibleCharacter(character);
}

/** The last `length` characters of a text. @param {string} text */
export function lastCharacters(text, length) {
  const characters = Array.from(text.slice(-2 * length)); // a character has at most two UTF-16 units
  return characters.slice(-length).join("");
}

/** @returns {value is null | undefined} */
function isMissing(value) {
  return value === null || value === undefined;
}
