import hashlib
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from nextchar.models.config import MINIMUM_CHARACTERS
from nextchar.models.errors import InvalidInput
from nextchar.store.shuffled_lines import ShuffledLines

WORDS = [f"word {i}" for i in range(500)]
TEXT = "\n".join(WORDS)


def shuffled(*pieces: str, fraction: float = 0.1, seed: int = 1, part_bytes: int = 10**6) -> tuple[str, str]:
    """Return the training part and the held-out part."""
    size = sum(map(len, pieces))
    with ShuffledLines(
        pieces, size_bytes=size, validation_fraction=fraction, seed=seed, part_bytes=part_bytes
    ) as lines:
        text = "".join(lines.pieces())
        assert "".join(lines.pieces()) == text
        assert (lines.characters, lines.lines) == (len(text), text.count("\n"))
        return text[: lines.trained], text[lines.trained :]


@pytest.mark.parametrize("part_bytes", [10**6, 700])
def test_every_line_is_there_once_and_a_tenth_of_them_held_out(part_bytes: int) -> None:
    train, held_out = shuffled(TEXT, part_bytes=part_bytes)
    assert sorted((train + held_out).splitlines()) == sorted(WORDS)
    assert train.endswith("\n") and held_out.endswith("\n")
    assert 0.1 * len(TEXT) <= len(held_out) <= 0.1 * len(TEXT) + len(WORDS[-1]) + 1


@pytest.mark.parametrize("part_bytes", [10**6, 700])
def test_the_order_depends_on_the_seed_alone(part_bytes: int) -> None:
    whole = shuffled(TEXT, part_bytes=part_bytes)
    for size in (1, 7, 1000):
        pieces = [TEXT[i : i + size] for i in range(0, len(TEXT), size)]
        assert shuffled(*pieces, part_bytes=part_bytes) == whole
    assert shuffled(TEXT, seed=2, part_bytes=part_bytes) != whole


@pytest.mark.parametrize("part_bytes", [10**6, 60])
def test_every_order_is_equally_likely(part_bytes: int) -> None:
    lines = ["a" * 60, "b" * 60, "c" * 60, "d" * 60]
    orders = Counter(
        "".join(shuffled("\n".join(lines), seed=seed, part_bytes=part_bytes))[::61] for seed in range(600)
    )
    assert len(orders) == 24
    # Each count is binomial with mean 25 and standard deviation 4.9.
    assert all(5 < count < 45 for count in orders.values())


def test_lines_keep_their_carriage_returns_and_empty_ones_are_left_out() -> None:
    train, held_out = shuffled("".join(f"{word}\r\n\r\n" for word in WORDS) + "\n \n")
    assert sorted((train + held_out).split("\n")[:-1]) == sorted(f"{word}\r" for word in WORDS)


def test_white_space_of_any_script_is_an_empty_line() -> None:
    train, held_out = shuffled("\u3000\u00a0\n\x1f\u2028\n" + "\u3000漢字\n" * 200 + "\t\n\x85")
    assert train + held_out == "\u3000漢字\n" * 200


def test_equal_lines_and_lines_of_any_length_are_split() -> None:
    train, held_out = shuffled("same\n" * 100)
    assert (train, held_out) == ("same\n" * 90, "same\n" * 10)
    lines = [letter * 50_000 for letter in "abc"]
    train, held_out = shuffled("\n".join(lines), fraction=0.01, part_bytes=1000)
    assert (len(train), len(held_out)) == (100_002, 50_001)


@pytest.mark.parametrize("text", ["x" * 5000, "\n" * 300, f"{'x' * 5000}\nab\n", "x" * 150 + "\n" + "y" * 60])
def test_too_few_lines_are_an_error(text: str) -> None:
    with pytest.raises(InvalidInput, match="left to train on") as refused:
        for seed in range(20):  # in some orders enough may be left
            shuffled(text, seed=seed)
    assert (refused.value.code, refused.value.param) == ("too_few_records", "kind")


def test_no_file_stays_behind(tmp_path: Path) -> None:
    options: dict[str, Any] = {"size_bytes": 5000, "validation_fraction": 0.1, "seed": 1, "scratch": tmp_path}
    with ShuffledLines([TEXT], **options) as lines:
        assert next(lines.pieces())
    with pytest.raises(InvalidInput):
        ShuffledLines(["one line"], **options)
    assert list(tmp_path.iterdir()) == []


def test_the_order_is_not_that_of_the_text() -> None:
    ordered = sorted(WORDS)
    train, held_out = shuffled("\n".join(ordered))
    assert len({word[:6] for word in held_out.splitlines()}) > 4
    positions = [ordered.index(word) for word in train.splitlines()]
    rising = sum(a < b for a, b in pairwise(positions))
    assert 0.4 < rising / len(positions) < 0.6


@pytest.mark.parametrize("part_bytes", [10**6, 700])
def test_pieces_are_whole_lines_and_their_length_does_not_change_the_order(
    part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "\n".join(f"é漢 {word}" for word in WORDS)
    whole = shuffled(text, part_bytes=part_bytes)
    monkeypatch.setattr("nextchar.store.shuffled_lines._PIECE_BYTES", 100)
    assert shuffled(text, part_bytes=part_bytes) == whole
    with ShuffledLines([text], size_bytes=len(text), validation_fraction=0.1, seed=1) as lines:
        pieces = list(lines.pieces())
    assert len(pieces) > 50
    assert all(piece.endswith("\n") for piece in pieces)


def test_the_order_of_a_seed_is_that_of_earlier_releases() -> None:
    text = "".join(shuffled("\n".join(WORDS), part_bytes=700))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "ed3e54bbc10d6b53"


def test_the_order_of_a_text_that_is_shuffled_at_once_is_that_of_earlier_releases() -> None:
    text = "".join(shuffled("\n".join(WORDS)))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "a953cf8b0356e794"


def test_a_small_text_is_one_piece() -> None:
    with ShuffledLines([TEXT], size_bytes=len(TEXT), validation_fraction=0.1, seed=1) as lines:
        assert len(list(lines.pieces())) == 1


@pytest.mark.parametrize("missing", [0, 1])
def test_half_of_the_shortest_text_must_be_left_to_train_on(missing: int) -> None:
    line = "x" * (MINIMUM_CHARACTERS // 2 - 1 - missing) + "\n"  # one is held out, the other left
    if missing:
        with pytest.raises(InvalidInput, match="2 lines that are not empty"):
            shuffled(line * 2, fraction=0.01)
    else:
        assert shuffled(line * 2, fraction=0.01) == (line, line)
