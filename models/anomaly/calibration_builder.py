"""Makes a calibration of normal lines (`nextchar.models.anomaly.calibration`)."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from nextchar.models.anomaly.aggregate import (
    NGRAM_STATISTICS,
    STATISTICS,
    TEMPLATE_STATISTICS,
    WINDOWS,
    WORD_STATISTICS,
    WORD_WINDOW,
    statistics,
)
from nextchar.models.anomaly.calibration import CHARACTER_RATES, MIN_LINES, Bucket, Calibration, lines_needed
from nextchar.models.anomaly.scorer import ReadPrecision
from nextchar.models.anomaly.tail import Floats, fit_tail, leave_one_out_rarity
from nextchar.models.errors import InvalidInput, TooLarge
from nextchar.models.loaded_model import LoadedModel
from nextchar.models.runtime.session import Check
from nextchar.models.runtime.surprisal import LineSurprisal
from nextchar.models.text.lines import MAX_LINE_CHARACTERS

MAX_KEPT = 100_000
"""Calibration lines whose statistics are kept; of more lines, this many evenly spaced quantiles."""

NETWORK_WEIGHT = (0.15, 0.8)
"""The minimum and maximum weight of the network, of that of network and n-grams together."""

MAX_WORD_WEIGHT = 0.8
"""The maximum weight of the n-grams of words, of that of all n-grams together."""

NGRAM_WEIGHTS = (0.0, 0.0, 1.0, 1.0)
"""The relative weights of the n-grams' statistics. One rare n-gram is no evidence; several are."""

TEMPLATE_WEIGHTS = (0.5, 0.1)
"""The weights of the TEMPLATE_STATISTICS if templates left nothing open: they are multiplied by the fraction
of the calibration lines' tokens that templates fix."""

MAX_LINE_PER_WINDOW = 40
"""A window has its full weight in lines of up to so many times its length; in longer ones it has less. A line
of a thousand characters always has a few surprising ones, and their peak is not informative."""

MAX_LINE_PER_WORD_WINDOW = 10
"""The same for the window of the n-grams of words, in words."""


