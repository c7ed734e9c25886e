import json
import random

import pytest

from nextchar.models.errors import Unavailable
from nextchar.models.text.line_file import Lines, fold

COUNTS = {"Berlin": 3, "berlin": 1, "São Paulo": 7, "New York": 5, "Łódź": 1, "ново": 2, "": 4}


def made(counts: dict[str, int] = COUNTS, **options: object) -> Lines:
    lines = Lines.make(counts, **options)  # type: ignore[arg-type]
    assert lines
    return lines


@pytest.mark.parametrize("characters", ["abcdE é", "".join(map(chr, range(0x4E00, 0x4F80)))])
def test_lines_are_kept_with_their_counts_in_the_order_of_their_folded_form(characters: str) -> None:
    rng = random.Random(1)
    counts = {"".join(rng.choices(characters, k=rng.randint(1, 9))): rng.randint(0, 9) for _ in range(500)}
    lines = Lines.load(made(counts).dump())
    texts = [lines.text(i) for i in range(len(lines))]
    assert {text: int(n) for text, n in zip(texts, lines.counts, strict=True)} == {
        text: n for text, n in counts.items() if fold(text)
    }
    folded = [lines.folded_text(i) for i in range(len(lines))]
    assert folded == sorted(map(fold, texts)) == list(map(fold, texts))


def test_withheld_lines_are_recognized_but_not_kept() -> None:
    lines = Lines.load(made(withheld=["Secret", "berlin"]).dump())
    assert lines.is_withheld("secret")
    assert lines.is_withheld("BERLIN")
    assert not lines.is_withheld("New York")
    kept = {lines.text(i) for i in range(len(lines))}
    assert kept == {"São Paulo", "New York", "Łódź", "ново"}
    assert b"ecret" not in lines.dump()


def test_no_line_makes_no_file() -> None:
    assert Lines.make({"": 3}) is None


def _changed(data: bytes, **changes: object) -> bytes:
    """Return a file whose header has other entries."""
    size = int.from_bytes(data[8:16], "little")
    header = json.loads(data[16 : 16 + size])
    header["arrays"] |= changes
    text = json.dumps(header).encode()
    return data[:8] + (size + 512).to_bytes(8, "little") + text.ljust(size + 512) + data[16 + size :]


def _with_entry(name: str, value: int) -> bytes:
    """Return a file with another number at the end of an array."""
    lines = made()
    array = getattr(lines, name).copy()
    array[-1] = value
    return Lines(**{**vars(lines), name: array}).dump()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04",
        made().dump()[:-70],
        made().dump()[:40],
        _changed(made().dump(), starts=["u4", 1 << 40, 0]),
        _changed(made().dump(), starts=["u4", 3, 0]),
        _changed(made().dump(), starts=["O", 3, 0]),
        _changed(made().dump(), more=["u4", 3, 0]),
        _with_entry("starts", 1 << 30),
        _with_entry("folded", 1),
        _with_entry("text_ends", 1 << 30),
        _with_entry("words", 1 << 30),
        _with_entry("alphabet", 0x110000),
        _with_entry("weight", 2),
    ],
)
def test_damaged_file_is_refused(data: bytes) -> None:
    with pytest.raises(Unavailable) as error:
        Lines.load(data)
    assert error.value.code == "model_damaged"


def test_file_of_a_newer_version_is_refused() -> None:
    data = made().dump().replace(b'"version": 1', b'"version": 2')
    with pytest.raises(Unavailable, match="update nextchar") as error:
        Lines.load(data)
    assert error.value.code == "model_format_unknown"
