"""Changes to the logits before a character is sampled: biases, penalties for repeated use, banned repeats.

    adjusted[id] = logits[id] + bias[id] - frequency * uses[id] - presence * (uses[id] > 0)

`uses` counts the characters of the completion so far, not those of the prompt. Reported log-probabilities
are the network's own, without these changes.
"""

import copy
from collections.abc import Mapping

import numpy as np

from nextchar.models.runtime.decoding import Floats
from nextchar.models.runtime.requests import CompletionRequest
from nextchar.models.text.vocabulary import UNKNOWN_ID


class Adjustment:
    """The bias and the penalties of one completion, and the characters it has used."""

    def __init__(self, request: CompletionRequest, vocabulary_size: int) -> None:
        self._presence, self._frequency = request.presence_penalty, request.frequency_penalty
        self._bias = np.zeros(vocabulary_size, np.float32)  # (V,)
        for an_id, bias in request.logit_bias:
            self._bias[an_id] = bias
        self._uses = np.zeros(vocabulary_size, np.float32)  # (V,)

    def count(self, an_id: int) -> None:
        """Count a character that the completion has taken."""
        self._uses[an_id] += 1

    def apply(self, logits: Floats) -> Floats:
        """Return logits (V,) with bias and penalties."""
        used = self._frequency * self._uses + self._presence * (self._uses > 0)
        return logits + self._bias - used


def adjustment_of(request: CompletionRequest, vocabulary_size: int) -> Adjustment | None:
    """Return the adjustment that a request asks for, if any."""
    if request.logit_bias or request.presence_penalty or request.frequency_penalty:
        return Adjustment(request, vocabulary_size)
    return None


class NoRepeat:
    """Finds the characters that would repeat an n-gram of a text, in a time independent of its length.

    The ids that followed each (n - 1)-gram are kept by its 64-bit hash, because n-grams may be long. In the
    improbable case that two have the same hash, a character is banned that would repeat nothing.
    """

    def __init__(self, size: int, text: str, id_of: Mapping[str, int]) -> None:
        """Take n-grams of `size` characters, and the text so far, whose characters may have no id."""
        self._length = size - 1
        self._end = ""  # the last n - 1 characters
        self._followers: dict[int, tuple[int, ...]] = {}  # distinct ids
        for character in text:
            self.append(character, id_of.get(character, UNKNOWN_ID))

    def copy(self) -> "NoRepeat":
        """Return one that continues from here independently."""
        other = copy.copy(self)
        other._followers = self._followers.copy()
        return other

    def append(self, character: str, an_id: int) -> None:
        """Add a character to the text."""
        if an_id != UNKNOWN_ID and an_id not in (banned := self.banned()):
            self._followers[hash(self._end)] = (*banned, an_id)
        self._end = (self._end + character)[-self._length :] if self._length else ""

    def banned(self) -> tuple[int, ...]:
        """Return the ids of the characters that would repeat an n-gram."""
        return self._followers.get(hash(self._end), ())
