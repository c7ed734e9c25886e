"""The lines in the body of a request from a log agent, and their metadata.

A body of JSON has an object or a string per line, as JSON lines or in a list; a body of text has the lines
themselves. What is wrong with one line is reported and does not affect the others.
"""

import json
import math
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from nextchar.app.http.errors import UnsupportedMedia
from nextchar.app.http.threads import current_key
from nextchar.app.logs.ingest.records import LineMeta, NewLine
from nextchar.app.logs.ingest.schemas import MAX_REPORTED, IngestQuery, RejectedLine
from nextchar.models.errors import InvalidInput, TooLarge
from nextchar.models.text.lines import MAX_LINE_BYTES, split_lines

MAX_BODY_BYTES = 16 << 20
"""Maximum size of a request's body after decompression."""

MAX_BATCH_LINES = 100_000
"""Maximum number of lines in one request."""

TEXT_TYPES = ("text/plain",)
JSON_LINES_TYPES = ("application/x-ndjson", "application/ndjson", "application/jsonl")
JSON_TYPES = ("application/json",)

MEDIA_TYPES = (*JSON_LINES_TYPES, *JSON_TYPES, *TEXT_TYPES)

LINE_FIELDS = ("message", "MESSAGE", "log", "body", "msg", "line")
TIME_FIELDS = ("timestamp", "@timestamp", "time", "date", "ts", "ISODATE")
SOURCE_FIELDS = ("host.name", "host", "hostname", "HOST", "service.name", "source")

_MAX_JSON_CONTAINERS = 10 * MAX_BATCH_LINES  # lists and objects; each takes up to 200 bytes
_MAX_FIELD_CHARACTERS = 200  # of a source, and of the name of a calibration
_UNIX_UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))  # larger numbers are in nano-, micro-, milliseconds

Fields = Mapping[str, Any]


@dataclass
class ParsedLines:
    """The lines of a request; the number of rejected ones, and what is wrong with the first of them."""

    lines: list[NewLine] = field(default_factory=list)
    rejected: int = 0
    errors: list[RejectedLine] = field(default_factory=list)
    records: int = 0  # with and without an error

    def add(self, read: Callable[[], tuple[bytes, LineMeta]]) -> None:
        """Add the lines of the next record, which `read` returns, or the InvalidInput that it raises.

        Raises:
            TooLarge: the request has too many lines.
        """
        self.records += 1
        try:
            data, meta = read()
        except InvalidInput as error:
            self.rejected += 1
            if len(self.errors) < MAX_REPORTED:
                self.errors.append(RejectedLine(line=self.records, code=error.code, message=error.message))
        else:
            # A record may be several lines, such as a stack trace: they are joined before they are scored.
            parts = data.removesuffix(b"\n").split(b"\n", MAX_BATCH_LINES)
            self.lines += (NewLine(part[:MAX_LINE_BYTES], meta) for part in parts)
        if len(self.lines) + self.rejected > MAX_BATCH_LINES:
            raise batch_too_large(f"{MAX_BATCH_LINES:,} lines")


@dataclass(frozen=True)
class LineReader:
    """Finds the line, its time and its source in a record."""

    query: IngestQuery

    def line(self, value: Any, around: MutableMapping[str, Any] | None = None) -> tuple[bytes, LineMeta]:
        """Return the line of a record, which is a string or an object, and what is known of it.

        `around` has fields of what contains the record.

        Raises:
            InvalidInput: the record has no line.
        """
        fields = ChainMap(value if isinstance(value, dict) else {}, {} if around is None else around)
        return self.bytes_of(value), self.meta(fields)

    def bytes_of(self, value: Any) -> bytes:
        """Return the line of a record. Raises InvalidInput: it has none."""
        if isinstance(value, Mapping):
            names = (self.query.line,) if self.query.line else LINE_FIELDS
            found = next((v for v in _values(value, names)), None)
            if found is None:
                listed = ", ".join(f"`{name}`" for name in names)
                raise InvalidInput(
                    f"there is no field {listed}; name the field of the line with the parameter line",
                    code="no_line",
                )
            value = found
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str):
            raise InvalidInput("the line is not a string", code="line_not_a_string")
        # JSON allows unpaired surrogates, which UTF-8 cannot express: they become U+FFFD.
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()

    def meta(self, fields: Fields) -> LineMeta:
        """Return the time, source and calibration of a line, from the fields of its record."""
        query = self.query
        times = _values(fields, (query.time,) if query.time else TIME_FIELDS)
        sources = _values(fields, (query.source,) if query.source else SOURCE_FIELDS)
        source = next(filter(None, map(_short_text, sources)), query.default_source)
        calibration = query.calibration
        if query.calibration_by:
            named = next(iter(_values(fields, (query.calibration_by,))), None)
            calibration = _short_text(named) or calibration
        time = next((t for t in map(unix_time, times) if t is not None), None)
        owner = current_key() or None
        return LineMeta(time, source, calibration, query.false_alarms, owner)


