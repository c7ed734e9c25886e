"""Beam search: the likeliest completions as wholes, not character by character.

Each turn of the batcher does one step for all of the beam's hypotheses. They are compared by
log-probability / characters ** length_penalty (Wu et al. 2016, without their constant), and the search
is over when no live hypothesis can still come among the best.
"""

import copy
import heapq
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.runtime.decoding import BITS, Ending, Floats, log_softmax
from models.runtime.requests import CompletionRequest, Finished, FinishReason, OnEvent, Piece
from models.runtime.sequences import CompletionJob, Row
from models.runtime.session import State, StepNetwork
from models.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class Hypothesis:
    """A completion so far. `total` is the log-probability of all that was taken, natural."""

    text: str
    logprobs: tuple[float, ...]  # of the characters of `text`
    total: float
    taken: int  # characters taken: those of `text`, and what was cut off at its end
    ending: Ending
    reason: FinishReason | None = None  # why it is over

    def score(self, length_penalty: float) -> float:
        """What hypotheses are ranked by; larger is better."""
        return self.total / math.pow(max(1, self.taken), length_penalty)


class BeamJob(CompletionJob):
    """A request with `beam`: it does its own steps, beside the batch."""

    is_stepper = True

    def __init__(
        self,
        request: CompletionRequest,
        vocabulary: Vocabulary,
        id_of: dict[str, int],
        on_event: OnEvent,
        network: StepNetwork,
    ) -> None:
        super().__init__(request, vocabulary, id_of, on_event, seed=0)
        self._network = network
        self._width = request.beam or 1
        ending = Ending(
            stop=request.stop, until=request.until, is_word_character=vocabulary.is_word_character
        )
        self._live = [Hypothesis("", (), 0.0, 0, ending)]
        self._done: list[Hypothesis] = []  # the best of them, as many as live ones, best first
        self._logprobs: NDArray[np.float64] | None = None  # (live, V - 1)

    def begin(self, logits: Floats, state: State) -> list[Row]:
        """Start from logits (V,) and state (1, S)."""
        self._logprobs = log_softmax(logits[None])
        self.state = state
        return []

    def advance(self) -> bool:
        """Extend every hypothesis by a character; return whether the search is over."""
        parents = self._extend()
        if not self._live or self._is_decided():
            self._give(None)
            return True
        ids = np.array([[self._id_of[h.text[-1]] for h in self._live]], np.int32)
        logits, self.state = self._network.step(ids, self.state[parents])
        self._logprobs = log_softmax(logits[0])
        return False

    def stop(self, reason: FinishReason) -> None:
        """Give out the best so far."""
        self._give(reason)

    def _extend(self) -> list[int]:
        """Replace the live hypotheses by their best extensions; return the parent of each."""
        logprobs = self._logprobs
        assert logprobs is not None
        totals = np.array([h.total for h in self._live])[:, None] + logprobs  # (live, V - 1)
        best = np.argsort(-totals.ravel(), kind="stable")[: 2 * self._width]
        live: list[Hypothesis] = []
        parents: list[int] = []
        for parent, place in zip(*map(list, np.unravel_index(best, totals.shape)), strict=True):
            extended = self._extended(self._live[parent], int(place), float(logprobs[parent, place]))
            if extended.reason:
                self._done.append(extended)
            elif len(live) < self._width:
                live.append(extended)
                parents.append(int(parent))
        self._live = live
        penalty = self.request.length_penalty
        self._done = heapq.nlargest(self._width, self._done, key=lambda h: h.score(penalty))
        return parents

    def _extended(self, h: Hypothesis, place: int, logprob: float) -> Hypothesis:
        ending = copy.deepcopy(h.ending)
        unsettled, reason = ending.push(self.characters[place])
        text, logprobs = h.text + self.characters[place], (*h.logprobs, logprob)
        if reason:
            kept = len(text) - unsettled
            text, logprobs = text[:kept], logprobs[:kept]
        elif h.taken + 1 == self.request.max_characters:
            reason = "length"
        return Hypothesis(text, logprobs, h.total + logprob, h.taken + 1, ending, reason)

    def _is_decided(self) -> bool:
        penalty, longest = self.request.length_penalty, self.request.max_characters
        if len(self._done) < self._width:
            return False
        worst = self._done[-1].score(penalty)
        # A total only falls, and its divisor is the largest at the greatest length.
        return max(h.total for h in self._live) / math.pow(longest, penalty) <= worst

    def _give(self, reason: FinishReason | None) -> None:
        """Give out the `n` best; those that are not over, for `reason`."""
        found = self._done + (self._live if reason else [])
        found.sort(key=lambda h: h.score(self.request.length_penalty), reverse=True)
        for index in range(self.request.n):
            h = found[index] if index < len(found) else None
            if h and h.text:
                self.emit(Piece(index, h.text))
            why = (h.reason if h else None) or reason or "length"
            bits = max(0.0, -BITS * sum(h.logprobs)) if h else 0.0
            self.emit(Finished(index, why, bits, len(h.text) if h else 0))
