"""Requests on their way to the scheduler's thread: the inbox, which of them run, and in which order.

Clients take turns (round-robin), so a client gains nothing by sending more requests. Among the requests of
one client the oldest comes first, so that it finishes; the others are ordered by remaining work (shortest
remaining processing time), so that a completion of forty characters does not wait for books. Work is compared
by its order of magnitude, in powers of two; requests of similar size are served in order of arrival. A factor
of two counts like ARRIVALS_PER_DOUBLING arrivals, so that long requests do not wait as long as short ones
keep arriving.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from queue import SimpleQueue
from typing import TypeVar

import numpy as np

from nextchar.models.errors import Busy
from nextchar.models.runtime.generation import ScheduledRequest

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
