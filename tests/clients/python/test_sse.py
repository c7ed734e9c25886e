"""Server-sent events are read whatever pieces their bytes come in."""

import json
from collections.abc import AsyncGenerator

import pytest

from nextchar.connection import iterate
from nextchar.lines import decode_events

_STREAM = (
    b": ping\n\nid: 3\nevent: sample\ndata: "
    + json.dumps({"text": "a\u2028b\x85c é"}, ensure_ascii=False).encode()
    + b"\n\nevent: done\r\ndata: {}\r\n\r\n"
)
_EVENTS = [("sample", json.dumps({"text": "a\u2028b\x85c é"}, ensure_ascii=False)), ("done", "{}")]


def decoded(*pieces: bytes) -> list[tuple[str, str]]:
    async def stream() -> AsyncGenerator[bytes, None]:
        for piece in pieces:
            yield piece

    return list(iterate(decode_events(stream())))


@pytest.mark.parametrize("length", [1, 2, 7, 1000])
def test_events_do_not_depend_on_how_bytes_are_cut(length: int) -> None:
    assert decoded(*(_STREAM[i : i + length] for i in range(0, len(_STREAM), length))) == _EVENTS


def test_event_cut_short_by_the_end_is_dropped() -> None:
    assert decoded(b"data: whole\n\n", b"data: half\n") == [("message", "whole")]


def test_several_data_lines_are_one_event() -> None:
    assert [data for _, data in decoded(b"data: one\ndata\ndata:two\n\n")] == ["one\n\ntwo"]
