/** Times of log lines as they are written there, without a time zone. */

const MINUTE_MS = 60_000;
const DAY_MS = 1440 * MINUTE_MS;

/**
 * Return a time as text, as exactly as a span of time needs it. @example timeText(0, 0) // '1970-01-01 00:00:00'
 *
 * @param {number} ms milliseconds since 1970
 * @param {number} spanMs 0: to the second, and milliseconds if there are any
 */
export function timeText(ms, spanMs) {
  const [date, time] = new Date(ms).toISOString().split("T");
  if (spanMs > 60 * DAY_MS) return date;
  if (spanMs > DAY_MS) return `${date} ${time.slice(0, 5)}`;
  if (spanMs > 10 * MINUTE_MS) return `${date} ${time.slice(0, 8)}`;
  return `${date} ${ms % 1000 ? time.slice(0, 12) : time.slice(0, 8)}`;
}
