"""Server-sent events: bytes in any pieces -> events. Knows no HTTP and nothing of what events mean."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class ServerSentEvent:
    """One event as it came; `id` is the last one seen on the stream, as the standard has it."""

    event: str
    data: str
    id: str | None


def parse(chunks: Iterable[bytes]) -> Iterator[ServerSentEvent]:
    r"""Yield the events of a stream; an event that the stream's end cuts short is dropped.

    Lines end in LF or CR LF, no others: U+2028 and its like are ordinary characters of the data.

    >>> [e.data for e in parse([b": ping\n\nid: 4\nda", b"ta: one\ndata: two\n\ndata: cut"])]
    ['one\ntwo']
    """
    event, data, last_id = "message", list[str](), None
    for line in _lines(chunks):
        if not line:
            if data:
                yield ServerSentEvent(event, "\n".join(data), last_id)
            event, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            event = value
        elif field == "data":
            data.append(value)
        elif field == "id" and "\0" not in value:
            last_id = value


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r").decode(errors="replace")
