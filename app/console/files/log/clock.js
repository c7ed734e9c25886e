/**
 * The time of a log line, found in its first characters.
 *
 * Times are read as they are written: offsets from UTC are ignored, so that an axis shows what the lines say.
 */

const SEARCHED_CHARACTERS = 128;
const DAY_MS = 86_400_000;
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const MONTH = `(${MONTHS.join("|")})`;
const TIME = "(\\d\\d):(\\d\\d):(\\d\\d)(?:[.,](\\d{1,9}))?";

/** Each format: an expression, and a function from its groups to [year or null, month from 0, day, h, m, s, fraction]. */
const CALENDAR_FORMATS = [
  // 2024-05-06T07:08:09.123Z, 2024/05/06 07:08:09, 2005-06-03-15.42.50.363779
  [
    /(?<!\d)((?:19|20)\d\d)[-/.](\d\d)[-/.](\d\d)[T _-](\d\d)[:.](\d\d)[:.](\d\d)(?:[.,](\d{1,9}))?/,
    ([y, mo, d, ...time]) => [Number(y), mo - 1, d, ...time],
  ],
  // 10/Oct/2000:13:55:36 (access logs)
  [
    new RegExp(`(?<!\\d)(\\d{1,2})/${MONTH}/(\\d{4})[: ]${TIME}`),
    ([d, mo, y, ...time]) => [Number(y), MONTHS.indexOf(mo), d, ...time],
  ],
  // Dec 10 06:55:46 (syslog), Sun Dec 04 04:47:44 2005
  [
    new RegExp(`\\b${MONTH} +(\\d{1,2}) ${TIME}(?: (\\d{4})\\b)?`),
    ([mo, d, h, m, s, fraction, y]) => [y ? Number(y) : null, MONTHS.indexOf(mo), d, h, m, s, fraction],
  ],
  // 17/06/09 20:10:40
  [new RegExp(`^(\\d\\d)/(\\d\\d)/(\\d\\d) ${TIME}`), ([y, mo, d, ...time]) => [2000 + Number(y), mo - 1, d, ...time]],
  // 081109 203518
  [/^(\d\d)(\d\d)(\d\d) (\d\d)(\d\d)(\d\d)\b/, ([y, mo, d, ...time]) => [2000 + Number(y), mo - 1, d, ...time]],
];

/** Seconds or milliseconds since 1970, from 2001 to 2033. */
const EPOCH = /(?:^|[\s"'[({=:|,])(1\d{9})(?:\.(\d{1,9})|(\d{3}))?(?!\d)/;

/**
 * Return a function from a line to its time in milliseconds since 1970, or NaN.
 *
 * @param {number} referenceTime a date without a year is the last such date before this time
 * @returns {(text: string) => number}
 */
export function makeClock(referenceTime) {
  let last = -1; // the format of the line before is tried first
  const formats = [...CALENDAR_FORMATS.map(calendarReader(referenceTime)), readEpoch];

  return (text) => {
    const start = text.slice(0, SEARCHED_CHARACTERS);
    const usual = formats[last]?.(start);
    if (usual) return usual.time;
    let first = null;
    for (const [index, read] of formats.entries()) {
      const found = read(start);
      if (!found || (first && first.index <= found.index)) continue;
      first = found;
      last = index;
    }
    return first ? first.time : NaN;
  };
}

function calendarReader(referenceTime) {
  const referenceYear = new Date(referenceTime).getUTCFullYear();
  return ([expression, fields]) =>
    (start) => {
      const match = expression.exec(start);
      if (!match) return null;
      const [year, month, day, hours, minutes, seconds, fraction] = fields(match.slice(1));
      if (month < 0 || month > 11 || day < 1 || day > 31 || hours > 23 || minutes > 59 || seconds > 60) return null;
      const at = (y) =>
        Date.UTC(y, month, Number(day), Number(hours), Number(minutes), Number(seconds)) + milliseconds(fraction);
      if (year !== null) return { index: match.index, time: at(year) };
      const time = at(referenceYear);
      return { index: match.index, time: time > referenceTime + DAY_MS ? at(referenceYear - 1) : time };
    };
}

function readEpoch(start) {
  const match = EPOCH.exec(start);
  if (!match) return null;
  return { index: match.index, time: Number(match[1]) * 1000 + (match[3] ? Number(match[3]) : milliseconds(match[2])) };
}

/** @param {string | undefined} fraction digits behind the point of a second */
function milliseconds(fraction) {
  return fraction ? Math.floor(Number(`0.${fraction}`) * 1000) : 0;
}
