/** Numbers, sizes, times and characters as people read them. */

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const DASH = "–";

/** 1234567 -> "1,234,567". @param {number | null | undefined} value */
export function whole(value) {
  return value === null || value === undefined ? DASH : WHOLE.format(value);
}

/** Bits a character with two places. @param {number | null | undefined} value */
export function bits(value) {
  return value === null || value === undefined ? DASH : value.toFixed(2);
}

/** At most `digits` places, no trailing zeros. @param {number | null | undefined} value */
export function decimal(value, digits = 2) {
  return value === null || value === undefined ? DASH : String(Number(value.toFixed(digits)));
}

/** 0.0312 -> "3.1 %". @param {number} share */
export function percent(share) {
  const value = share * 100;
  if (value > 0 && value < 0.005) return "< 0.01 %";
  return `${value >= 9.95 || value === 0 ? value.toFixed(0) : value.toFixed(value >= 0.095 ? 1 : 2)} %`;
}

/** 1536 -> "1.5 KiB". @param {number | null | undefined} bytes */
export function size(bytes) {
  if (bytes === null || bytes === undefined) return DASH;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const step = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, bytes)) / 10));
  const value = bytes / 1024 ** step;
  return `${step && value < 10 ? value.toFixed(1) : value.toFixed(0)} ${units[step]}`;
}

/** Seconds as "1:05" or "2:03:04". @param {number | null | undefined} seconds */
export function clock(seconds) {
  if (seconds === null || seconds === undefined) return DASH;
  const left = Math.max(0, Math.round(seconds));
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(left / 3600), Math.floor(left / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(left % 60)}` : `${minutes}:${two(left % 60)}`;
}

/** Unix seconds as a short local date and time. @param {number} at */
export function moment(at) {
  const date = new Date(at * 1000);
  const isToday = date.toDateString() === new Date().toDateString();
  return date.toLocaleString(
    [],
    isToday
      ? { hour: "2-digit", minute: "2-digit" }
      : { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" },
  );
}

/** One character that can be seen: a space, a newline and controls have signs of their own. */
export function visible(character) {
  const signs = { " ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍", "\u00a0": "⍽" };
  if (signs[character]) return signs[character];
  const point = character.codePointAt(0);
  if (point < 32) return String.fromCodePoint(0x2400 + point);
  return /[\p{Cc}\p{Cf}\p{Mn}\p{Zs}]/u.test(character)
    ? `U+${point.toString(16).toUpperCase().padStart(4, "0")}`
    : character;
}

/** A character's name for a screen reader. */
export function spoken(character) {
  const names = { " ": "space", "\n": "new line", "\t": "tab", "\r": "carriage return" };
  return names[character] ?? visible(character);
}

/** The end of a text, cut between characters. @param {string} text */
export function tail(text, length) {
  const characters = Array.from(text.slice(-2 * length));
  return characters.slice(-length).join("");
}

/** "1 line", "2 lines". */
export function count(number, noun) {
  return `${whole(number)} ${noun}${number === 1 ? "" : "s"}`;
}
