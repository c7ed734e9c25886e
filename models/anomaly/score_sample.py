"""The sample of scored lines from which a rolling calibration is made; newer lines are likelier to be in it.

A line's chance decreases exponentially with its age (forward decay: Cormode et al. 2009).
"""

import base64
import zlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from nextchar.models.anomaly.calibration import SCORE_TOLERANCE, Calibration
from nextchar.models.anomaly.statistic_rarity import Floats
from nextchar.models.text.array_file import inflate

SAMPLE_LINES = 5_000
"""Lines in the sample."""

DECAY_S = 2 * 86_400.0
"""A line's weight in the sample decreases by a factor of e in this time: a day and its night are in it."""


@dataclass(frozen=True)
class AlertReference:
    """The alert of a flagged line, by which later labels and suppressions are found.

    `value` is what the anomalous word is in place of a wildcard of a known template; else empty.
    """

    alert_id: str
    template: str
    span: str
    value: str = ""


@dataclass(frozen=True)
class ObservedScore:
    """A scored line. `score` of a flagged one is the score that it exceeded; `alert` is None for others.

    `rate` is the false-alarm rate that it was judged by, `bucket` the index of its bucket, `time` when it was
    scored in Unix seconds.
    """

    time: float
    score: float
    bucket: int
    rate: float
    alert: AlertReference | None = None


@dataclass(frozen=True)
class ScoreSample:
    """A sample of lines. `keys` (n,) decide which stay. Those of the stored calibration have rate 0."""

    lines: tuple[ObservedScore, ...]
    keys: Floats

    def __len__(self) -> int:
        """Return the number of lines."""
        return len(self.lines)


def initial_sample(stored: Calibration, *, now: float, random: np.random.Generator) -> ScoreSample:
    """Return a sample of the scores of a stored calibration."""
    lines: list[ObservedScore] = []
    for index, bucket in enumerate(stored.buckets):
        fraction = bucket.kept / stored.kept_lines
        count = min(bucket.kept, max(1, int(SAMPLE_LINES * fraction)))
        chosen = bucket.scores[np.linspace(0, bucket.kept - 1, count).round().astype(np.intp)]
        lines += (ObservedScore(now, score, index, 0.0) for score in chosen.tolist())
    return newest(ScoreSample((), np.zeros(0)), lines, random)


def newest(sample: ScoreSample, lines: Sequence[ObservedScore], random: np.random.Generator) -> ScoreSample:
    """Return a new sample of the sample and these lines, in which a line's chance is exp(time / DECAY_S)."""
    times = np.array([line.time for line in lines], np.float64)
    keys = np.concatenate([sample.keys, times / DECAY_S + random.gumbel(size=len(lines))])
    chosen = np.sort(np.argsort(-keys, kind="stable")[:SAMPLE_LINES])
    every = (*sample.lines, *lines)
    return ScoreSample(tuple(every[i] for i in chosen), keys[chosen])


def censored(threshold: float) -> float:
    """Return the `score` of a flagged ObservedScore, by the threshold of its bucket."""
    return threshold - SCORE_TOLERANCE


_COLUMNS = 5
_MAX_TABLE_BYTES = 64 << 20


def dump_sample(sample: ScoreSample) -> dict[str, Any]:
    """Return the JSON of a sample: its arrays are little-endian, zlib and base64.

    Five thousand lines take about 90 KB.
    """
    rows = [(line.time, line.score, line.bucket, line.rate) for line in sample.lines]
    table = np.concatenate([np.array(rows, "<f8").reshape(-1, _COLUMNS - 1).T, sample.keys[None]])
    alerts = {str(i): astuple(line.alert) for i, line in enumerate(sample.lines) if line.alert}
    return {
        "lines": base64.b64encode(zlib.compress(table.astype("<f8").tobytes())).decode(),
        "groups": alerts,
    }


def load_sample(record: dict[str, Any]) -> ScoreSample:
    """Return the sample of a record. Raises ValueError, KeyError or TypeError: it is damaged."""
    data = inflate(base64.b64decode(record["lines"]), max_bytes=_MAX_TABLE_BYTES)
    table = np.frombuffer(data, "<f8").reshape(_COLUMNS, -1)
    alerts = {int(i): AlertReference(*fields) for i, fields in record["groups"].items()}
    lines = tuple(
        ObservedScore(at, score, int(bucket), rate, alerts.get(i))
        for i, (at, score, bucket, rate) in enumerate(table[:-1].T.tolist())
    )
    return ScoreSample(lines, table[-1].copy())
