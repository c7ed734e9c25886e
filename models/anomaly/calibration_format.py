"""Serialization of a calibration as JSON, for a file of a saved model or a record in storage.

Arrays are float32, little-endian, zlib and base64: a hundred thousand lines take about two megabytes.
"""

import base64
import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.anomaly.aggregate import NGRAM_STATISTICS, STATISTICS, TEMPLATE_STATISTICS
from nextchar.models.anomaly.calibration import Bucket, Calibration
from nextchar.models.anomaly.tail import Tail
from nextchar.models.errors import Unavailable
from nextchar.models.record_errors import UPGRADE
from nextchar.models.text.array_file import inflate

FORMAT_VERSION = 1

MAX_BYTES = 64 << 20
"""Of the decompressed arrays of a calibration, and of its JSON. Eight buckets of 100,000 lines have 48 MB."""


_FLOAT_BYTES = 4


def dump(calibration: Calibration, **about: Any) -> bytes:
    """Return the JSON of a calibration; `about` are JSON values that `load` returns."""
    record = {
        "format_version": FORMAT_VERSION,
        "about": about,
        "statistics": _names(len(calibration.buckets[0].weights)),
        "character_excess": calibration.character_excess,
        "characters": calibration.characters,
        "buckets": [
            {
                "longest": bucket.longest,
                "lines": bucket.lines,
                "statistics": _pack(bucket.statistics),
                "spread": bucket.spread.tolist(),
                "weights": bucket.weights.tolist(),
                "scores": _pack(bucket.scores),
                "tail": asdict(bucket.tail) if bucket.tail else None,
            }
            for bucket in calibration.buckets
        ],
    }
    return json.dumps(record).encode()


def load(data: bytes, *, where: str) -> tuple[Calibration, dict[str, Any]]:
    """Return the calibration and the `about` given to `dump`.

    Raises:
        Unavailable: it is damaged (code `calibration_damaged`), or a newer version has written it
            (`calibration_format_unknown`).
    """
    try:
        record = json.loads(data)
        names = tuple(record["statistics"])
        if record["format_version"] != FORMAT_VERSION or names != _names(len(names)):
            raise Unavailable(f"{where} {UPGRADE}, or calibrate again", code="calibration_format_unknown")
        buckets = tuple(_buckets(record["buckets"]))
        calibration = Calibration(buckets, tuple(record["character_excess"]), record["characters"])
        return calibration, dict(record["about"])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise Unavailable(
            f"{where} is damaged ({type(error).__name__}); calibrate again", code="calibration_damaged"
        ) from None


def _buckets(records: list[dict[str, Any]]) -> Iterator[Bucket]:
    left_bytes = MAX_BYTES
    for record in records:
        scores = _unpack(record["scores"], max_bytes=left_bytes)
        left_bytes -= len(scores) * _FLOAT_BYTES
        statistics = _unpack(record["statistics"], max_bytes=left_bytes)
        left_bytes -= len(statistics) * _FLOAT_BYTES
        yield _bucket(record, scores, statistics)


def _bucket(record: dict[str, Any], scores: NDArray[np.float64], statistics: NDArray[np.float64]) -> Bucket:
    spread = np.array(record["spread"], np.float64)
    return Bucket(
        record["longest"],
        statistics.reshape(len(spread), -1),  # more or fewer than scores if it rolls
        spread,
        # Records without weights are from before there were n-grams: all statistics counted the same.
        np.array(record.get("weights", [1 / len(spread)] * len(spread)), np.float64),
        scores,
        Tail(**record["tail"]) if record["tail"] else None,
        record["lines"],
    )


def _names(count: int) -> tuple[str, ...]:
    """Return the names of the statistics, by their number."""
    if count == len(STATISTICS):
        return STATISTICS
    names = STATISTICS + NGRAM_STATISTICS
    return names if count == len(names) else names + TEMPLATE_STATISTICS


def _pack(values: NDArray[np.float64]) -> str:
    return base64.b64encode(zlib.compress(values.astype("<f4").tobytes())).decode()


def _unpack(text: str, *, max_bytes: int) -> NDArray[np.float64]:
    data = inflate(base64.b64decode(text), max_bytes=max_bytes)
    return np.frombuffer(data, "<f4").astype(np.float64)
