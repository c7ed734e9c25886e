"""Which flagged lines count as normal ones."""

from collections import Counter
from collections.abc import Collection

import pytest

from models.anomaly.flagged_evidence import counted_as_normal, without_burst
from models.anomaly.score_sample import AlertReference, ObservedScore

NORMAL = ObservedScore(0.0, 1.0, 0, 0.01)


def flagged(alert_id: str, value: str = "") -> ObservedScore:
    return ObservedScore(0.0, 9.0, 0, 0.01, AlertReference(alert_id, "a <*>", "0:x", value))


def test_one_alert_counts_for_a_tenth_of_the_expected_lines_and_each_of_its_values_for_half() -> None:
    lines = [flagged("one")] * 20 + [flagged("values", "a")] * 20 + [flagged(f"other {i}") for i in range(40)]
    counted = counted_as_normal([NORMAL] * 2920 + lines)  # 30 false alarms are expected
    counts = Counter(line.alert.alert_id for line in counted if line.alert)
    assert (counts["one"], counts["values"], len(counted)) == (3, 15, 58)


@pytest.mark.parametrize(("count", "counted"), [(80, 80), (91, 91), (105, 100), (110, 100), (112, 112)])
def test_as_many_flagged_lines_count_as_are_expected_if_about_as_many_are_there(
    count: int, counted: int
) -> None:
    lines = [flagged(f"{i}") for i in range(count)]  # 100 are expected, give or take 10
    assert len(counted_as_normal([NORMAL] * (10_000 - count) + lines)) == counted


@pytest.mark.parametrize(
    ("positions", "burst"),
    [
        ((0, 300, 301, 302, 400, 900), (300, 301, 302, 400)),
        ((0, 300, 301, 302, 401, 900), ()),  # not more than half within 100 of the lines
        ((300, 301, 302, 303, 304), ()),  # too few
    ],
)
def test_a_burst_is_more_than_half_of_the_flagged_lines_within_a_tenth_of_all(
    positions: Collection[int], burst: Collection[int]
) -> None:
    batch = [flagged(f"{i}") if i in positions else NORMAL for i in range(1000)]
    assert without_burst(batch) == [line for i, line in enumerate(batch) if i not in burst]