def parse_lines(data: bytes, media_type: str, query: IngestQuery) -> ParsedLines:
    """Return the lines of a body.

    Raises:
        InvalidInput: it is not JSON as a whole (code `malformed_json`).
        TooLarge: it has too many lines.
        UnsupportedMedia: it is of another type.
    """
    reader, parsed = LineReader(query), ParsedLines()
    data = data.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
    if media_type in TEXT_TYPES:
        meta = reader.meta({})
        for line in split_lines(data):
            parsed.add(partial(_pair, line, meta))
    elif media_type in JSON_LINES_TYPES:
        for line in split_lines(data):
            if line.strip():
                parsed.add(partial(_json_line, line, reader))
    elif media_type in JSON_TYPES:
        for value in _json_records(data):
            parsed.add(partial(reader.line, value))
    else:
        raise UnsupportedMedia(
            f"send lines as {', '.join(MEDIA_TYPES)}, not {media_type or 'without a Content-Type'}",
            param="body",
        )
    return parsed


def load_json(data: bytes) -> Any:
    """Return the value of JSON.

    Raises:
        RecursionError: it is nested too deeply.
        TooLarge: it has so many lists and objects that they would take 24 times its memory.
        ValueError: it is not JSON.
    """
    if data.count(b"[") + data.count(b"{") > _MAX_JSON_CONTAINERS:  # or as many in strings
        raise batch_too_large(f"{_MAX_JSON_CONTAINERS:,} lists and objects")
    return json.loads(data)


def batch_too_large(limit: str) -> TooLarge:
    """Return the error of a request that exceeds a limit."""
    return TooLarge(
        f"a request has at most {limit}; send smaller batches", code="batch_too_large", param="body"
    )


def unix_time(value: Any) -> float | None:
    """Return a time as Unix seconds; None if it is none. Without a zone it is UTC.

    >>> unix_time("1970-01-01T00:01:00Z"), unix_time(1795563600000), unix_time("yesterday")
    (60.0, 1795563600.0, None)
    """
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return _iso_time(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return None
    if not math.isfinite(seconds) or seconds < 0:
        return None
    unit = next((unit for least, unit in _UNIX_UNITS if seconds >= least), 1)
    return seconds / unit


def _iso_time(text: str) -> float | None:
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _pair(line: bytes, meta: LineMeta) -> tuple[bytes, LineMeta]:
    return line, meta


def _json_line(line: bytes, reader: LineReader) -> tuple[bytes, LineMeta]:
    try:
        value = load_json(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"not JSON: {_reason(error)}", code="malformed_line") from None
    return reader.line(value)


def _json_records(data: bytes) -> Sequence[Any]:
    """Return the records of a JSON list, or the one that the body is."""
    try:
        value = load_json(data)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"the body is not JSON: {_reason(error)}; JSON lines need the type application/x-ndjson",
            code="malformed_json",
            param="body",
        ) from None
    return value if isinstance(value, list) else [value]


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]


def _values(fields: Fields, names: Iterable[str]) -> Iterator[Any]:
    """Yield the values of the fields that exist; `a.b` is the field `a.b`, or else `b` of the object `a`."""
    for name in names:
        value = fields.get(name)
        if value is None and "." in name:
            outer, _, inner = name.partition(".")
            inside = fields.get(outer)
            value = next(_values(inside, (inner,)), None) if isinstance(inside, Mapping) else None
        if value is not None:
            yield value


def _short_text(value: Any) -> str | None:
    """Return a string or number as text of bounded length; None for other values and for nothing."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        text = str(value)
    except ValueError:  # an integer of thousands of digits
        return None
    return text.encode("utf-8", "replace").decode()[:_MAX_FIELD_CHARACTERS] or None
