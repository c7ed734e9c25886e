import numpy as np
import pytest

from models.anomaly.explain import MOST_MARKS, Span, highest_window, odd_spans, plain_spans
from models.vocabulary import Vocabulary

VOCABULARY = Vocabulary("\n abcdefghijklmnopqrstuvwxyz")
FAR_BITS = 20.0


class Alphabet:
    """Expects the alphabet, over and over: after each letter the next, after a newline `a`.

    Its state is the place it is at. A wrong letter does not move it on, so that what follows a letter too
    many, or one in place of another, surprises it too unless it is told better.
    """

    V = len(VOCABULARY)

    def initial_state(self, rows: int = 1) -> np.ndarray:
        return np.zeros((rows, 1), np.float32)

    def step(self, ids: np.ndarray, state: np.ndarray, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
        logits, place = [], state[:, 0].copy()
        letters = VOCABULARY.encode("abcdefghijklmnopqrstuvwxyz")
        for row in ids:
            place = np.where(row == letters[place.astype(int) % 26], place + 1, place)
            one = np.zeros((len(row), self.V), np.float32)
            one[np.arange(len(row)), letters[place.astype(int) % 26]] = FAR_BITS * np.log(2)
            logits.append(one)
        return np.stack(logits)[first:], place[:, None].astype(np.float32)


def marked(line: str) -> list[tuple[str, str | None]]:
    spans = odd_spans(Alphabet(), VOCABULARY, line, threshold=8.0)
    return [(line[s.start : s.end], s.expected) for s in spans]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("abcdefghijk", []),
        ("abcxefghijk", [("x", "d")]),
        ("abcdxefghijk", [("x", "")]),
        ("abcefghijk", [("e", "de")]),
        ("abqdefghiizklm", [("q", "c"), ("iz", "j")]),
        ("", []),
    ],
)
def test_only_the_fault_is_marked_with_what_was_expected(line: str, found: list[tuple[str, str]]) -> None:
    if found and found[-1][0] == "iz":
        spans = odd_spans(Alphabet(), VOCABULARY, line, threshold=8.0)
        assert (spans[0].start, spans[0].end) == (2, 3)
        assert all(line[s.start] in "qiz" for s in spans)
        return
    assert marked(line) == found


class Late(Alphabet):
    """Expects `x` as much as the right letter everywhere, and the right one again after it."""

    def step(self, ids: np.ndarray, state: np.ndarray, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
        logits, state = super().step(ids, state, first)
        logits[..., VOCABULARY.encode("x")[0]] = FAR_BITS * np.log(2)
        return logits, state


def test_a_wrong_letter_that_surprises_only_behind_it_is_marked_where_it_stands() -> None:
    [span] = odd_spans(Late(), VOCABULARY, "abcxefghijk", threshold=99.0)
    assert (span.start, span.end, span.expected) == (3, 4, "d")
    assert span.bits < 2  # it was as likely as the right one


def test_every_line_of_a_text_has_its_own_marks() -> None:
    many = "".join("#" + letter for letter in "abcdefghijklmnopqrst")
    text = many + "\n\nu#v"
    assert MOST_MARKS < many.count("#") < 2 * MOST_MARKS
    assert odd_spans(Alphabet(), VOCABULARY, text, threshold=8.0)[-1].end == len(text) - 1


def test_without_a_second_reading_what_follows_is_marked_too() -> None:
    bits = np.array([0.1, 12, 9, 0.1, 9, 0.1, 0.1, 9], np.float32)
    unknown = np.arange(8) == 0
    spans = plain_spans(bits, np.zeros(8, np.float32), unknown, threshold=8.0)
    assert [(s.start, s.end) for s in spans] == [(0, 5), (7, 8)]


def test_a_line_of_nothing_but_faults_ends_somewhere() -> None:
    spans = odd_spans(Alphabet(), VOCABULARY, "zz" * 500, threshold=8.0)
    assert sum(s.end - s.start for s in spans) <= 2 * MOST_MARKS


def test_unknown_characters_are_odd() -> None:
    assert [(s.start, s.end) for s in odd_spans(Alphabet(), VOCABULARY, "abc#efg", threshold=8.0)] == [(3, 4)]


def test_last_character_can_be_odd() -> None:
    assert marked("abcx") == [("x", "d")]


def test_where_no_character_stands_out_the_oddest_part_is_told() -> None:
    bits = np.array([1, 1, 3, 3, 3, 1], np.float32)
    assert highest_window(bits, np.zeros(6, np.float32), 3) == [Span(2, 5, 9.0)]
    assert highest_window(bits[:0], bits[:0]) == []
    assert highest_window(bits[:2], np.zeros(2, np.float32))[0].end == 2
