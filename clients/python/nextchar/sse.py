"""Server-sent events, decoded from bytes that come in any pieces."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class ServerSentEvent:
    """One event; `id` is the last one seen on the stream, as the standard has it."""

    event: str
    data: str
    id: str | None


class EventDecoder:
    r"""Decodes a stream of server-sent events (WHATWG HTML, 9.2.6).

    Lines end in LF or CR LF, no others: U+2028 and its like are ordinary characters of the data. An event
    that the end of the stream cuts short is dropped.

    >>> decoder = EventDecoder()
    >>> [e.data for piece in (b": ping\n\nid: 4\nda", b"ta: one\ndata: two\n\n") for e in decoder.feed(piece)]
    ['one\ntwo']
    """

    def __init__(self) -> None:
        self._rest = b""
        self._event, self._data = "message", list[str]()
        self._last_id: str | None = None

    def feed(self, piece: bytes) -> Iterator[ServerSentEvent]:
        """Take the next bytes; yield the events that end in them."""
        *whole, self._rest = (self._rest + piece).split(b"\n")
        for line in whole:
            event = self._take_line(line.removesuffix(b"\r").decode(errors="replace"))
            if event:
                yield event

    def _take_line(self, line: str) -> ServerSentEvent | None:
        if not line:
            event, data = self._event, self._data
            self._event, self._data = "message", []
            return ServerSentEvent(event, "\n".join(data), self._last_id) if data else None
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._event = value
        elif field == "data":
            self._data.append(value)
        elif field == "id" and "\0" not in value:
            self._last_id = value
        return None
