"""Prefill: reading the prompts of requests, in chunks short enough that no other request waits long.

Prompts are read side by side. While sequences are being decoded, prefill has a time budget that grows with
the decoding time (PREFILL_FRACTION); prompts are also read along in the decoding steps (`piggybacked`). A
prompt that is alone is read in longer calls, which the next arrival interrupts.
"""

import time
from collections.abc import MutableMapping
from itertools import islice

import numpy as np

from nextchar.models.runtime.admission import Inbox, fair_order
from nextchar.models.runtime.decoding import Floats
from nextchar.models.runtime.generation import ScheduledRequest
from nextchar.models.runtime.session import GeneratingNetwork, State, StepNetwork
from nextchar.models.runtime.state_cache import CHUNK, STRIDE, StateCache

MAX_PREFILL_BATCH = 16
"""The most prompts that are read together in one chunk."""

PREFILL_CHUNK_S = 1e-3
"""The approximate maximum duration of one chunk."""

PREFILL_ALONE_S = 0.1
"""The maximum duration of one call while a single prompt is everything there is to do."""

MAX_CALL_S = 10e-3
"""The approximate maximum duration of a call in which a deadline passes: a longer step is made in several.
A prompt that is alone is read in slices of this duration, after each of which an arrival can end the call."""

PREFILL_FRACTION = 0.5
"""Time for prefill while sequences are being decoded, as a share of the decoding time."""

DENSE_CHARACTERS = 4 * STRIDE
"""States of chunks are cached for this many characters at the end of a prompt, and of strides before."""


