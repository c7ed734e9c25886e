"""Calibration on normal lines: a line's score, its p-value, and a threshold for a false-alarm rate.

**Score.** Each statistic of a line is compared with those of the calibration lines, as in conformal
prediction: p = (1 + #{c >= s}) / (n + 1), the fraction of them at least as high. Above the highest of them p
decreases like the tail of an exponential distribution. The score is a weighted mean of -log2 p (Fisher's
combination of p-values, 1925), so its unit is bits: how rare the line is among normal ones. It needs no
labels. The weights depend on how well each expert knows the calibration lines, and on the length of these
(`calibration_builder`).

**P-value.** The statistics are dependent, so the score is calibrated in turn: each calibration line is scored
against the others, and p = (1 + #{scores >= s}) / (n + 1). If calibration lines and new normal lines are
exchangeable, at most a share p of the new ones gets a p-value of p or less (Vovk et al. 2005). It is at least
1 / (n + 1), unless the tail of the scores fits a generalized Pareto distribution (`tail`).

**Breaks.** What is not expected in its place (`successors`) has a p-value of its own: the lower of the two
counts. Of records, half of its -log2 is added to the score; of lines in order it is that of the first of a
kind alone, and would rank what is new and normal above anomalies.

Serialization of a calibration as JSON, for a file of a saved model or a record in storage.

Arrays are float32, little-endian, zlib and base64: a hundred thousand lines take about two megabytes.
"""

import base64
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.anomaly.aggregate import (
    NGRAM_STATISTICS,
    STATISTICS,
    TEMPLATE_STATISTICS,
    WORD_STATISTICS,
    statistics,
)
from nextchar.models.anomaly.tail import Floats, Tail, rarity
from nextchar.models.errors import InvalidInput, Unavailable
from nextchar.models.runtime.surprisal import LineSurprisal
from nextchar.models.text.array_file import inflate
from nextchar.models.validation_errors import UPGRADE

MIN_LINES = 2

UNUSUAL = 0.1
"""The p-value up to which a line is counted as unusual."""

MAX_EXTRAPOLATION = 100
"""A tail's p-values are at least 1 / (n + 1) divided by this; at 10 they were off by a factor of 2 to 3."""

CHARACTER_RATES = (0.01, 0.003, 0.001, 0.0003, 0.0001)
"""Fractions of normal characters whose excess exceeds the quantiles kept as thresholds for characters."""

SCORE_TOLERANCE = 0.05
"""Tolerance of the score, for changes by a few lines in the ranks."""

_TOP_FRACTION, _MIN_TOP = 0.1, 10  # of the scores from which a tail that was not fitted is estimated


@dataclass(frozen=True)
class Bucket:
    """Calibration lines of similar length.

    Attributes:
        longest: the maximum length in characters; None: no maximum. Shorter lines are in smaller buckets.
        statistics: (k, n), each row ascending; k is 8, 12 with n-grams, or 14 with templates too.
        spread: (k,) standard deviations of the statistics.
        weights: (k,) of the statistics in the score; they sum to 1.
        scores: (n,) ascending, of each line against the others.
        tail: the tail of the scores, if it fits.
        lines: how many lines there were, of which n are kept.
    """

    longest: int | None
    statistics: Floats
    spread: Floats
    weights: Floats
    scores: Floats
    tail: Tail | None
    lines: int

    @property
    def kept(self) -> int:
        """n, the lines that are kept."""
        return len(self.scores)

    @property
    def has_tail(self) -> bool:
        """Whether the scores have a tail, which gives p-values below 1 / (n + 1)."""
        return self.tail is not None

    @property
    def min_p_value(self) -> float:
        """The smallest possible p-value."""
        return 1 / (MAX_EXTRAPOLATION * (self.kept + 1)) if self.tail else 1 / (self.kept + 1)

    def score(self, values: Floats) -> Floats:
        """Return (m,) the scores of lines with statistics (m, k)."""
        return rarity(values, self.statistics, self.spread) @ self.weights

    def p_value(self, scores: Floats) -> Floats:
        """Return (m,) the p-values of scores (m,)."""
        at_least = self.kept - self.scores.searchsorted(scores - SCORE_TOLERANCE, "left")
        p: Floats = (1 + at_least) / (self.kept + 1)
        if self.tail:
            beyond = at_least == 0
            extrapolated = np.maximum(self.tail.probability(scores[beyond]), self.min_p_value)
            p[beyond] = np.minimum(p[beyond], extrapolated)
        return p

    def estimated_p_value(self, scores: Floats) -> Floats:
        """Return (m,) estimates of the probability of scores (m,), also below the smallest p-value.

        Without a fitted tail, the probability above the highest calibration score decreases exponentially, by
        the mean excess of the highest tenth, or by half per bit, the unit of scores, if that is slower.
        """
        p = self.p_value(scores)
        if self.tail:
            return p
        highest = self.scores[-1]
        top = self.scores[-max(_MIN_TOP, int(self.kept * _TOP_FRACTION)) :]
        scale = max(float((top - top[0]).mean()), 1 / math.log(2))
        result: Floats = p * np.exp(-np.maximum(scores - highest - SCORE_TOLERANCE, 0.0) / scale)
        return result

    def threshold(self, rate: float) -> float:
        """Return the score that normal lines exceed with probability `rate`. Raises InvalidInput."""
        rank = int(rate * (self.kept + 1) + 1e-9)
        if rank >= 1:
            return float(self.scores[-rank]) + SCORE_TOLERANCE
        if self.tail and rate >= self.min_p_value:
            return max(self.tail.quantile(rate), float(self.scores[-1]) + SCORE_TOLERANCE)
        there = f"{self.kept:,}{'' if self.longest is None else f' of up to {self.longest} characters'}"
        needed = f"at least {lines_needed(rate):,} calibration lines and there are {there}"
        if self.tail:  # fewer may do, by how much depends on their tail
            needed = f"more calibration lines than the {there} that there are"
        raise InvalidInput(
            f"a false-alarm rate of {rate:g} needs {needed};"
            f" calibrate on more normal lines, or use a rate of at least {rounded_up(self.min_p_value, 2):g}",
            code="too_few_calibration_lines",
            param="false_alarms",
        )


