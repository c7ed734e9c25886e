"""Which flagged lines count as evidence that normal lines have drifted.

**Repetition is no evidence of drift.** For raising the threshold, one alert counts for at most a tenth of the
false alarms that are expected: an incident of many equal lines does not move it. If the anomalous word is a
value of a known template, such as a user, each value counts for at most half of them: new users are drift,
and one alone moves nothing. An alert that comes in a burst, or was first seen less than MIN_DRIFT_S ago, has
no values in this sense; and if the flagged lines without values come in a burst, whatever their alerts are,
it is left out. For lowering it, all other flagged lines count. A difference within the noise, a standard
deviation, changes nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from nextchar.models.anomaly.score_sample import ObservedScore, ScoreSample

MAX_EXCESS = 3.0
"""A batch with more flagged lines than this many times the expected ones, and noise, is not learned."""

MIN_DRIFT_S = 6 * 3600.0
"""The time after an alert's first line in the sample from which its values count apart."""

_NOISE = 3.0  # standard deviations above MAX_EXCESS
_FRACTION_OF_ALERT = 0.1  # of the expected false alarms, for one alert
_FRACTION_OF_VALUE = 0.5  # for one value of an alert that has values: one alone does not raise a threshold
_MIN_PER_ALERT = 2
_BURST_FRACTION = 0.1  # of the lines
_MIN_BURST = 6  # flagged lines


def reason_to_drop(batch: Sequence[ObservedScore]) -> str | None:
    """Return why a batch is not learned, which has too many flagged lines; None: it is learned."""
    expected = sum(line.rate for line in batch)
    counted = len(_limited([_without_value(line) for line in batch], expected))
    if counted <= MAX_EXCESS * expected + _NOISE * math.sqrt(max(expected, 1.0)):
        return None
    return (
        f"{counted:,} of {len(batch):,} lines were flagged (repeats counted a few times) but only"
        f" {expected:.0f} were expected: an incident, or the lines have changed. The calibration was not"
        " updated. If they are normal, label or suppress their alerts, or calibrate on recent lines."
    )


def without_repeats(batch: Sequence[ObservedScore]) -> list[ObservedScore]:
    """Return a batch in which flagged lines repeat at most as often as false alarms could."""
    expected = sum(line.rate for line in batch if line.alert is None)
    counted = _first_limited(batch, expected, math.ceil(expected + 2 * math.sqrt(expected)))
    return [*(line for line in batch if line.alert is None), *counted]


def _first_limited(lines: Sequence[ObservedScore], expected: float, count: int) -> list[ObservedScore]:
    """Return the `_limited` of lines, and more flagged ones while there are fewer than `count`."""
    limited = _limited(lines, expected)
    chosen = {id(line) for line in limited}
    others = [line for line in lines if line.alert and id(line) not in chosen]
    return [*limited, *others[: max(0, count - len(limited))]]


def _limited(lines: Sequence[ObservedScore], expected: float) -> list[ObservedScore]:
    """Return flagged ones of lines in order: of each alert the last few, or of each of its values."""
    of_alert = max(_MIN_PER_ALERT, math.ceil(_FRACTION_OF_ALERT * expected))
    of_value = max(_MIN_PER_ALERT, math.ceil(_FRACTION_OF_VALUE * expected))
    counts: dict[tuple[str, str], int] = {}
    chosen = []
    for line in reversed(lines):
        if not line.alert:
            continue
        key = line.alert.alert_id, line.alert.value
        counts[key] = counts.get(key, 0) + 1
        if counts[key] <= (of_value if line.alert.value else of_alert):
            chosen.append(line)
    return chosen


def without_values_of_bursts(batch: Sequence[ObservedScore], sample: ScoreSample) -> list[ObservedScore]:
    """Return a batch in which alerts that are bursts or new have no values, so that each counts as one."""
    positions: dict[str, list[int]] = {}
    for i, line in enumerate(batch):
        if line.alert:
            positions.setdefault(line.alert.alert_id, []).append(i)
    first_seen: dict[str, float] = {}
    for line in (*sample.lines, *batch):
        if line.alert:
            alert_id = line.alert.alert_id
            first_seen[alert_id] = min(line.time, first_seen.get(alert_id, line.time))
    alike = {
        alert_id
        for alert_id, own in positions.items()
        if _is_burst(own, len(batch)) or batch[own[-1]].time - first_seen[alert_id] < MIN_DRIFT_S
    }
    return [_without_value(line) if line.alert and line.alert.alert_id in alike else line for line in batch]


def without_burst(batch: Sequence[ObservedScore]) -> list[ObservedScore]:
    """Return a batch without its burst of flagged lines that have no values, if it has one: an incident."""
    positions = [i for i, line in enumerate(batch) if line.alert and not line.alert.value]
    if not _is_burst(positions, len(batch)):
        return list(batch)
    most = len(positions) // 2
    start, _ = min(zip(positions, positions[most:], strict=False), key=lambda pair: pair[1] - pair[0])
    end = start + _BURST_FRACTION * len(batch)
    burst = {i for i in positions if start <= i <= end}
    return [line for i, line in enumerate(batch) if i not in burst]


def _without_value(line: ObservedScore) -> ObservedScore:
    return replace(line, alert=replace(line.alert, value="")) if line.alert else line


def _is_burst(positions: Sequence[int], lines: int) -> bool:
    """Return whether more than half of the ascending positions are within _BURST_FRACTION of the lines."""
    most = len(positions) // 2
    width = _BURST_FRACTION * lines
    return len(positions) >= _MIN_BURST and any(
        end - start <= width for start, end in zip(positions, positions[most:], strict=False)
    )


def counted_as_normal(lines: Sequence[ObservedScore]) -> list[ObservedScore]:
    """Return the flagged lines that count as normal: about as many as expected, if that agrees with them."""
    expected = sum(line.rate for line in lines)
    limited = _limited(lines, expected)
    if len(limited) > expected + math.sqrt(expected):
        return limited
    return _first_limited(lines, expected, round(expected))[: round(expected)]
