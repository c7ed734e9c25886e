"""Prefill: reading the prompts of requests, in chunks short enough that no other request waits long.

Prompts are read side by side. While sequences are being decoded, prefill has a time budget that grows with
the decoding time (PREFILL_FRACTION); prompts are also read along in the decoding steps (`piggybacked`). A
prompt that is alone is read in longer calls, which the next arrival interrupts.

Requests on their way to the scheduler's thread: the inbox, which of them run, and in which order.

Clients take turns (round-robin), so a client gains nothing by sending more requests. Among the requests of
one client the oldest comes first, so that it finishes; the others are ordered by remaining work (shortest
remaining processing time), so that a completion of forty characters does not wait for books. Work is compared
by its order of magnitude, in powers of two; requests of similar size are served in order of arrival. A factor
of two counts like ARRIVALS_PER_DOUBLING arrivals, so that long requests do not wait as long as short ones
keep arriving.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, MutableMapping
from itertools import islice
from queue import SimpleQueue
from typing import TypeVar

import numpy as np

from nextchar.models.errors import Busy
from nextchar.models.runtime.decoding import Floats
from nextchar.models.runtime.generation import ScheduledRequest
from nextchar.models.runtime.session import GeneratingNetwork, State, StepNetwork
from nextchar.models.runtime.state_cache import CHUNK, STRIDE, StateCache

MAX_SHORT_CHARACTERS = 1_000
"""A request that can generate at most this many characters, over all its completions, counts as short."""

ARRIVALS_PER_DOUBLING = 64
"""A request with twice the work is served as if it had arrived this many requests later."""

T = TypeVar("T")


def fair_order(items: Iterable[T], request_of: Callable[[T], ScheduledRequest]) -> Iterator[T]:
    """Yield `items`, each of which belongs to a request, in the order in which they should be served."""
    by_client: dict[str, list[T]] = {}
    for item in items:
        by_client.setdefault(request_of(item).client, []).append(item)
    queues = deque(deque(_order_of_client(own, request_of)) for own in by_client.values())
    while queues:
        queue = queues.popleft()
        yield queue.popleft()
        if queue:
            queues.append(queue)


def _order_of_client(items: list[T], request_of: Callable[[T], ScheduledRequest]) -> list[T]:
    oldest = min(items, key=lambda item: request_of(item).arrival)
    requests = {request_of(item) for item in items}
    ranks = {
        request: request.arrival + ARRIVALS_PER_DOUBLING * request.remaining_work.bit_length()
        for request in requests
    }
    return sorted(items, key=lambda item: (item is not oldest, ranks[request_of(item)]))


MAX_RUNNING = 64
"""The most requests that are prefilled or decoded at a time; the others wait.

As many again may run of short requests, and of clients that have less than their share.
"""

LONG_FRACTION = 0.75
"""The fraction of `max_waiting` that long requests may take, so that there is room for short ones."""

CLIENT_FRACTION = 1 / 16
"""Clients with less than this share of `max_waiting` waiting are accepted until twice as many wait in all."""


class Inbox:
    """Passes requests to the scheduler's thread. None only wakes it.

    `interrupt` (1,) is 1 once anything has been put since `clear_interrupt`: it stops a long prefill.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[ScheduledRequest | None] = SimpleQueue()
        self.interrupt = np.zeros(1, np.int64)
        self.get, self.is_empty = self._queue.get, self._queue.empty

    def put(self, request: ScheduledRequest | None) -> None:
        """Pass a request on."""
        self._queue.put(request)
        self.interrupt[0] = 1

    def clear_interrupt(self) -> bool:
        """Clear `interrupt`; return whether the inbox was empty afterwards."""
        self.interrupt[0] = 0
        return self.is_empty()


class Backlog:
    """Requests that wait to run, bounded in number; `reserve` may be called from any thread."""

    def __init__(self, *, max_waiting: int, name: str) -> None:
        self.requests: list[ScheduledRequest] = []  # received by the scheduler's thread
        self.waiting = 0  # with those that are still in the inbox
        self._waiting_by_client: Counter[str] = Counter()
        self._lock = threading.Lock()  # guards the two above and the next
        self._arrivals = 0
        self._max_waiting = max_waiting
        self._name = name
        self._service_s = 0.01  # of a request, from start to end, smoothed

    def reserve(self, request: ScheduledRequest) -> None:
        """Count a new request and number it. Raises Busy, as `Scheduler.submit`."""
        with self._lock:
            if not self._has_room_for(request):
                wait_s = self._service_s * (self.waiting + MAX_RUNNING) / MAX_RUNNING
                raise Busy(
                    f"{self.waiting} requests are waiting for model {self._name}",
                    retry_after_s=min(30.0, max(0.1, wait_s)),
                )
            self.waiting += 1
            self._waiting_by_client[request.client] += 1
            self._arrivals += 1
            request.arrival = self._arrivals

    def _has_room_for(self, request: ScheduledRequest) -> bool:
        is_short = request.max_new_characters <= MAX_SHORT_CHARACTERS
        if self.waiting < (self._max_waiting if is_short else max(1, LONG_FRACTION * self._max_waiting)):
            return True
        own = self._waiting_by_client[request.client]
        return own < CLIENT_FRACTION * self._max_waiting and self.waiting < 2 * self._max_waiting

    def admit(self, running: Collection[ScheduledRequest]) -> list[ScheduledRequest]:
        """Remove and return the requests that may start in addition to those that are running."""
        running_of = Counter(request.client for request in running if not request.is_paused)
        count = running_of.total()
        admitted: list[ScheduledRequest] = []
        if count + len(self.requests) <= MAX_RUNNING:
            admitted = self.requests[:]
        elif count < 2 * MAX_RUNNING:  # else none may start, whatever their order
            share = MAX_RUNNING // len(running_of.keys() | {request.client for request in self.requests})
            for request in fair_order(self.requests, lambda request: request):
                if count == 2 * MAX_RUNNING:
                    break
                is_short = request.max_new_characters <= MAX_SHORT_CHARACTERS
                has_priority = is_short or running_of[request.client] < max(1, share)
                if count < MAX_RUNNING or has_priority:
                    admitted.append(request)
                    running_of[request.client] += 1
                    count += 1
        for request in admitted:
            self.remove(request)
        return admitted

    def remove(self, request: ScheduledRequest) -> None:
        """Remove a request: it starts, or ends without having started."""
        self.requests.remove(request)
        with self._lock:
            self.waiting -= 1
            self._waiting_by_client[request.client] -= 1
            if not self._waiting_by_client[request.client]:
                del self._waiting_by_client[request.client]

    def observe(self, service_s: float) -> None:
        """Take the duration of a request into account for the next Retry-After."""
        self._service_s += 0.05 * (service_s - self._service_s)


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