class Prefill:
    """The requests whose prompts are being read."""

    def __init__(
        self, network: StepNetwork, cache: StateCache, inbox: Inbox, counters: MutableMapping[str, float]
    ) -> None:
        self.requests: list[ScheduledRequest] = []
        self.call_s = 0.0  # duration of the last chunk
        self._completed: list[tuple[ScheduledRequest, Floats, State]] = []
        self._network, self._cache, self._inbox, self._counters = network, cache, inbox, counters
        self._generator = network if isinstance(network, GeneratingNetwork) else None
        self._budget_s = 0.0  # while sequences are being decoded
        self._step_s: dict[int, float] = {}  # of one character, by the bit length of the batch size
        self._character_s = PREFILL_ALONE_S / CHUNK  # of a prompt that is alone

    def add(self, request: ScheduledRequest) -> None:
        """Start with a request: its longest cached prefix is skipped."""
        # The last character is always read: its logits are needed, and logits are not cached.
        request.prefix = self._cache.match(request.text[:-1], request.owner)
        request.position = request.cached = request.prefix.length
        state = request.prefix.state
        request.state = self._network.initial_state() if state is None else state[None]
        self.requests.append(request)

    def remove(self, request: ScheduledRequest) -> None:
        """Stop reading a request's prompt, if it is being read; a request that repeats it continues there."""
        if request in self.requests:
            self.requests.remove(request)
            self._cache.insert(request.prefix, request.text, request.position, request.state[0])

    def take_completed(self) -> list[tuple[ScheduledRequest, Floats, State]]:
        """Return the requests whose prompts are complete, once, with logits (1, V) and state (1, S)."""
        completed, self._completed = self._completed, []
        return completed

    def clear(self) -> None:
        """Drop all requests."""
        self.requests.clear()
        self._completed.clear()
        self._budget_s = 0.0

    def grant(self, decode_s: float) -> None:
        """Add to the time budget, after a decoding step of `decode_s`."""
        self._budget_s += PREFILL_FRACTION * decode_s

    def piggybacked(self, count: int) -> list[ScheduledRequest]:
        """Return up to `count` requests, in fair order, that read a character in a decoding step."""
        if len(self.requests) <= count:
            return self.requests[:]
        return list(islice(fair_order(self.requests, lambda request: request), count))

    def step(self, *, decode_s: float | None, is_alone: bool) -> None:
        """Read a chunk of some prompts.

        Args:
            decode_s: duration of the last decoding step, and the maximum of a chunk that is longer than
                PREFILL_CHUNK_S; None if nothing is being decoded.
            is_alone: whether one request is all that is running.
        """
        if is_alone and self._generator and decode_s is None:
            (request,) = self.requests
            is_long = len(request.text) - request.position > 2 * CHUNK
            if is_long and self._read_alone(self._generator, request):
                return
        batch = self.piggybacked(MAX_PREFILL_BATCH)
        size = len(batch).bit_length()
        step_s = self._step_s.get(size, PREFILL_CHUNK_S / 4)
        chunk_s = PREFILL_CHUNK_S
        if decode_s is not None:
            self._budget_s = chunk_s = min(self._budget_s, max(PREFILL_CHUNK_S, decode_s))
            if chunk_s < step_s:
                return
        started = time.perf_counter()
        # Until it is measured, a character may take longer than a chunk.
        steps = max(1, int(chunk_s / step_s)) if size in self._step_s else 1
        steps = min(CHUNK, steps, *(_next_stop(r, r.position) for r in batch))
        ids = np.array([request.next_ids(steps) for request in batch], np.int32).T  # (T, B)
        state = batch[0].state if len(batch) == 1 else np.concatenate([r.state for r in batch])
        completes = any(request.position + steps == len(request.text) for request in batch)
        first = steps - 1 if completes else steps
        logits, state = self._network.step(np.ascontiguousarray(ids), state, first)
        for i, request in enumerate(batch):
            last = logits[-1, i : i + 1] if completes else None
            self.advance(request, steps, last, state[i : i + 1])
        self.call_s = elapsed_s = time.perf_counter() - started
        self._budget_s -= elapsed_s
        measured = elapsed_s / steps
        self._step_s[size] = 0.7 * step_s + 0.3 * measured if size in self._step_s else measured

    def _read_alone(self, network: GeneratingNetwork, request: ScheduledRequest) -> bool:
        """Read one prompt until a request arrives or PREFILL_ALONE_S have passed; return whether it did."""
        if not self._inbox.clear_interrupt():
            return False
        started = time.perf_counter()
        max_s = min(PREFILL_ALONE_S, request.deadline - started)
        end = min(len(request.text) - 1, request.position + max_s / self._character_s)
        stops: list[int] = []  # relative to the request's position
        at = request.position
        slice_ = max(1, int(MAX_CALL_S / self._character_s))
        while not stops or at < end:
            at += min(slice_, _next_stop(request, at))
            stops.append(at - request.position)
        ids = np.array(request.next_ids(stops[-1]), np.int32)
        states = network.read(ids, stops, request.state, self._inbox.interrupt)
        for steps, state in zip(np.diff(stops, prepend=0).tolist(), states, strict=False):
            self.advance(request, steps, None, state)
        if states:
            self._character_s = (time.perf_counter() - started) / stops[len(states) - 1]
        return bool(states)

    def advance(self, request: ScheduledRequest, steps: int, logits: Floats | None, state: State) -> None:
        """Note that a request has read `steps` characters, with logits (1, V) and state (1, S) after them."""
        request.position += steps
        request.state = state
        self._counters["read_characters"] += steps
        length = len(request.text)
        if request.position >= length - 1 or _is_cached_at(request.position, length):
            self._cache.insert(request.prefix, request.text, request.position, state[0])
        if request.position == length:
            assert logits is not None
            self.requests.remove(request)
            self._completed.append((request, logits, state))


def _is_cached_at(position: int, length: int) -> bool:
    """Whether the state at this position of a text is cached: strides, and chunks near the end."""
    is_near_end = position > (length - DENSE_CHARACTERS) // STRIDE * STRIDE
    return position % STRIDE == 0 or (position % CHUNK == 0 and is_near_end)


def _next_stop(request: ScheduledRequest, position: int) -> int:
    """How many characters can be read in one call from a position: up to where a state is cached.

    The position before the last character is such a stop, so that the same prompt again costs one step.
    """
    rest = len(request.text) - position
    return min(rest if rest == 1 else rest - 1, CHUNK - position % CHUNK)