@dataclass(frozen=True)
class Calibration:
    """The calibration of a model on normal lines.

    Attributes:
        buckets: by ascending length of their lines. character_excess: of each of CHARACTER_RATES, the excess
        in bits that this share of characters exceeds. characters: how many characters the lines have.
    """

    buckets: tuple[Bucket, ...]
    character_excess: tuple[float, ...]
    characters: int

    @property
    def lines(self) -> int:
        """The lines that it was made from."""
        return sum(bucket.lines for bucket in self.buckets)

    @property
    def kept_lines(self) -> int:
        """The lines whose statistics are kept."""
        return sum(bucket.kept for bucket in self.buckets)

    @property
    def smallest_p_value(self) -> float:
        """The smallest p-value that needs no assumption about the tail: 1 / (n + 1)."""
        return max(1 / (bucket.kept + 1) for bucket in self.buckets)

    @property
    def has_tail(self) -> bool:
        """Whether there are p-values below that."""
        return all(bucket.has_tail for bucket in self.buckets)

    def score(self, lines: Sequence[LineSurprisal]) -> tuple[Floats, Floats]:
        """Return the scores and p-values, each (n,), of n lines."""
        scores, p = np.zeros(len(lines)), np.ones(len(lines))
        if not lines:
            return scores, p
        values = statistics(lines)
        bucket_of = self.bucket_of(np.array([len(line.bits) for line in lines], np.intp))
        for i, bucket in enumerate(self.buckets):
            own = bucket_of == i
            scores[own] = bucket.score(values[own])
            p[own] = bucket.p_value(scores[own])
        rarest = [line.breaks[0] if line.breaks else None for line in lines]
        scores += np.array([one.score_bits if one else 0.0 for one in rarest])
        return scores, np.minimum(p, [one.p_value if one else 1.0 for one in rarest])

    def p_value(self, score: float, *, characters: int) -> float:
        """Return the p-value of a score of a line of so many characters."""
        [bucket] = self.bucket_of(np.array([characters], np.intp))
        return float(self.buckets[bucket].p_value(np.array([score]))[0])

    def estimated_p_value(self, score: float, *, characters: int) -> float:
        """Return an estimate of the probability of such a score; see `Bucket.estimated_p_value`."""
        [bucket] = self.bucket_of(np.array([characters], np.intp))
        return float(self.buckets[bucket].estimated_p_value(np.array([score]))[0])

    def default_rate(self) -> float:
        """Return the default false-alarm rate: 1 %, or the smallest rate that the calibration allows."""
        return 0.01 if self.has_tail else max(0.01, self.smallest_p_value)

    def thresholds(self, rate: float) -> tuple[float, ...]:
        """Return for each bucket the score above which a line is anomalous. Raises InvalidInput."""
        return tuple(bucket.threshold(rate) for bucket in self.buckets)

    def bucket_of(self, lengths: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return (n,) the indices of the buckets of lines with lengths (n,) in characters."""
        edges = [bucket.longest for bucket in self.buckets[:-1]]
        return np.searchsorted(np.array(edges, np.intp), lengths, "left")


def lines_needed(rate: float) -> int:
    """Return how many calibration lines a false-alarm rate needs without an assumption about the tail.

    >>> lines_needed(0.01)
    99
    """
    return max(MIN_LINES, int(np.ceil(1 / rate - 1e-9)) - 1)


def rounded_up(value: float, digits: int) -> float:
    """Return a positive value rounded up to so many significant digits.

    >>> rounded_up(1 / 813, 2), rounded_up(0.25, 2)
    (0.0013, 0.25)
    """
    unit = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.{digits}g}")


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
        statistics.reshape(len(spread), -1),
        spread,
        # Records without weights are from before there were n-grams: all statistics counted the same.
        np.array(record.get("weights", [1 / len(spread)] * len(spread)), np.float64),
        scores,
        Tail(**record["tail"]) if record["tail"] else None,
        record["lines"],
    )


def _names(count: int) -> tuple[str, ...]:
    """Return the names of the statistics, by their number: those of n-grams, templates and words may lack."""
    return (STATISTICS + NGRAM_STATISTICS + TEMPLATE_STATISTICS + WORD_STATISTICS)[:count]


def _pack(values: NDArray[np.float64]) -> str:
    return base64.b64encode(zlib.compress(values.astype("<f4").tobytes())).decode()


def _unpack(text: str, *, max_bytes: int) -> NDArray[np.float64]:
    data = inflate(base64.b64decode(text), max_bytes=max_bytes)
    return np.frombuffer(data, "<f4").astype(np.float64)
