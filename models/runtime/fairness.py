"""Whose turn it is: how one network is shared between clients, and between their long and short requests.

Clients take turns (round-robin), so that none gets more by sending more. Among the requests of one client,
those with the least work left go first (shortest remaining processing time), so that a completion of forty
characters does not wait for books; but one place is the oldest request's, so that it ends. Work is compared
by its magnitude, in powers of two: requests of about the same size are served in the order of their arrival.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from models.runtime.sequences import Job

SHORT = 1_000
"""Characters of generation, over all completions of a request, up to which it counts as short."""

T = TypeVar("T")


def by_turns(items: Iterable[T], job_of: Callable[[T], Job]) -> Iterator[T]:
    """Yield `items`, each of which belongs to a job, in the order in which they should be served."""
    clients: dict[str, list[T]] = {}
    for item in items:
        clients.setdefault(job_of(item).client, []).append(item)
    queues = deque(deque(_in_order(found, job_of)) for found in clients.values())
    while queues:
        queue = queues.popleft()
        yield queue.popleft()
        if queue:
            queues.append(queue)


def _in_order(items: list[T], job_of: Callable[[T], Job]) -> list[T]:
    oldest = min(items, key=lambda item: job_of(item).number)
    jobs = {job_of(item) for item in items}
    ranks = {job: (job.work_left.bit_length(), job.number) for job in jobs}
    return sorted(items, key=lambda item: (item is not oldest, ranks[job_of(item)]))
