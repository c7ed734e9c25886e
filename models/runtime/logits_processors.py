"""Changes to the logits before a character is sampled: a bias per id, and penalties for repeated use.

    adjusted[id] = logits[id] + bias[id] - frequency * uses[id] - presence * (uses[id] > 0)

`uses` counts the characters of the completion so far, not those of the prompt. Reported log-probabilities
are the network's own, without these changes.
"""

import numpy as np

from models.runtime.decoding import Floats
from models.runtime.requests import CompletionRequest


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
