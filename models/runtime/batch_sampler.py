"""Chooses the next character of every sequence in a batch."""

from collections.abc import Sequence as Sequences

import numpy as np
from numpy.typing import NDArray

from nextchar.models.runtime.decoding import Choose, Floats, Sampler, logprobs_of
from nextchar.models.runtime.generation import Sequence
from nextchar.models.runtime.requests import FinishReason

MAX_PENDING_LOGITS = 1 << 16  # 256 kB


class BatchSampler:
    """Samples for a fixed batch. When the batch changes, call `flush` and make a new one.

    Log-probabilities of the chosen characters are computed for many steps at once, by `flush`.
    """

    def __init__(
        self, sequences: Sequences[Sequence], vocabulary_size: int, *, choose_plain: Choose | None = None
    ) -> None:
        self._sequences = sequences
        self._sampler = Sampler(
            [sequence.options for sequence in sequences], vocabulary_size, choose_plain=choose_plain
        )
        self._until_confidence = [i for i, s in enumerate(sequences) if s.options.until == "confidence"]
        self._adjusted = [i for i, s in enumerate(sequences) if s.adjustment]
        special = self._until_confidence or self._adjusted
        self._single = sequences[0] if len(sequences) == 1 and not special else None
        self._is_plain = self._sampler.is_plain and not special
        self._pending: list[tuple[Floats, list[int]]] = []  # (logits (B, V), ids (B,)) of each step
        self._max_pending = max(1, MAX_PENDING_LOGITS // (len(sequences) * vocabulary_size))

    def choose(self, logits: Floats) -> list[int]:
        """Let every sequence take a character by logits (B, V); return the indices of finished ones."""
        if self._single:
            return self._choose_single(self._single, logits)
        sequences = self._sequences
        uncertain = {i for i in self._until_confidence if sequences[i].is_uncertain(logits[i])}
        permitted = self._adjust(logits) if self._adjusted else logits
        ids = self._sampler.choose(permitted, [sequence.next_uniform() for sequence in sequences])
        self._pending.append((logits, ids))
        finished: dict[int, FinishReason] = {}
        for i, sequence in enumerate(sequences):
            reason = "confidence" if i in uncertain else sequence.append(ids[i], logits[i])
            if reason:
                finished[i] = reason
        return self._finish(finished)

    def _choose_single(self, sequence: Sequence, logits: Floats) -> list[int]:
        """`choose` for the most common batch, one plain sequence, in half the time."""
        ids = self._sampler.choose(logits, [sequence.next_uniform()])
        self._pending.append((logits, ids))
        reason = sequence.append(ids[0], logits[0])
        if reason:
            return self._finish({0: reason})
        if len(self._pending) >= self._max_pending:
            self.flush()
        return []

    @property
    def max_ahead(self) -> int:
        """How many characters the network may choose for every sequence by itself, in one call."""
        if not self._is_plain:
            return 0
        return min(self._max_pending, *[sequence.remaining for sequence in self._sequences])

    def sampling(self, count: int) -> tuple[Floats, NDArray[np.float64]]:
        """Return inverse temperatures (B,) and random numbers (count, B) for the next characters."""
        ahead = [sequence.next_uniforms(count) for sequence in self._sequences]
        uniforms = np.array(ahead, np.float64).reshape(len(ahead), count).T.copy()
        return self._sampler.inverse_temperature, uniforms

    def take_ahead(self, logits: Floats, chosen: NDArray[np.int32]) -> list[int]:
        """Let the sequences take chosen (T, B), sampled from logits (T, B, V); return finished indices."""
        self._pending += zip(logits, chosen.tolist(), strict=True)
        finished: dict[int, FinishReason] = {}
        for i, (sequence, ids) in enumerate(zip(self._sequences, chosen.T.tolist(), strict=True)):
            reason = sequence.extend(ids, logits[:, i])
            if reason:
                finished[i] = reason
        return self._finish(finished)

    def flush(self) -> None:
        """Compute the log-probabilities of all characters taken so far."""
        if not self._pending:
            return
        logits = np.array([logits for logits, _ in self._pending])  # (N, B, V)
        logprobs = logprobs_of(logits, np.array([ids for _, ids in self._pending]))
        for sequence, own in zip(self._sequences, logprobs.T.tolist(), strict=True):
            sequence.logprobs += own
        self._pending = []

    def _finish(self, finished: dict[int, FinishReason]) -> list[int]:
        if finished or len(self._pending) >= self._max_pending:
            self.flush()
        for i, reason in finished.items():
            self._sequences[i].finish(reason)
        return list(finished)

    def _adjust(self, logits: Floats) -> Floats:
        logits = logits.copy()
        for i in self._adjusted:
            adjustment = self._sequences[i].adjustment
            if adjustment:
                logits[i] = adjustment.apply(logits[i])
        return logits
