"""Which flagged lines are repeats."""

import math
import tracemalloc

import pytest

from nextchar.models.anomaly.calibrated_scorer import MIN_FLAGGED, RepeatFilter
from nextchar.models.text.templates import Templates

KNOWN = Templates.fit([f"login of user{i} from host{i % 7}" for i in range(40)])


def repeats(lines: list[str], *, rate: float = 0.01, normal_before: int = 0) -> list[bool]:
    """Return which of flagged lines are repeats, after so many lines that are not flagged."""
    found = RepeatFilter(rate, KNOWN.common)
    for _ in range(normal_before):
        found.count()
    return [found.is_repeat(line, KNOWN.parse(line)) for line in lines]


def test_few_lines_are_all_flagged() -> None:
    assert repeats(["disk sda failed to be read"] * MIN_FLAGGED) == [False] * MIN_FLAGGED


def test_further_lines_of_a_new_kind_are_repeats() -> None:
    lines = [f"disk sd{i} failed to read sector {i * 7919}" for i in range(30)]
    assert repeats(lines) == [False] * MIN_FLAGGED + [True] * 10


def test_the_first_line_of_another_new_kind_is_flagged_in_a_flood() -> None:
    flood = [f"disk sd{i} failed to read sector {i}" for i in range(30)]
    assert repeats([*flood, "fan stopped", "fan stopped"])[-2:] == [False, True]


def test_lines_of_a_known_template_are_repeats_if_only_numbers_differ() -> None:
    flood = [f"login of eve{i} from nowhere" for i in range(30)]
    assert not KNOWN.parse(flood[0]).template.is_new
    *_, repeat, other = repeats([*flood, "login of mallory from nowhere"])
    assert (repeat, other) == (True, False)


@pytest.mark.parametrize("normal", [0, 3_000, 100_000])
def test_what_the_rate_explains_is_flagged(normal: int) -> None:
    found = repeats(["disk full"] * 6_000, normal_before=normal)
    flagged = found.index(True)
    expected = 0.01 * (normal + flagged + 1)
    assert flagged == max(MIN_FLAGGED, math.ceil(3 * expected + 3 * math.sqrt(expected)))


def test_new_lines_with_few_words_in_common_are_all_flagged() -> None:
    attack = [
        f"id={a}{b}' or {c}" for a in "xyz" for b in "pqr" for c in ("drop", "union", "select", "sleep")
    ]
    assert not any(KNOWN.parse(line).template.count for line in attack)
    assert repeats(attack) == [False] * len(attack)


@pytest.mark.parametrize(
    ("fixed", "values", "are_alike"),
    [(3, 1, False), (4, 1, True), (4, 2, True), (4, 3, False), (6, 4, True), (6, 5, False)],
)
def test_lines_are_alike_by_four_words_and_six_tenths_of_their_template(
    fixed: int, values: int, are_alike: bool
) -> None:
    words = ["disk", "fails", "with", "error", "in", "the"][:fixed]
    names = [a + b for a in "abcde" for b in ("lpha", "ravo", "arol", "elta", "cho", "oxe")]
    lines = [
        " ".join([*words, *(names[(i * (2 * k + 1) + k) % 30] for k in range(values))]) for i in range(26)
    ]
    assert all(KNOWN.parse(line).template.is_new for line in lines)
    assert repeats(lines) == [False] * MIN_FLAGGED + [are_alike] * 6


def test_kinds_beyond_the_limit_are_flagged_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextchar.models.anomaly.calibrated_scorer._MAX_KINDS", 2)
    found = repeats([*["fan 1 stopped"] * MIN_FLAGGED, "door 1 open", "lamp 1 off"] * 2)
    assert found[-3:] == [True, True, False]


def test_long_lines_are_remembered_in_little_memory() -> None:
    found = RepeatFilter(0.01, KNOWN.common)

    def is_repeat(number: int) -> bool:
        line = chr(0x4E00 + number) * 49_999 + "\ud800"
        return found.is_repeat(line, KNOWN.parse(line))

    tracemalloc.start()
    try:
        assert not any(map(is_repeat, range(100)))
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()
    assert all(map(is_repeat, range(100)))