class CalibrationBuilder:
    """Makes a calibration of normal lines that are added in batches, of which only statistics are kept."""

    def __init__(self) -> None:
        self._statistics: list[Floats] = []  # (n, k) of each batch
        self._lengths: list[NDArray[np.intp]] = []
        self._excess: list[NDArray[np.float32]] = []  # of each character
        self._network_bits = 0.0
        self._ngram_bits = 0.0
        self._word_bits = 0.0  # with the n-grams' bits of the characters of unknown words
        self._characters = 0  # with the newlines that were read
        self._words = 0
        self._fixed_fractions = 0.0  # of the lines' tokens, those that templates fix
        self._lines = 0

    def add(self, lines: Sequence[LineSurprisal]) -> None:
        """Add lines, all read by the same network, and all or none of them by n-grams."""
        if not lines:
            return
        self._lines += len(lines)
        self._statistics.append(statistics(lines))
        self._lengths.append(np.array([len(line.bits) for line in lines], np.intp))
        self._excess.append(np.concatenate([line.bits - line.entropy for line in lines]))
        self._network_bits += sum(
            float(line.bits.sum(dtype=np.float64)) + line.has_end * line.end_bits for line in lines
        )
        self._ngram_bits += sum(
            float(line.ngram_bits.sum(dtype=np.float64)) for line in lines if line.ngram_bits is not None
        )
        self._word_bits += sum(map(_spelled_word_bits, lines))
        self._characters += sum(len(line.bits) + line.has_end for line in lines)
        self._words += sum(len(line.words.bits) for line in lines if line.words is not None)
        self._fixed_fractions += sum(line.parsed.fixed_fraction for line in lines if line.parsed is not None)

    def build(self, *, buckets: int = 1, older: "CalibrationBuilder | None" = None) -> Calibration:
        """Return the calibration, with this many buckets by line length, of about equal size.

        `older` has lines from before these, on which the network may have been trained. With them a line is
        compared with all that are known, also with kinds that these lines do not have. Their own scores are
        slightly too low, so at each rate the threshold is at least that of the lines of this builder.

        Raises:
            InvalidInput: there are fewer than MIN_LINES lines per bucket.
        """
        if self._lines < MIN_LINES * buckets:
            raise InvalidInput(
                f"calibration needs at least {MIN_LINES * buckets} lines and got {self._lines};"
                f" a false-alarm rate of 1 % needs {lines_needed(0.01) * buckets}",
                code="too_few_calibration_lines",
                param="lines",
            )
        before = older or CalibrationBuilder()
        values = np.concatenate([*before._statistics, *self._statistics])
        lengths = np.concatenate([*before._lengths, *self._lengths])
        is_newest = np.arange(len(values)) >= before._lines
        made = [
            _bucket(
                values[own],
                longest,
                self._weights(values.shape[1], float(np.median(lengths[own]))),
                is_newest[own],
            )
            for own, longest in _by_length(lengths, buckets)
        ]
        excess = np.concatenate(self._excess)
        rates = [1 - rate for rate in CHARACTER_RATES]
        quantiles = np.quantile(excess, rates) if excess.size else np.zeros(len(rates))
        return Calibration(tuple(made), tuple(map(float, quantiles)), int(excess.size))

    def _weights(self, count: int, length: float) -> Floats:
        """Return (count,) the weights of the statistics of lines of about `length` characters.

        - Between network and n-grams: larger for the one that needs fewer bits per character. One bit per
          character shifts half of the weight, within NETWORK_WEIGHT. See also NGRAM_WEIGHTS.
        - Between n-grams of characters and of words: those of words have half if they need as many bits, and
          MAX_WORD_WEIGHT if they need 30 % fewer.
        - Among windows: see MAX_LINE_PER_WINDOW and MAX_LINE_PER_WORD_WINDOW.
        - Of templates: the larger, the more of the lines they fix. Templates of lines without fixed words,
          such as domains or system calls, say nothing and have no weight.
        """
        windows = 1 / np.maximum(1.0, length / (MAX_LINE_PER_WINDOW * np.array(WINDOWS)))
        means = np.append(windows, 1.0)
        network: Floats = np.concatenate([means, means]) / (2 * means.sum())
        if count == len(STATISTICS):
            return network
        has_words = count == len(STATISTICS + NGRAM_STATISTICS + TEMPLATE_STATISTICS + WORD_STATISTICS)
        counted_bits = min(self._ngram_bits, self._word_bits) if has_words else self._ngram_bits
        advantage = (counted_bits - self._network_bits) / (2 * max(1, self._characters))
        network_weight = np.clip(0.5 + advantage, *NETWORK_WEIGHT)
        gain = 1 - self._word_bits / self._ngram_bits if has_words and self._ngram_bits else -1.0
        word_weight = float(np.clip(0.5 + gain, 0.0, MAX_WORD_WEIGHT))
        ngram = means * NGRAM_WEIGHTS
        ngram *= (1 - network_weight) * (1 - word_weight) / ngram.sum()
        characters = np.concatenate([network_weight * network, ngram])
        if count == len(STATISTICS) + len(NGRAM_STATISTICS):
            return characters
        templates = np.array(TEMPLATE_WEIGHTS) * self._fixed_fractions / self._lines
        word_count = length * self._words / max(1, self._characters)
        word_means = np.array([1 / max(1.0, word_count / (MAX_LINE_PER_WORD_WINDOW * WORD_WINDOW)), 1.0])
        words = (1 - network_weight) * word_weight * word_means / word_means.sum()
        left = 1 - templates.sum()
        return np.concatenate([left * characters, templates, *([left * words] if has_words else [])])


def _spelled_word_bits(line: LineSurprisal) -> float:
    """Return the bits of a line's words, and of the characters of unknown ones by n-grams of characters."""
    if line.words is None or line.ngram_bits is None:
        return 0.0
    spelled = sum(
        float(line.ngram_bits[start:end].sum(dtype=np.float64)) for start, end in line.words.unknown
    )
    return float(line.words.bits.sum(dtype=np.float64)) + spelled


def calibrate(
    lines: Sequence[LineSurprisal], *, buckets: int = 1, older: Sequence[LineSurprisal] = ()
) -> Calibration:
    """Return the calibration of normal lines, as `CalibrationBuilder.build` does. Raises InvalidInput."""
    builder, before = CalibrationBuilder(), CalibrationBuilder()
    builder.add(lines)
    before.add(older)
    return builder.build(buckets=buckets, older=before)


