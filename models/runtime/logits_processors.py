"""What a request adds to the logits before a character is chosen: a bias by id, and penalties by use.

    adjusted[id] = logits[id] + bias[id] - frequency * uses[id] - presence * (uses[id] > 0)

`uses` counts the characters that the completion has taken so far, the prompt's not. Log-probabilities are
reported without it: they are the network's own. Knows one row at a time, so that company changes nothing.
"""

import numpy as np

from models.runtime.decoding import Floats
from models.runtime.requests import CompletionRequest


class Adjustment:
    """The bias and the penalties of one completion, and what it has used."""

    def __init__(self, request: CompletionRequest, vocabulary_size: int) -> None:
        self._presence, self._frequency = request.presence_penalty, request.frequency_penalty
        self._bias = np.zeros(vocabulary_size, np.float32)  # (V,)
        for an_id, bias in request.logit_bias:
            self._bias[an_id] = bias
        self._uses = np.zeros(vocabulary_size, np.float32)  # (V,)

    def count(self, an_id: int) -> None:
        """The completion has taken this id."""
        self._uses[an_id] += 1

    def apply(self, logits: Floats) -> Floats:
        """Return logits (V,) with bias and penalties."""
        used = self._frequency * self._uses + self._presence * (self._uses > 0)
        return logits + self._bias - used


def adjustment_of(request: CompletionRequest, vocabulary_size: int) -> Adjustment | None:
    """Return what the request asks for, None if that is nothing."""
    if request.logit_bias or request.presence_penalty or request.frequency_penalty:
        return Adjustment(request, vocabulary_size)
    return None
