"""Server-sent events, decoded from bytes that come in any pieces."""

from collections.abc import AsyncGenerator, AsyncIterable

from nextchar.lines import split_lines


async def decode_events(pieces: AsyncIterable[bytes]) -> AsyncGenerator[tuple[str, str], None]:
    """Yield the type and the data of each server-sent event (WHATWG HTML, 9.2.6).

    Lines end in LF or CR LF, no others: U+2028 and its like are ordinary characters of the data. An event
    that the end of the stream cuts short is dropped.
    """
    kind, data = "message", list[str]()
    async for line in split_lines(pieces):
        field, _, value = line.removesuffix(b"\r").decode(errors="replace").partition(":")
        if field == "event":
            kind = value.removeprefix(" ")
        elif field == "data":
            data.append(value.removeprefix(" "))
        elif line in (b"", b"\r"):
            if data:
                yield kind, "\n".join(data)
            kind, data = "message", []
