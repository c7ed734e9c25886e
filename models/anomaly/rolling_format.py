"""Serialization of what a rolling calibration keeps beside its scores: its sample of lines, as JSON values.

Arrays are little-endian, zlib and base64; five thousand lines take about 90 KB.
"""

import base64
import zlib
from dataclasses import astuple
from typing import Any

import numpy as np

from nextchar.models.anomaly.score_sample import AlertReference, ObservedScore, ScoreSample
from nextchar.models.text.array_file import inflate

_COLUMNS = 5
_MAX_TABLE_BYTES = 64 << 20


def dump_sample(sample: ScoreSample) -> dict[str, Any]:
    """Return the JSON of a sample."""
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
