import json
import tracemalloc

import pytest

from nextchar.app.openai.json_lines import JsonLines
from nextchar.models.errors import InvalidInput

FILE = (
    b'{"text": "two\\nlines"}\n'
    b"\n"
    b'{"prompt": "Q: \xc3\xa9", "completion": " A\\n", "weight": 1}\r\n'
    b'{"text": "\\ud83d\\ude00"}'
)
TEXT = "two\nlines\nQ: é A\n😀\n".encode()


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_pieces_of_any_size_give_the_same_text(size: int) -> None:
    lines = JsonLines()
    pieces = [lines.feed(FILE[at : at + size]) for at in range(0, len(FILE), size)]
    assert b"".join(pieces) + lines.finish() == TEXT


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"plain text", "not JSON"),
        (b'{"text": "\xff"}', "not JSON"),
        (b'{"text": 3}', "not an example"),
        (b'["text"]', "not an example"),
        (b'{"prompt": "a"}', "not an example"),
        (b'{"messages": []}', "is a chat"),
        (b"[" * 90_000, "not JSON"),
    ],
)
def test_wrong_line_is_named_by_its_number(line: bytes, says: str) -> None:
    lines = JsonLines()
    lines.feed(b'{"text": "a"}\n\n')
    with pytest.raises(InvalidInput, match=f"line 3 of the file .*{says}"):
        lines.feed(line + b"\n")


def test_a_line_without_end_is_refused_before_it_fills_the_memory() -> None:
    lines, piece = JsonLines(), b"a" * (1 << 20)
    with pytest.raises(InvalidInput, match="line 1 of the file is longer than 16,777,216 bytes"):
        for _ in range(20):
            lines.feed(piece)


def test_line_of_very_many_values_is_refused_before_it_is_parsed() -> None:
    text = '[{"a, b": "c\\\\"}, ' * 100_000  # of these only the string is parsed
    assert JsonLines().feed(json.dumps({"text": text}).encode() + b"\n") == text.encode() + b"\n"
    for values in (b"[]," * 200_000 + b"[]", b'"",' * 1_200_000 + b'""', b"[" * 200_000 + b"]" * 200_000):
        tracemalloc.start()
        try:
            with pytest.raises(InvalidInput, match="line 1 of the file has more than 100,000 lists"):
                JsonLines().feed(b'{"text": "a", "other": [' + values + b"]}\n")
            assert tracemalloc.get_traced_memory()[1] < 8 * len(values)
        finally:
            tracemalloc.stop()
