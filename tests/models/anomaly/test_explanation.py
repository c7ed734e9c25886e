import numpy as np
import pytest

from nextchar.models.anomaly import noisy_channel
from nextchar.models.anomaly.noisy_channel import FAULT_BITS, MAX_MARKS, explain
from nextchar.models.anomaly.spans import Span, highest_window, threshold_spans
from nextchar.models.architectures.onnx_graph import stateful_lstm_graph
from nextchar.models.runtime.session import Network, StepNetwork
from nextchar.models.text.vocabulary import Vocabulary
from tests.models.anomaly import simple_explanation
from tests.models.runtime.networks import CHARACTERS, random_weights

VOCABULARY = Vocabulary("\n abcdefghijklmnopqrstuvwxyz")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
FAR_BITS = 20.0


class Alphabet:
    """Predicts the alphabet, over and over: after each letter the next, after a newline `a`.

    Its state is the position in the alphabet. A wrong letter does not advance it, so the letters after an
    insertion or a substitution are surprising too, unless the fault is corrected.
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


def anomalous_spans(
    network: StepNetwork, vocabulary: Vocabulary, line: str, *, threshold: float
) -> list[Span]:
    [spans] = explain(network, vocabulary, [line], threshold=threshold)
    assert spans is not None
    return spans


def marked(line: str) -> list[tuple[str, str | None]]:
    spans = anomalous_spans(Alphabet(), VOCABULARY, line, threshold=8.0)
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
    assert marked(line) == found


@pytest.mark.parametrize("kind", ["substitution", "insertion", "deletion", "unknown"])
def test_a_fault_is_found_at_every_position(kind: str) -> None:
    text = LETTERS * 2
    for at in range(len(text) - 2):  # at the end nothing tells one edit from another
        right, wrong = text[at], LETTERS[(LETTERS.index(text[at]) + 13) % 26]
        line, found = {
            "substitution": (text[:at] + wrong + text[at + 1 :], (wrong, right)),
            "insertion": (text[:at] + wrong + text[at:], (wrong, "")),
            "deletion": (text[:at] + text[at + 1 :], (text[at + 1], right + text[at + 1])),
            "unknown": (text[:at] + "#" + text[at + 1 :], ("#", right)),
        }[kind]
        spans = anomalous_spans(Alphabet(), VOCABULARY, line, threshold=8.0)
        assert [(s.start, s.end) for s in spans] == [(at, at + 1)], line
        assert (line[at], spans[0].expected) == found, line


class Late(Alphabet):
    """Predicts `x` and the correct letter equally, and the correct letter again after `x`."""

    def step(self, ids: np.ndarray, state: np.ndarray, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
        logits, state = super().step(ids, state, first)
        logits[..., VOCABULARY.encode("x")[0]] = FAR_BITS * np.log(2)
        return logits, state


def test_fault_that_is_surprising_only_after_it_is_marked_at_its_position() -> None:
    [span] = anomalous_spans(Late(), VOCABULARY, "abcxefghijk", threshold=99.0)
    assert (span.start, span.end, span.expected) == (3, 4, "d")
    assert span.bits < 2  # as likely as the correct letter


def test_every_line_of_a_text_has_its_own_marks() -> None:
    many = "".join("#" + letter for letter in "abcdefghijklmnopqrst")
    text = many + "\n\nu#v"
    assert MAX_MARKS < many.count("#") < 2 * MAX_MARKS
    assert anomalous_spans(Alphabet(), VOCABULARY, text, threshold=8.0)[-1].end == len(text) - 1


def test_without_explanation_consequences_are_marked_too() -> None:
    bits = np.array([0.1, 12, 9, 0.1, 9, 0.1, 0.1, 9], np.float32)
    unknown = np.arange(8) == 0
    spans = threshold_spans(bits, np.zeros(8, np.float32), unknown, threshold=8.0)
    assert [(s.start, s.end) for s in spans] == [(0, 5), (7, 8)]


def test_marks_of_a_line_of_faults_are_bounded() -> None:
    spans = anomalous_spans(Alphabet(), VOCABULARY, "zz" * 500, threshold=8.0)
    assert sum(s.end - s.start for s in spans) <= 2 * MAX_MARKS


def test_unknown_characters_are_anomalous() -> None:
    assert [(s.start, s.end) for s in anomalous_spans(Alphabet(), VOCABULARY, "abc#efg", threshold=8.0)] == [
        (3, 4)
    ]


def test_last_character_can_be_anomalous() -> None:
    assert marked("abcx") == [("x", "d")]


def test_highest_window_is_the_part_with_the_highest_excess() -> None:
    bits = np.array([1, 1, 3, 3, 3, 1], np.float32)
    assert highest_window(bits, np.zeros(6, np.float32), 3) == [Span(2, 5, 9.0)]
    assert highest_window(bits[:0], bits[:0]) == []
    assert highest_window(bits[:2], np.zeros(2, np.float32))[0].end == 2


def damaged_lines(count: int = 20) -> list[str]:
    """Lines of the alphabet, with some letters lost, doubled, replaced or unknown."""
    random = np.random.default_rng(3)
    lines = []
    for length in random.integers(0, 60, count):
        line = [*(LETTERS * 3)[:length]]
        for place in random.integers(0, max(1, length), 4 * (length > 10)):
            line[place] = str(random.choice(["", "q#", "zz", "é", "x"]))
        lines.append("".join(line))
    return lines


@pytest.fixture(scope="module")
def network() -> Network:
    weights = random_weights(len(CHARACTERS) + 1, 5, [9, 7])
    weights["dense/kernel"] *= 6  # for confident predictions and high surprisal
    return Network(stateful_lstm_graph(weights))


def test_many_lines_have_the_spans_of_the_simple_reference(network: Network) -> None:
    known = Vocabulary(CHARACTERS)
    lines = [*damaged_lines(), "a" * 300, "é#" * 40, "ab\n" * 9]
    together = explain(network, known, lines, threshold=6.0)
    assert together == [
        simple_explanation.anomalous_spans(network, known, line, threshold=6.0) for line in lines
    ]
    spans = [span for found in together for span in found or ()]
    assert len(spans) > 50 and sum(span.expected is not None for span in spans) > 15


def test_spans_are_the_same_alone_and_in_any_batch(network: Network) -> None:
    known, lines = Vocabulary(CHARACTERS), damaged_lines()
    together = explain(network, known, lines, threshold=6.0)
    assert together == [anomalous_spans(network, known, line, threshold=6.0) for line in lines]
    assert together == explain(network, known, lines[::-1], threshold=6.0)[::-1]


class Counting(Alphabet):
    """Counts the characters read."""

    read = 0

    def step(self, ids: np.ndarray, state: np.ndarray, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
        self.read += ids.size
        return super().step(ids, state, first)


def test_first_lines_are_explained_until_the_limit() -> None:
    lines = [f"abcdefgh{wrong}jklmnop" for wrong in "qrstuvwxyz" * 20]
    network, limit = Counting(), 10_000
    spans = explain(network, VOCABULARY, lines, threshold=8.0, max_read=limit)
    whole = explain(Alphabet(), VOCABULARY, lines, threshold=8.0)
    explained = [i for i, found in enumerate(spans) if found is not None]
    assert 8 < len(explained) < 100 and explained == list(range(len(explained)))
    assert [spans[i] for i in explained] == [whole[i] for i in explained]
    assert network.read < 4 * limit  # some steps are padded
    assert spans == explain(Alphabet(), VOCABULARY, lines, threshold=8.0, max_read=limit)


def test_text_that_exceeds_the_limit_is_abandoned() -> None:
    network = Counting()
    assert explain(network, VOCABULARY, ["zq" * 5_000 + "\n" * 900], threshold=8.0, max_read=3_000) == [None]
    assert network.read < 12_000


@pytest.mark.parametrize("limit", ["MAX_EXAMINED", "MAX_MARKS"])
def test_limits_of_a_line_are_those_of_the_simple_reference(
    network: Network, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, lines = Vocabulary(CHARACTERS), damaged_lines()
    unlimited = explain(network, known, lines, threshold=6.0)
    monkeypatch.setattr(noisy_channel, limit, 2)
    monkeypatch.setattr(simple_explanation, limit, 2)
    limited = explain(network, known, lines, threshold=6.0)
    assert limited != unlimited
    assert limited == [
        simple_explanation.anomalous_spans(network, known, line, threshold=6.0) for line in lines
    ]


class Sure(Alphabet):
    """For which the correct letter is likelier than each other one by so many bits."""

    def __init__(self, bits: float) -> None:
        self.bits = bits

    def step(self, ids: np.ndarray, state: np.ndarray, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
        logits, state = super().step(ids, state, first)
        return logits * (self.bits / FAR_BITS), state


@pytest.mark.parametrize(("more", "expected"), [(0.01, "d"), (-0.01, None)])
def test_an_edit_must_make_the_line_likelier_by_the_bits_of_a_fault(
    more: float, expected: str | None
) -> None:
    [span] = anomalous_spans(Sure(FAULT_BITS + more), VOCABULARY, "abcx", threshold=5.0)
    assert (span.start, span.end, span.expected) == (3, 4, expected)
