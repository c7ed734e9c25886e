"""Which flagged lines count as normal ones."""

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest

from nextchar.models.anomaly.line_scores import AlertReference, ObservedScore, ScoreSample
from nextchar.models.anomaly.rolling import (
    MIN_DRIFT_S,
    counted_as_normal,
    reason_to_drop,
    without_burst,
    without_repeats,
    without_values_of_bursts,
)

NORMAL = ObservedScore(0.0, 1.0, 0, 0.01)


def flagged(alert_id: str, value: str = "") -> ObservedScore:
    return ObservedScore(0.0, 9.0, 0, 0.01, AlertReference(alert_id, "a <*>", "0:x", value))


def test_one_alert_counts_for_a_tenth_of_the_expected_lines_and_each_of_its_values_for_half() -> None:
    lines = [flagged("one")] * 20 + [flagged("values", "a")] * 20 + [flagged(f"other {i}") for i in range(40)]
    counted = counted_as_normal([NORMAL] * 2920 + lines)  # 30 false alarms are expected
    counts = Counter(line.alert.alert_id for line in counted if line.alert)
    assert (counts["one"], counts["values"], len(counted)) == (3, 15, 58)


@pytest.mark.parametrize(
    ("count", "counted"), [(0, 0), (80, 80), (90, 90), (91, 91), (105, 100), (110, 100), (112, 112)]
)
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


@pytest.mark.parametrize(("lines", "alerts", "is_dropped"), [
    (1000, 39, False), (1000, 40, True),  # of 10 expected ones: 3 * 10 + 3 * sqrt(10)
    (10, 3, False), (10, 4, True),  # of 0.1: 0.3 + 3
])  # fmt: skip
def test_a_batch_with_three_times_the_expected_lines_and_noise_is_dropped(
    lines: int, alerts: int, is_dropped: bool
) -> None:
    batch = [NORMAL] * (lines - alerts) + [flagged(f"{i}") for i in range(alerts)]
    reason = reason_to_drop(batch)
    assert (reason is not None) == is_dropped
    if reason and lines == 1000:
        assert reason.startswith("40 of 1,000 lines were flagged") and "only 10 were expected" in reason


def test_repeats_of_an_alert_count_twice_and_its_values_do_not_count_apart() -> None:
    def batch(alerts: int) -> list[ObservedScore]:
        lines = [flagged(f"{i}", f"value {j}") for i in range(alerts) for j in range(5)]
        return [NORMAL] * (1000 - len(lines)) + lines

    assert reason_to_drop(batch(19)) is None
    assert "40 of 1,000" in str(reason_to_drop(batch(20)))


def in_turn(lines: list[ObservedScore]) -> list[ObservedScore]:
    return [replace(line, time=float(i)) for i, line in enumerate(lines)]


def test_repeats_stay_while_there_are_fewer_than_false_alarms_could_be() -> None:
    batch = in_turn([flagged("one")] * 30 + [NORMAL] * 1000)  # 10 + 2 * sqrt(10) false alarms, rounded up
    assert without_repeats(batch) == [*batch[30:], *batch[28:30][::-1], *batch[:15]]
    batch = in_turn([flagged(f"{i % 10}") for i in range(30)] + [NORMAL] * 1000)
    assert without_repeats(batch) == [*batch[30:], *batch[10:30][::-1]]


DAY_S = 86_400.0


@pytest.mark.parametrize(("age_s", "has_values"), [(MIN_DRIFT_S, True), (MIN_DRIFT_S - 1, False)])
def test_an_alert_has_values_once_its_first_line_is_hours_old(age_s: float, has_values: bool) -> None:
    batch = [replace(NORMAL, time=DAY_S) for _ in range(1000)]
    for i in range(6):
        batch[150 * i] = replace(flagged("a", f"user {i}"), time=DAY_S)
    earlier = [replace(flagged("a", "user"), time=DAY_S - age) for age in (60.0, age_s, 120.0)]
    sample = ScoreSample((NORMAL, *earlier, replace(flagged("b"), time=0.0)), np.zeros(5))
    found = without_values_of_bursts(batch, sample)
    assert [line.alert.value for line in found if line.alert] == [
        f"user {i}" if has_values else "" for i in range(6)
    ]
    assert [replace(line, alert=None) for line in found] == [replace(line, alert=None) for line in batch]


def test_an_alert_that_is_a_burst_has_no_values_and_others_keep_theirs() -> None:
    batch = [replace(NORMAL, time=DAY_S) for _ in range(1000)]
    for i, position in enumerate((10, 500, 510, 520, 530, 990)):  # four of six
        batch[position] = replace(flagged("burst", f"user {i}"), time=DAY_S)
    for i in range(5):  # too few to be one
        batch[700 + i] = replace(flagged("few", f"host {i}"), time=DAY_S)
    sample = ScoreSample((flagged("burst"), flagged("few")), np.zeros(2))
    values = [line.alert.value for line in without_values_of_bursts(batch, sample) if line.alert]
    assert values == ["", "", "", "", "", "host 0", "host 1", "host 2", "host 3", "host 4", ""]


def test_a_burst_is_the_narrowest_half_of_the_flagged_lines_without_values() -> None:
    positions = (0, 90, 180, 270, 500, 510, 520, 530, 540)
    batch = [flagged(f"{i}") if i in positions else NORMAL for i in range(1000)]
    batch[505] = flagged("has a value", "a")
    found = without_burst(batch)
    assert [line.alert.alert_id for line in found if line.alert] == ["0", "90", "180", "270", "has a value"]
    assert len(found) == 995


def test_a_burst_begins_where_more_than_half_of_the_lines_are_nearest_to_each_other() -> None:
    positions = (300, 301, 302, 303, 500, 510, 520, 530, 540)
    batch = [flagged(f"{i}") if i in positions else NORMAL for i in range(1000)]
    found = without_burst(batch)
    assert [line.alert.alert_id for line in found if line.alert] == ["300", "301", "302", "303"]


def test_the_age_of_an_alert_is_that_of_its_last_line() -> None:
    batch = [replace(NORMAL, time=MIN_DRIFT_S) for _ in range(1000)]
    for position, time in ((100, 0.0), (500, 1.0), (900, MIN_DRIFT_S)):
        batch[position] = replace(flagged("a", f"user {position}"), time=time)
    found = without_values_of_bursts(batch, ScoreSample((), np.zeros(0)))
    assert [line.alert.value for line in found if line.alert] == ["user 100", "user 500", "user 900"]
