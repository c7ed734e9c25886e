"""The order in which requests are served when one network cannot run all of them at once.

Clients take turns (round-robin), so a client gains nothing by sending more requests. Among the requests of
one client the oldest comes first, so that it finishes; the others are ordered by remaining work (shortest
remaining processing time), so that a completion of forty characters does not wait for books. Work is compared
by its order of magnitude, in powers of two; requests of similar size are served in order of arrival. A factor
of two counts like ARRIVALS_PER_DOUBLING arrivals, so that long requests do not wait as long as short ones
keep arriving.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

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
