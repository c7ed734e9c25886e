"""The time in a log line.

>>> line_time("Jun 14 15:16:01 combo sshd[19939]: check pass", now=1781449200.0)  # June 14, 2026, 15:00
1781450161.0
>>> line_time("[2026-06-14T15:16:01.5+02:00] started", now=0.0)
1781442961.5
"""

import re
from datetime import UTC, datetime, timedelta, timezone

_MAX_CHARACTERS = 200  # of a line that are searched
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH = f"(?P<name>{'|'.join(_MONTHS)})"
_CLOCK = r"(?P<hour>\d\d)[:.](?P<minute>\d\d)[:.](?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?"
_ZONE = r"(?: ?(?P<zone>Z|[+-]\d\d:?\d\d)\b)?"
_FORMATS = (  # ISO 8601, Apache and HTTP, syslog
    re.compile(rf"\b(?P<year>\d{{4}})[-/.](?P<month>\d\d)[-/.](?P<day>\d\d)[T _-]{_CLOCK}{_ZONE}"),
    re.compile(rf"\b(?P<day>\d{{1,2}})[/ -]{_MONTH}[/ -](?P<year>\d{{4}})[: ]{_CLOCK}{_ZONE}"),
    re.compile(rf"\b{_MONTH} +(?P<day>\d{{1,2}})(?: (?P<year>\d{{4}}))?,? {_CLOCK}{_ZONE}"),
)
_EPOCH = re.compile(r"\W{0,3}(?P<seconds>\d{10})(?:\.(?P<fraction>\d{1,9})|(?P<milliseconds>\d{3}))?\b")
_DAY = timedelta(days=1)


def line_time(line: str, *, now: float) -> float | None:
    """Return the first time in a line, in Unix seconds; None if it has none.

    A time without a zone is taken as UTC. One without a year, as in syslog, is in the latest year in which it
    is at most a day later than `now` (Unix seconds). The formats are ISO 8601 and its relatives, Apache's,
    syslog's, and Unix seconds or milliseconds at the beginning of the line.
    """
    head = line[:_MAX_CHARACTERS]
    if (epoch := _EPOCH.match(head)) and not head[epoch.end() : epoch.end() + 1].isdigit():
        fraction = f".{epoch['fraction'] or epoch['milliseconds'] or 0}"
        return int(epoch["seconds"]) + float(fraction)
    found = [match for pattern in _FORMATS if (match := pattern.search(head))]
    for match in sorted(found, key=lambda match: match.start()):
        try:
            return _seconds(match, datetime.fromtimestamp(now, UTC))
        except (ValueError, OverflowError):  # such as the 31st of June
            continue
    return None


def _seconds(match: re.Match[str], now: datetime) -> float:
    part = match.groupdict()
    month = int(part["month"]) if part.get("month") else _MONTHS.index(part["name"]) + 1
    clock = (int(part["hour"]), int(part["minute"]), min(59, int(part["second"])))  # 60: a leap second
    zone = _zone(part["zone"])
    if part["year"]:
        time = datetime(int(part["year"]), month, int(part["day"]), *clock, tzinfo=zone)
    else:
        years = (now.year + 1, now.year, now.year - 1, now.year - 2, now.year - 3, now.year - 4)
        times = (_in_year(year, month, int(part["day"]), clock, zone) for year in years)
        past = [time for time in times if time and time <= now + _DAY]
        if not past:
            raise ValueError("no recent year has this day")
        time = past[0]
    return time.timestamp() + float(f"0.{part['fraction'] or 0}")


def _in_year(year: int, month: int, day: int, clock: tuple[int, int, int], zone: timezone) -> datetime | None:
    try:
        return datetime(year, month, day, *clock, tzinfo=zone)
    except ValueError:
        if (month, day) == (2, 29):  # there is an earlier year that has it
            return None
        raise


def _zone(text: str | None) -> timezone:
    if not text or text == "Z":
        return UTC
    offset = timedelta(hours=int(text[1:3]), minutes=int(text[-2:]))
    return timezone(-offset if text[0] == "-" else offset)
