"""Beam search: the completions with the highest total probability.

In each turn of the scheduler all hypotheses of the beam take one step. They are ranked by
log-probability / characters ** length_penalty (Wu et al. 2016, without their constant). A text that several
endings leave, such as a word before a space or a comma, is one hypothesis, whose probability is their sum.
The search ends when no live hypothesis can still reach the best ones.

With `typed`, it begins with a hypothesis for each prefix that the typed characters may stand for.
"""

import heapq
import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nextchar.models.runtime.corrections import Start, likely_starts
from nextchar.models.runtime.decoding import BITS, Ending, Floats, largest, log_softmax
from nextchar.models.runtime.generation import LINE_START, GenerationRequest, Sequence
from nextchar.models.runtime.requests import CompletionRequest, Finished, FinishReason, OnEvent, Piece
from nextchar.models.runtime.session import State, StepNetwork
from nextchar.models.text.vocabulary import Vocabulary

_NEVER_MEANT = "\n\r\t"  # between typed characters
_MORE = 64  # extensions that are looked at if the best ones end: about the number of ways to end a word


@dataclass(frozen=True)
class Hypothesis:
    """A partial completion. `total` is the natural log-probability of all characters taken."""

    text: str
    logprobs: tuple[float, ...]  # of the characters of `text`
    total: float
    taken: int  # characters: those of `text`, and those cut off at its end
    ending: Ending
    reason: FinishReason | None = None  # None while it is live

    def score(self, length_penalty: float) -> float:
        """The rank; larger is better."""
        return self.total / math.pow(max(1, self.taken), length_penalty)

    def merged(self, other: Self) -> Self:
        """Return this hypothesis with the sum of the probabilities of both, which have the same text."""
        return replace(self, total=float(np.logaddexp(self.total, other.total)))


class BeamSearch(GenerationRequest):
    """A request with `beam`, which runs its own steps outside the batch."""

    is_self_stepping = True

    def __init__(
        self,
        options: CompletionRequest,
        vocabulary: Vocabulary,
        id_of: dict[str, int],
        on_event: OnEvent,
        network: StepNetwork,
        *,
        starts_line: bool = False,
    ) -> None:
        super().__init__(options, vocabulary, id_of, on_event, seed=0, starts_line=starts_line)
        self._network = network
        assert options.beam is not None
        self._width = options.beam
        ending = Ending(
            stop=options.stop, until=options.until, is_word_character=vocabulary.is_word_character
        )
        self._live = [Hypothesis("", (), 0.0, 0, ending)]
        self._starting: Generator[None, None, list[Start]] | None = (
            None  # until the typed characters are read
        )
        self._typed = self.text[len(self.text) - options.typed :]
        self.text = self.text[: len(self.text) - options.typed] or LINE_START
        self._done: list[Hypothesis] = []  # the best finished ones, best first
        self._logprobs: NDArray[np.float64] | None = None  # (live, V - 1)

    def begin(self, logits: Floats, state: State) -> list[Sequence]:
        """Start from logits (V,) and state (1, S)."""
        self._logprobs = log_softmax(logits[None])
        self.state = state
        if self._typed:
            typed = np.array([self._id_of.get(character, 0) for character in self._typed], np.int32)
            never = frozenset(
                self._id_of[character] for character in _NEVER_MEANT if character in self._id_of
            )
            respelled = [
                tuple(self._id_of.get(character, 0) for character in text) for text in self.options.respelled
            ]
            known = [ids for ids in respelled if not never.intersection(ids) and 0 not in ids]
            self._starting = likely_starts(self._network, logits, state, typed, never=never, respelled=known)
        return []

    def advance(self) -> bool:
        """Extend every hypothesis by a character; return whether the search has ended."""
        if self._starting:
            try:
                next(self._starting)
            except StopIteration as end:
                self._start(end.value)
            return False
        parents = self._extend()
        if not self._live or self._is_decided():
            self._finish(None)
            return True
        ids = np.array([[self._id_of[h.text[-1]] for h in self._live]], np.int32)
        logits, self.state = self._network.step(ids, self.state[parents])
        self._logprobs = log_softmax(logits[0])
        return False

    def stop(self, reason: FinishReason) -> None:
        """Finish with the best hypotheses so far."""
        self._finish(reason)

    def _start(self, starts: list[Start]) -> None:
        """Continue with a hypothesis for each prefix that may be meant."""
        self._starting, (empty,) = None, self._live
        self._live = []
        for start in starts:
            # The first, which is what was typed, may have characters that the vocabulary has not.
            text = "".join(self.characters[i - 1] for i in start.ids) if self._live else self._typed
            logprobs = (start.total, *(0.0 for _ in text[1:]))
            self._live.append(replace(empty, text=text, logprobs=logprobs, total=start.total))
        self._logprobs = np.stack([start.logprobs for start in starts])
        self.state = np.concatenate([start.state for start in starts])

    def _extend(self) -> list[int]:
        """Replace the live hypotheses by their best extensions; return the parent of each."""
        logprobs = self._logprobs
        assert logprobs is not None
        totals = np.array([h.total for h in self._live])[:, None] + logprobs  # (live, V - 1)
        best = largest(totals.ravel(), 2 * self._width + _MORE)
        live: list[Hypothesis] = []
        parents: list[int] = []
        done = {h.text: h for h in self._done}
        for rank, (parent, index) in enumerate(zip(*np.unravel_index(best, totals.shape), strict=True)):
            if rank >= 2 * self._width and len(live) == self._width:
                break
            extended = self._extended(self._live[parent], int(index), float(logprobs[parent, index]))
            if extended.reason:
                same = done.get(extended.text)
                done[extended.text] = same.merged(extended) if same else extended
            elif len(live) < self._width:
                live.append(extended)
                parents.append(int(parent))
        self._live = live
        penalty = self.options.length_penalty
        self._done = heapq.nlargest(self._width, done.values(), key=lambda h: h.score(penalty))
        return parents

    def _extended(self, h: Hypothesis, index: int, logprob: float) -> Hypothesis:
        ending = h.ending.copy()
        unsettled, reason = ending.push(self.characters[index])
        text, logprobs = h.text + self.characters[index], (*h.logprobs, logprob)
        if reason:
            kept = len(text) - unsettled
            text, logprobs = text[:kept], logprobs[:kept]
        elif h.taken + 1 == self.options.max_characters:
            reason = "length"
        return Hypothesis(text, logprobs, h.total + logprob, h.taken + 1, ending, reason)

    def _is_decided(self) -> bool:
        penalty, longest = self.options.length_penalty, self.options.max_characters
        if len(self._done) < self._width:
            return False
        worst = self._done[-1].score(penalty)
        # Totals only decrease, and the divisor is largest at the maximum length.
        return max(h.total for h in self._live) / math.pow(longest, penalty) <= worst

    def _finish(self, reason: FinishReason | None) -> None:
        """Send the `n` best; live ones are included, and finish with `reason`, if it is given."""
        found = self._done + (self._live if reason else [])
        found.sort(key=lambda h: h.score(self.options.length_penalty), reverse=True)
        for index in range(self.options.n):
            h = found[index] if index < len(found) else None
            if h and h.text:
                self.emit(Piece(index, h.text))
            finish_reason = (h.reason if h else None) or reason or "length"
            bits = max(0.0, -BITS * sum(h.logprobs)) if h else 0.0
            ending_bits = max(0.0, -BITS * h.total - bits) if h else 0.0
            self.emit(Finished(index, finish_reason, bits, len(h.text) if h else 0, ending_bits))
