"""Decode: the batch of sequences that each take one character per step, and how each one's is chosen."""

import time
from collections.abc import Callable, MutableMapping
from collections.abc import Sequence as Sequences
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from nextchar.models.runtime.decoding import Choose, Floats, Sampler, logprobs_of
from nextchar.models.runtime.generation import ScheduledRequest, Sequence
from nextchar.models.runtime.prefill import MAX_CALL_S, Prefill, fair_order
from nextchar.models.runtime.requests import FinishReason
from nextchar.models.runtime.session import GeneratingNetwork, State, StepNetwork

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


MAX_BATCH = 64
"""The most sequences in one step."""

MIN_PIGGYBACKED = 4
"""A step of fewer sequences than this can have this many piggybacked prompts."""

GENERATE_AHEAD_S = 0.5e-3
"""The approximate maximum time for which the network generates by itself: new requests wait for it."""

CALL_ROWS = 32
"""Rows per call if a long step is divided into several. Fewer rows take as long, because threads do not share
them."""


class Decode:
    """The batch, and the sequences that wait for a place in it or are paused."""

    def __init__(self, network: StepNetwork, counters: MutableMapping[str, float]) -> None:
        self.sequences: list[Sequence] = []  # (B,)
        self.waiting: list[tuple[Sequence, Floats, State]] = []  # with logits (1, V) and state (1, S)
        self.step_s = 0.0  # duration of the last step
        self.call_s = 0.0  # of its longest call of the network
        self.steps_by_batch_size = [0] * (MAX_BATCH + 1)  # [B]
        self._network, self._counters = network, counters
        self._generator = network if isinstance(network, GeneratingNetwork) else None
        self._step_s: dict[int, float] = {}  # of one step, by the bit length of its rows
        self.clear()

    def clear(self) -> None:
        """Drop all sequences."""
        self.sequences = []
        self.waiting.clear()
        self._state = self._network.initial_state(0)  # (B, S)
        self._logits: Floats = np.zeros((0, self._network.V), np.float32)  # (B, V), of the next characters
        self._sampler: BatchSampler | None = None  # None after the batch has changed

    def flush(self) -> None:
        """Compute outstanding log-probabilities: before sequences are finished from outside."""
        if self._sampler:
            self._sampler.flush()

    def rebalance(self) -> None:
        """Decide which sequences are in the batch: all if they fit, else those next in fair order."""
        if not self.waiting and not any(sequence.request.is_paused for sequence in self.sequences):
            return
        every = (*self.sequences, *(sequence for sequence, _, _ in self.waiting))
        ready = [sequence for sequence in every if not sequence.request.is_paused]
        if len(ready) > MAX_BATCH:
            ready = list(islice(fair_order(ready, lambda sequence: sequence.request), MAX_BATCH))
        selected = set(ready)
        if leaving := [i for i, sequence in enumerate(self.sequences) if sequence not in selected]:
            self.flush()
            self.waiting += [
                (self.sequences[i], self._logits[i : i + 1], self._state[i : i + 1]) for i in leaving
            ]
            self._keep([i for i, sequence in enumerate(self.sequences) if sequence in selected])
        joining = [item for item in self.waiting if item[0] in selected]
        if joining:
            self.waiting = [item for item in self.waiting if item[0] not in selected]
            self._join(joining)

    def choose(self) -> list[ScheduledRequest] | None:
        """Let every sequence take a character, and drop finished ones.

        Returns:
            The requests all of whose sequences have finished; None if no sequence has.
        """
        if self._sampler is None:
            choose_plain = self._generator.choose if self._generator else None
            self._sampler = BatchSampler(self.sequences, self._network.V, choose_plain=choose_plain)
        self._counters["generated_characters"] += len(self.sequences)
        return self._drop(self._sampler.choose(self._logits))

    def step(
        self,
        prefill: Prefill,
        *,
        may_generate: bool,
        is_due_within: Callable[[float], bool],
        end_due: Callable[[], None],
    ) -> list[ScheduledRequest] | None:
        """Run one step for all sequences, in which some prompts read along; or several without prompts.

        Args:
            prefill: the prompts being read.
            may_generate: whether nothing else is to be done, so that the network may choose characters by
                itself for GENERATE_AHEAD_S.
            is_due_within: whether a deadline passes within a time in seconds.
            end_due: ends the requests whose deadlines have passed, between the calls of a long step. It may
                remove requests.

        Returns:
            As `choose`.
        """
        if may_generate and (ahead := self._max_ahead()) > 0:
            return self._generate(ahead)
        started = time.perf_counter()
        sequences, b = self.sequences, len(self.sequences)
        piggybacked = prefill.piggybacked(max(MIN_PIGGYBACKED, b)) if prefill.requests else []
        ids = [sequence.last_id for sequence in sequences]
        state = self._state
        if piggybacked:
            ids += [request.next_ids(1)[0] for request in piggybacked]
            state = np.concatenate([state, *(request.state for request in piggybacked)])
        rows = len(ids)
        step_s = self._step_s.get(rows.bit_length(), float("inf"))
        is_long = rows > CALL_ROWS and step_s > MAX_CALL_S
        call_rows = CALL_ROWS if is_long and is_due_within(step_s) else rows
        logits, state = self._step_in_calls(np.array([ids], np.int32), state, call_rows, end_due)
        if self.sequences is sequences:
            self._logits, self._state = logits[0, :b], state[:b]
        else:  # some have been removed since
            left = set(self.sequences)
            kept = [i for i, sequence in enumerate(sequences) if sequence in left]
            self._logits, self._state = logits[0, kept], state[kept]
        reading = set(prefill.requests)
        for i, request in enumerate(piggybacked, b):
            if request in reading:
                prefill.advance(request, 1, logits[0, i : i + 1], state[i : i + 1])
        self._counters["steps"] += 1
        self.steps_by_batch_size[b] += 1
        self.step_s = time.perf_counter() - started
        if call_rows == rows:
            self.call_s = self.step_s
        self._observe(rows, self.step_s)
        return None

    def remove(self, request: ScheduledRequest) -> None:
        """Drop the sequences of a request."""
        self.waiting = [item for item in self.waiting if item[0].request is not request]
        kept = [i for i, sequence in enumerate(self.sequences) if sequence.request is not request]
        if len(kept) < len(self.sequences):
            self._keep(kept)

    def _step_in_calls(
        self, ids: NDArray[np.int32], state: State, rows: int, end_due: Callable[[], None]
    ) -> tuple[Floats, State]:
        """Step ids (1, B) from state (B, S), CALL_ROWS rows at a time; `end_due` between the calls."""
        if rows == ids.shape[1]:
            return self._network.step(ids, state)
        parts = []
        for at in range(0, ids.shape[1], rows):
            if at:
                end_due()
            started = time.perf_counter()
            part = slice(at, at + rows)
            parts.append(self._network.step(np.ascontiguousarray(ids[:, part]), state[part]))
            self.call_s = max(self.call_s if at else 0.0, time.perf_counter() - started)
        logits, states = zip(*parts, strict=True)
        return np.concatenate(logits, axis=1), np.concatenate(states)

    def _max_ahead(self) -> int:
        """How many characters the network can choose by itself within GENERATE_AHEAD_S."""
        if self._generator is None or self._sampler is None:
            return 0
        step_s = self._step_s.get(len(self.sequences).bit_length(), GENERATE_AHEAD_S)  # unknown: one step
        return min(int(GENERATE_AHEAD_S / step_s), self._sampler.max_ahead) - 1

    def _generate(self, count: int) -> list[ScheduledRequest] | None:
        """Let the network run `count` + 1 steps, and choose `count` characters between them."""
        assert self._generator and self._sampler
        started = time.perf_counter()
        b = len(self.sequences)
        ids = np.array([sequence.last_id for sequence in self.sequences], np.int32)
        sampling = self._sampler.sampling(count)
        chosen, logits, self._state = self._generator.generate(ids, self._state, *sampling)
        self.step_s = self.call_s = time.perf_counter() - started
        self._observe(b, self.step_s / (count + 1))
        self._logits = logits[-1]
        self._counters["steps"] += count + 1
        self.steps_by_batch_size[b] += count + 1
        self._counters["generated_characters"] += count * b
        return self._drop(self._sampler.take_ahead(logits[:-1], chosen))

    def _observe(self, rows: int, step_s: float) -> None:
        size = rows.bit_length()
        # Bounded by twice the last figure: a step that the operating system interrupted is an outlier.
        self._step_s[size] = min(step_s, 2 * self._step_s.get(size, step_s))

    def _drop(self, finished: list[int]) -> list[ScheduledRequest] | None:
        if not finished:
            return None
        leaving = [self.sequences[i] for i in finished]
        self._keep([i for i, sequence in enumerate(self.sequences) if sequence not in leaving])
        requests = dict.fromkeys(sequence.request for sequence in leaving)
        return [request for request in requests if request.has_finished()]

    def _join(self, joining: list[tuple[Sequence, Floats, State]]) -> None:
        self.sequences = self.sequences + [sequence for sequence, _, _ in joining]
        self._reset_sampler()
        if len(self.sequences) == 1:
            _, self._logits, self._state = joining[0]
            return
        self._state = np.concatenate([self._state, *(state for _, _, state in joining)])
        self._logits = np.concatenate([self._logits, *(logits for _, logits, _ in joining)])

    def _keep(self, kept: list[int]) -> None:
        self.sequences = [self.sequences[i] for i in kept]
        self._state, self._logits = self._state[kept], self._logits[kept]
        self._reset_sampler()

    def _reset_sampler(self) -> None:
        self.flush()
        self._sampler = None