def _by_length(lengths: NDArray[np.intp], buckets: int) -> list[tuple[NDArray[np.intp], int | None]]:
    """Return for each bucket the indices of its lines, and their maximum length (None for the last)."""
    edges = [int(e) for e in np.unique(np.quantile(lengths, np.arange(1, buckets) / buckets, method="lower"))]
    bucket_of = np.searchsorted(np.array(edges, np.intp), lengths, "left")
    filled = [(np.flatnonzero(bucket_of == i), edge) for i, edge in enumerate([*edges, None])]
    kept = [(own, edge) for own, edge in filled if len(own) >= MIN_LINES]
    if kept and kept[-1][1] is None:
        return kept
    return [(np.arange(len(lengths)), None)]  # one length dominates: its lines would fill several buckets


def _bucket(values: Floats, longest: int | None, weights: Floats, is_newest: NDArray[np.bool]) -> Bucket:
    ordered = np.sort(values, 0).T  # (k, n)
    spread = values.std(0)
    scores = leave_one_out_rarity(values, ordered, spread) @ weights
    newest = np.sort(scores[is_newest])
    scores.sort()
    if newest.size:
        scores = np.maximum(scores, newest[_same_rates(len(scores), len(newest))])
    kept = _kept_indices(len(values))
    return Bucket(
        longest,
        np.ascontiguousarray(ordered[:, kept]),
        spread,
        weights,
        scores[kept],
        fit_tail(scores),
        len(values),
    )


def _same_rates(count: int, of: int) -> NDArray[np.intp]:
    """Return (count,) for each of `count` sorted scores the index of that with the same rate among `of`."""
    rates = np.arange(count, 0, -1) / (count + 1)
    return of - np.clip((rates * (of + 1) + 1e-9).astype(np.intp), 1, of)


def _kept_indices(lines: int) -> NDArray[np.intp]:
    return np.linspace(0, lines - 1, min(lines, MAX_KEPT)).round().astype(np.intp)


_MAX_CHARACTERS = 20_000_000  # of calibration lines: some minutes
_MAX_LINES = 2_000_000  # some hundred megabytes of statistics
_BATCH_CHARACTERS = 200_000  # read at a time
_MAX_CHARACTERS_IN_BOTH = 2_000_000  # of lines that are read in float32 and int8: a minute
_LINE_OVERHEAD = 20  # characters that a line counts for in addition to its own


def calibrate_model(
    loaded: LoadedModel, lines: Iterable[str], *, characters: int, buckets: int, check: Check
) -> Calibration:
    """Return the calibration of normal lines.

    `lines` are characters of the model, about `characters` of them in all; they are read as they are needed,
    and joined to events. `buckets` is the number of buckets by line length. What `check`, called between
    pieces of work, raises ends it.

    Raises:
        InvalidInput: there are too few lines.
        TooLarge: there are too many.
    """
    if "\r" not in loaded.vocabulary.characters:  # as in streams
        lines = (line.removesuffix("\r") for line in lines)
    # Requests with JSON are scored in float32, streams in int8: if there is time, calibrate for both.
    precision: ReadPrecision = "both" if characters <= _MAX_CHARACTERS_IN_BOTH else "fast"
    builder = CalibrationBuilder()
    for batch in _batches(loaded.scorer.events(lines)):
        check()
        truncated = [line[:MAX_LINE_CHARACTERS] for line in batch]
        scored = loaded.scorer.read(truncated, precision=precision, check=check)
        builder.add([line.surprisal for line in scored])
    return builder.build(buckets=buckets)


def _batches(lines: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = total = 0
    for count, line in enumerate(lines, 1):
        batch.append(line)
        size += len(line) + _LINE_OVERHEAD
        total += len(line)
        if total > _MAX_CHARACTERS or count > _MAX_LINES:
            raise TooLarge(
                f"a calibration takes at most {_MAX_LINES:,} lines and {_MAX_CHARACTERS:,} characters; send a"
                " sample",
                code="calibration_too_large",
            )
        if size > _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    yield batch
