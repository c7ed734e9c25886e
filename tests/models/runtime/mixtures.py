"""A mixture in plain Python, character by character, to compare the kernels with."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from nextchar.models.kernels.mixture_arguments import (
    CONTEXTS,
    HISTORY_CHARACTERS,
    HISTORY_MATCH_BOOSTS,
    HISTORY_MATCH_CHARACTERS,
    LENGTHS,
    MATCH_BOOSTS,
    MATCH_CHARACTERS,
    MAX_MATCH,
    MAX_RECENT,
    ORDER,
    RESUMED_BOOSTS,
    WEIGHTS,
    Experts,
)
from nextchar.models.runtime.mixture import experts_of
from nextchar.models.text.vocabulary import Vocabulary


def random_mixture_weights(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(0.1, 1.5, WEIGHTS).astype(np.float32)


ADAPTATION = np.array([3, 60, 2, 200, 20], np.float32)


def experts_for(
    text: str, vocabulary: Vocabulary, *, seed: int = 0, adaptation: NDArray[np.float32] = ADAPTATION
) -> Experts:
    ids, weights = vocabulary.encode(text), random_mixture_weights(seed)
    return experts_of(ids, weights, size=len(vocabulary), adaptation=adaptation)


def length_bucket(length: int) -> int:
    if length < 16:
        return (length + 1) // 2
    return 5 + length // 4 if length < 32 else min(LENGTHS - 1, 12 + length // 32)


def common_suffix(a: str, b: str) -> int:
    length = 0
    while length < min(len(a), len(b), MAX_MATCH) and a[-1 - length] == b[-1 - length]:
        length += 1
    return length


class SlowMixture:
    """Predicts one text, of known characters, from its beginning.

    `logits` is called after each `push`, in turn.
    """

    def __init__(
        self,
        text: str,
        vocabulary: Vocabulary,
        weights: NDArray[np.float32],
        adaptation: NDArray[np.float32] = ADAPTATION,
    ) -> None:
        self.text, self.vocabulary = text, vocabulary
        self.recent_weight, *precisions = adaptation.tolist()
        self.weights = weights.astype(np.float64)
        self.unigrams = Counter(text)
        self.read = ""
        self.match, self.repeat = (0, 0), (0, 0)  # position or distance, and length
        self.resumed = (0, 0, 0)  # position, quality, run
        self.of_groups = np.zeros(5)  # added to all weights of each group
        by_set, boost, all_sets, all_boosts = precisions
        self.precision = np.full(WEIGHTS, boost)
        self.precision[:MATCH_BOOSTS] = by_set
        self.group_precision = np.array([all_sets] * 2 + [all_boosts] * 3)
        self.limits = 20 * self.precision, 20 * self.group_precision
        self.adapts = by_set > 0
        self.last: tuple[NDArray[np.float64], list[int], NDArray[np.float64]] | None = None

    def push(self, character: str) -> None:
        if self.adapts and self.last:
            self.adapt(self.vocabulary.encode(character)[0])
        self.resume(character)
        at, length = self.match
        repeat, repeated = self.repeat
        is_repeated = bool(repeat) and self.read[-repeat] == character
        self.read += character
        if at and self.text[at] == character:
            self.match = at + 1, min(length + 1, MAX_MATCH)
        else:
            key = self.read[-MATCH_CHARACTERS:]
            start = self.text.rfind(key, 0, -1) if len(key) == MATCH_CHARACTERS else -1
            end = start + MATCH_CHARACTERS
            self.match = (end, common_suffix(self.text[:end], self.read)) if start >= 0 else (0, 0)
        if self.match[0] >= len(self.text):
            self.match = 0, 0
        if is_repeated:
            self.repeat = repeat, min(repeated + 1, MAX_MATCH)
            return
        past = self.read[-HISTORY_CHARACTERS:]
        found = [(common_suffix(past[:end], past), end) for end in range(1, len(past))]
        longest = max(found, default=(0, 0))
        self.repeat = (0, 0)
        if longest[0] >= HISTORY_MATCH_CHARACTERS:
            self.repeat = len(past) - longest[1], longest[0]

    def resume(self, character: str) -> None:
        """Move the resumed match; begin one if that of the text is wrong now."""
        at, quality, run = self.resumed
        if at and self.text[at] == character:
            at, quality, run = at + 1, min(quality + 1, MAX_MATCH), run + 1
        elif at:
            at, quality, run = at + 1, quality * 3 // 4 - 2, 0
        match, length = self.match
        after = length * 3 // 4 - 2
        if match and self.text[match] != character and after > max(0, quality):
            at, quality, run = match + 1, after, 0
        self.resumed = (at, quality, run) if quality > 0 and at < len(self.text) else (0, 0, 0)

    def logits(self, network: NDArray[np.float32]) -> NDArray[np.float64]:
        """Mix logits (V,) of the network; those of id 0 are not compared."""
        context, ngrams = self.ngrams()
        columns = np.zeros((5, self.vocabulary_size))  # what each of five weights is multiplied with
        columns[0], columns[1, 1:] = network, ngrams
        indices = [2 * context, 2 * context + 1, MATCH_BOOSTS, HISTORY_MATCH_BOOSTS, RESUMED_BOOSTS]
        if self.match[0]:
            columns[2, self.vocabulary.encode(self.text[self.match[0]])[0]] = 1
            indices[2] += length_bucket(self.match[1])
        if self.repeat[0]:
            columns[3, self.vocabulary.encode(self.read[-self.repeat[0]])[0]] = 1
            indices[3] += length_bucket(self.repeat[1])
        at, quality, run = self.resumed
        if at and at != self.match[0]:
            columns[4, self.vocabulary.encode(self.text[at])[0]] = 1
            indices[4] += 4 * sum(quality >= least for least in (8, 16, 32))
            indices[4] += sum(run >= least for least in (1, 3, 8))
        now = self.weights[indices] + self.of_groups
        now[:2] = np.maximum(now[:2], 0)
        mixed: NDArray[np.float64] = now @ columns
        self.last = columns, indices, mixed
        return mixed

    @property
    def vocabulary_size(self) -> int:
        return len(self.vocabulary)

    def ngrams(self) -> tuple[int, NDArray[np.float64]]:
        """Return the row of the table of weights, and log p of each known character (V - 1,)."""
        characters = self.vocabulary.characters
        counts = np.array([self.unigrams[c] for c in characters], float)
        distinct = np.count_nonzero(counts)
        p = (counts + distinct / len(characters)) / (counts.sum() + distinct)
        bucket, places = 0, self.places()
        for n in range(1, ORDER):
            suffix = self.read[-n:]
            followers = [
                self.text[i + n] for i in range(len(self.text) - n) if self.text.startswith(suffix, i)
            ]
            recent = [c for c, length in places if length >= n >= 2]
            if len(suffix) < n or (n == 1 and not followers) or not followers + recent:
                break
            known, recently = Counter(followers), Counter(recent)
            counts = np.array([known[c] + self.recent_weight * recently[c] for c in characters])
            total, distinct = counts.sum(), np.count_nonzero(counts)
            p = (counts + distinct * p) / (total + distinct)
            few = 0 if distinct == 1 else 1 if distinct <= 3 else 2
            bucket = 6 * n + 2 * few + bool(total > (2 if distinct == 1 else 3 * distinct))
        assert bucket < CONTEXTS
        return bucket, np.log(p)

    def places(self) -> list[tuple[str, int]]:
        """Return what followed the last characters in the history, and how many of them are the same."""
        past = self.read[-HISTORY_CHARACTERS:]
        found = [
            (past[end], min(ORDER - 1, common_suffix(past[:end], past)))
            for end in range(len(past) - 1, 1, -1)
            if past[end - 2 : end] == past[-2:]
        ]
        return found[:MAX_RECENT] if self.recent_weight else []

    def adapt(self, c: int) -> None:
        """Move the weights of the last prediction, now that c was read."""
        assert self.last
        columns, indices, mixed = self.last
        p = np.exp(mixed[1:] - mixed[1:].max())
        p /= p.sum()
        for k, (column, index) in enumerate(zip(columns[:, 1:], indices, strict=True)):
            if not column.any() and k >= 2:
                continue  # no match
            mean = p @ column
            slope, curvature = mean - column[c - 1], p @ (column - mean) ** 2
            bound = 0.1 if k < 2 else np.inf
            self.precision[index] = min(self.precision[index] + curvature, self.limits[0][index])
            self.weights[index] -= np.clip(slope / self.precision[index], -bound, bound)
            self.group_precision[k] = min(self.group_precision[k] + curvature, self.limits[1][k])
            self.of_groups[k] -= np.clip(slope / self.group_precision[k], -bound, bound)
