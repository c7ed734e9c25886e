"""A mixture in plain Python, character by character, to compare the kernels with."""

import numpy as np
from numpy.typing import NDArray

from models.kernels.mixture_arguments import (
    BY_CONTEXT,
    CONTEXTS,
    HISTORY,
    LENGTHS,
    MATCH_BOOSTS,
    MATCH_CHARACTERS,
    MAX_MATCH,
    ORDER,
    REPEAT_BOOSTS,
    REPEAT_CHARACTERS,
    WEIGHTS,
    Experts,
)
from models.runtime.mixture import experts_of
from models.text.ngram import NgramModel
from models.text.vocabulary import Vocabulary


def random_mixture_weights(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(0.1, 1.5, WEIGHTS).astype(np.float32)


def experts_for(text: str, vocabulary: Vocabulary, *, seed: int = 0) -> Experts:
    return experts_of(vocabulary.encode(text), random_mixture_weights(seed), size=len(vocabulary))


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
    """Predicts one text, of known characters, from its beginning."""

    def __init__(self, text: str, vocabulary: Vocabulary, weights: NDArray[np.float32]) -> None:
        self.text, self.vocabulary, self.weights = text, vocabulary, weights
        self.ngram = NgramModel.fit(text, order=ORDER, vocabulary=vocabulary)
        self.read = ""
        self.match, self.repeat = (0, 0), (0, 0)  # position or distance, and length

    def push(self, character: str) -> None:
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
        past = self.read[-HISTORY:]
        found = [(common_suffix(past[:end], past), end) for end in range(1, len(past))]
        longest = max(found, default=(0, 0))
        self.repeat = (0, 0)
        if longest[0] >= REPEAT_CHARACTERS:
            self.repeat = len(past) - longest[1], longest[0]

    def logits(self, network: NDArray[np.float32]) -> NDArray[np.float64]:
        """Mix logits (V,) of the network; those of id 0 are not compared."""
        context, ngram_weight_of = self.context(), self.weights[BY_CONTEXT:].reshape(-1)
        own, ngrams = ngram_weight_of[2 * context], ngram_weight_of[2 * context + 1]
        recent = self.read[-(ORDER - 1) :]
        bits = [self.ngram.surprisal(c, context=recent)[0] for c in self.vocabulary.characters]
        mixed = own * network.astype(np.float64)
        mixed[1:] -= ngrams * np.array(bits) * np.log(2)
        if self.match[0]:
            boost = self.weights[MATCH_BOOSTS + length_bucket(self.match[1])]
            mixed[self.vocabulary.encode(self.text[self.match[0]])[0]] += boost
        if self.repeat[0]:
            boost = self.weights[REPEAT_BOOSTS + length_bucket(self.repeat[1])]
            mixed[self.vocabulary.encode(self.read[-self.repeat[0]])[0]] += boost
        return mixed

    def context(self) -> int:
        """The row of the table of weights."""
        bucket = 0
        for n in range(1, ORDER):
            suffix = self.read[-n:]
            followers = [
                self.text[i + n] for i in range(len(self.text) - n) if self.text.startswith(suffix, i)
            ]
            if len(suffix) < n or not followers:
                break
            distinct = len(set(followers))
            few = 0 if distinct == 1 else 1 if distinct <= 3 else 2
            is_frequent = len(followers) > (2 if distinct == 1 else 3 * distinct)
            bucket = 6 * n + 2 * few + is_frequent
        assert bucket < CONTEXTS
        return bucket
