import numpy as np
import pytest

from nextchar.models.anomaly.spans import Span, highest_window, merged, threshold_spans


def test_characters_above_the_threshold_and_unknown_ones_are_spans() -> None:
    bits = np.array([9.0, 8.0, 1.0, 1.0, 1.0, 12.0, 9.5], np.float32)
    entropy = np.array([1.0, 0.5, 0.5, 0.5, 0.5, 4.5, 1.0], np.float32)
    unknown = np.arange(7) == 3
    spans = threshold_spans(bits, entropy, unknown, threshold=8.0)  # 9 - 1 is not above it
    assert spans == [Span(3, 4, 1.0), Span(6, 7, 9.5)]


@pytest.mark.parametrize(
    ("gap", "found"),
    [
        (0, [Span(2, 7, 5.0, "xyz")]),
        (1, [Span(2, 8, 5.0)]),  # what is expected between them is unknown
        (2, [Span(2, 4, 3.0, "xy"), Span(6, 9, 2.0, "z")]),
    ],
)
def test_spans_next_to_each_other_are_one(gap: int, found: list[Span]) -> None:
    marks = [Span(2, 4, 3.0, "xy"), Span(4 + gap, 7 + gap, 2.0, "z")]
    assert merged(marks) == found


def test_what_is_expected_is_known_only_if_it_is_of_all_parts() -> None:
    assert merged([Span(0, 1, 1.0), Span(1, 2, 1.0, "a")]) == [Span(0, 2, 2.0)]
    assert merged([Span(0, 1, 1.0, "a"), Span(1, 2, 1.0), Span(4, 5, 1.0, "")]) == [
        Span(0, 2, 2.0), Span(4, 5, 1.0, "")
    ]  # fmt: skip
    assert merged([]) == []


def test_highest_window_is_that_of_the_excess() -> None:
    bits = np.array([9, 9, 9, 1, 4, 4, 1], np.float32)
    entropy = np.array([9, 9, 9, 1, 1, 1, 1], np.float32)
    assert highest_window(bits, entropy, 2) == [Span(4, 6, 8.0)]
    assert highest_window(np.array([2.0, 1.5], np.float32), np.zeros(2, np.float32), 1) == [Span(0, 1, 2.0)]
    twelve = np.array([0, 5, *[1] * 12, 0], np.float32)
    assert highest_window(twelve, np.zeros(15, np.float32)) == [Span(1, 13, 16.0)]
