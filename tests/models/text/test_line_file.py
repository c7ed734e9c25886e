import json
import random

import numpy as np
import pytest

from nextchar.models.errors import Unavailable
from nextchar.models.text.line_file import Lines, fold

COUNTS = {"nul\x00": 1, "Berlin": 3, "berlin": 1, "São Paulo": 7, "New York": 5, "Łódź": 1, "ново": 2, "": 4}


def made(counts: dict[str, int] = COUNTS, **options: object) -> Lines:
    lines = Lines.make(counts, **options)  # type: ignore[arg-type]
    assert lines is not None
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


@pytest.mark.parametrize("characters", ["abcdE é", "".join(map(chr, range(0x4E00, 0x4F80)))])
def test_lines_that_are_added_are_as_if_they_had_been_there(characters: str) -> None:
    rng = random.Random(1)
    texts = ["".join(rng.choices(characters, k=rng.randint(1, 9))) for _ in range(600)]
    counts = {text: rng.randint(0, 9) for text in texts[:400]}
    more = [*texts[300:], "a new letter: ж", "", "nul\x00"]
    lines = Lines.load(made(counts).dump()).with_lines(more)
    kept = [lines.text(i) for i in range(len(lines))]
    assert {*map(fold, kept)} == {
        key for text in (*counts, *more) if (key := fold(text)) and "\x00" not in key
    }
    assert lines.dump() == made({text: counts.get(text, 0) for text in kept}).dump()
    for text, line in zip(more[:-2], lines.find(more[:-2]).tolist(), strict=True):
        assert not fold(text) or fold(kept[line]) == fold(text)
    assert lines.find(["", "nul\x00", "another letter: ю"]).tolist() == [-1, -1, -1]


def test_a_text_is_found_as_itself_or_as_the_most_frequent_line_that_folds_to_it() -> None:
    lines = made()
    assert [lines.text(i) for i in lines.find(["berlin", "BERLIN", "Sao Paulo"])] == [
        "berlin",
        "Berlin",
        "São Paulo",
    ]


def test_withheld_lines_are_recognized_but_not_kept() -> None:
    lines = Lines.load(made(withheld=["Secret", "berlin"]).dump())
    assert lines.is_withheld("secret")
    assert lines.is_withheld("BERLIN")
    assert not lines.is_withheld("New York")
    kept = {lines.text(i) for i in range(len(lines))}
    assert kept == {"São Paulo", "New York", "Łódź", "ново"}
    assert b"ecret" not in lines.dump()


def test_line_with_the_character_that_ends_lines_is_left_out() -> None:
    assert "nul" not in {made().folded_text(i)[:3] for i in range(len(made()))}


def test_lines_that_are_all_withheld_are_recognized_all_the_same() -> None:
    lines = Lines.load(made({"Secret": 1}, withheld=["secret", ""]).dump())
    assert len(lines) == 0 and lines.is_withheld("SECRET") and lines.find(["secret"]).tolist() == [-1]
    added = lines.with_lines(["Known", "Ж"]).with_counts(np.array([3, 4]))
    assert [(added.text(i), int(added.counts[i])) for i in range(2)] == [("Known", 3), ("Ж", 4)]


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
