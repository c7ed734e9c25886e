"""Statistics of a line: of the network's surprisal, of the n-grams', of its template, and of its words.

No single aggregate finds every kind of anomaly: foreign text raises the mean, a wrong token some adjacent
characters, a forbidden character one. So there are four aggregates: the highest mean over 1, 3 and 12
adjacent characters, and the mean over the line. They are taken of the network's surprisal and of its excess
over the entropy of the prediction, by which a random id, which no model can predict, does not count as
anomalous; and of the n-grams' surprisal, if the model has n-grams. If it has templates, there are two more:
the rarity of the line's template and of its rarest value. n-grams of words give the highest mean over 8 words
and the mean over the line. `nextchar.models.anomaly.calibration` combines them into one score;
docs/engineering/anomaly-study.md has the study.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nextchar.models.runtime.surprisal import LineSurprisal

WINDOWS = (1, 3, 12)
"""Numbers of adjacent characters over which means are taken, in addition to the whole line."""

_MEANS = (*map(str, WINDOWS), "line")
STATISTICS = tuple(f"{what}_{over}" for what in ("bits", "excess") for over in _MEANS)
"""The names of the columns of `statistics`."""

NGRAM_STATISTICS = tuple(f"ngram_{over}" for over in _MEANS)
"""The names of the columns after those, for a model with n-grams."""

TEMPLATE_STATISTICS = ("template", "parameter")
"""The names of the columns after those, for a model with n-grams and templates."""

WORD_STATISTICS = ("words_8", "words_line")
"""The names of the columns after those, for a model that has n-grams of words, too."""

WORD_WINDOW = 8
"""The number of adjacent words over which means are taken, in addition to the whole line."""

NEW_TEMPLATE_BITS = 5.0
"""Added to the rarity of a new template. How probable new templates are is only estimated, from those that
occurred once; so calibration lines may show them to be rarer than that."""


def statistics(lines: Sequence[LineSurprisal]) -> NDArray[np.float64]:
    """Return in bits the STATISTICS (n, 8) of n lines; with those of what else the lines have (n, 12 to 16).

    The newline after a line counts as a character. Lines shorter than a window are padded with characters of
    0 bits; lines without any character get zeros.
    """
    has_ngram = bool(lines) and all(line.ngram_bits is not None for line in lines)
    has_templates = has_ngram and all(line.parsed is not None for line in lines)
    characters = STATISTICS + NGRAM_STATISTICS if has_ngram else STATISTICS
    has_words = has_templates and all(line.words is not None for line in lines)
    names = (
        characters + (TEMPLATE_STATISTICS if has_templates else ()) + (WORD_STATISTICS if has_words else ())
    )
    lengths = np.array([len(line.bits) + line.has_end for line in lines], np.intp)
    result = np.zeros((len(lines), len(names)))
    if has_templates:
        parsed = [line.parsed for line in lines if line.parsed is not None]
        result[:, len(characters) : len(characters) + len(TEMPLATE_STATISTICS)] = [
            (p.template_bits + NEW_TEMPLATE_BITS * p.template.is_new, p.parameter_bits) for p in parsed
        ]
    if has_words:
        words = [line.words.bits for line in lines if line.words is not None]
        counts = np.array(list(map(len, words)), np.intp)
        values = np.concatenate(words, dtype=float)
        result[:, -2] = _highest_means(values, counts, WORD_WINDOW)
        result[:, -1] = _sums(values, counts) / counts
    if not lengths.any():
        return result
    bits = np.concatenate([_with_end(line.bits, line.end_bits, line) for line in lines]).astype(np.float64)
    entropy = np.concatenate([_with_end(line.entropy, line.end_entropy, line) for line in lines])
    measures = [bits, bits - entropy]
    if has_ngram:
        ngram_bits = [line.ngram_bits for line in lines if line.ngram_bits is not None]
        measures.append(np.concatenate(ngram_bits, dtype=float))
    for i, values in enumerate(measures):
        first = i * len(_MEANS)
        for column, window in enumerate(WINDOWS, first):
            result[:, column] = _highest_means(values, lengths, window)
        result[:, first + len(WINDOWS)] = _sums(values, lengths) / np.maximum(lengths, 1)
    return result


def peak_bits(bits: NDArray[np.float32], count: int = 2) -> float:
    """Return the mean of the `count` highest of bits (N,), or of all if N is smaller; 0 for N = 0.

    >>> peak_bits(np.array([1, 9, 2, 5], np.float32))
    7.0
    """
    if not bits.size:
        return 0.0
    count = min(count, bits.size)
    return float(np.partition(bits, -count)[-count:].mean(dtype=np.float64))


def _with_end(values: NDArray[np.float32], end: float, line: LineSurprisal) -> NDArray[np.float32]:
    return np.append(values, np.float32(end)) if line.has_end else values


def _sums(values: NDArray[np.float64], lengths: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return (n,) the sum over each line of values (sum of lengths,)."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.cumsum(lengths)
    result: NDArray[np.float64] = total[ends] - total[ends - lengths]
    return result


def _highest_means(
    values: NDArray[np.float64], lengths: NDArray[np.intp], window: int
) -> NDArray[np.float64]:
    """Return (n,) the highest mean over `window` adjacent values within each line."""
    result = _sums(values, lengths) / window  # correct for lines no longer than the window
    long = np.flatnonzero(lengths > window)
    if not long.size:
        return result
    ends = np.cumsum(lengths)
    starts = ends - lengths
    total = np.concatenate([[0.0], np.cumsum(values)])
    means = (total[window:] - total[:-window]) / window  # of the window that begins at each position
    # reduceat takes pairs of start and end; every second result, of the windows across lines, is dropped.
    cuts = np.stack([starts[long], ends[long] - window + 1], 1).ravel()
    means = np.append(means, -np.inf)  # so that the last end is a valid index
    result[long] = np.maximum.reduceat(means, cuts)[::2]
    return result
