"""One API process as two threads that share a core: an event loop, and a scheduler that steps a batch.

A request takes half of `http_s` of the event loop, then as many turns of the scheduler as it has characters,
and the other half for its answer. A turn of b sequences takes `turn_s(b)`. A client on the same cores takes
`client_s` of its thread before each request. The two threads of the process never run at the same time, as
Python's interpreter lock makes it; all threads together share the cores equally.
"""

import itertools
import random
from collections import deque
from dataclasses import dataclass, field

MAX_BATCH = 64
_EVENT_LOOP, _SCHEDULER, _CLIENT = range(3)
_ANSWER_SHARE = 0.5  # of the event loop's time, after the last character


@dataclass(frozen=True)
class Costs:
    """Seconds of CPU time that were measured.

    Attributes:
        http_s: of the event loop for each request. client_s: of the client's thread for each request.
        turns: (batch size, seconds of one turn), by batch size; between them it is interpolated.
    """

    http_s: float
    client_s: float
    turns: tuple[tuple[int, float], ...]

    def turn_s(self, sequences: int) -> float:
        """Return the seconds of a turn of so many sequences.

        >>> Costs(0, 0, ((1, 1.0), (3, 2.0))).turn_s(2)
        1.5
        """
        before = self.turns[0]
        for size, seconds in self.turns:
            if size >= sequences:
                if size == before[0]:
                    return seconds
                share = (sequences - before[0]) / (size - before[0])
                return before[1] + share * (seconds - before[1])
            before = (size, seconds)
        return before[1] * sequences / before[0]


@dataclass
class Simulated:
    """The times of requests, in seconds, and how many were answered each second."""

    times: list[float] = field(default_factory=list)
    per_second: float = 0.0

    def percentile(self, percent: float) -> float:
        """Return a percentile of the times in seconds."""
        ordered = sorted(self.times)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


class _Process:
    """The state of the simulation: what each thread works at, and which requests are where."""

    def __init__(self, costs: Costs, *, characters: int, cores: float) -> None:
        self._costs, self._characters, self._cores = costs, characters, cores
        self.now_s = 0.0
        self.answered: list[int] = []  # requests, in order
        self._queues: tuple[deque[tuple[int, float]], ...] = (deque(), deque(), deque())
        self._left_s: list[float | None] = [None, None, None]  # of the current work of each thread
        self._inbox: deque[int] = deque()
        self._batch: dict[int, int] = {}  # request -> characters left

    def arrive(self, request: int, *, from_client: bool) -> None:
        """Let a request begin, at a client's thread or at the event loop."""
        thread, seconds = (
            (_CLIENT, self._costs.client_s)
            if from_client
            else (_EVENT_LOOP, self._costs.http_s * (1 - _ANSWER_SHARE))
        )
        self._queues[thread].append((request, seconds))
        self._start_idle()

    def advance(self, until_s: float) -> bool:
        """Work until a thread ends its present work and return True, or until `until_s` and return False."""
        busy = [thread for thread in range(3) if self._left_s[thread] is not None]
        of_process = sum(thread != _CLIENT for thread in busy)
        is_shared = (of_process > 0) + (_CLIENT in busy) > self._cores
        speeds = [1.0 if thread == _CLIENT else 1 / of_process for thread in busy]
        if is_shared:
            speeds = [speed * self._cores / 2 for speed in speeds]
        left = [self._left_s[thread] or 0.0 for thread in busy]
        first = min((s / speed for s, speed in zip(left, speeds, strict=True)), default=float("inf"))
        step_s = min(first, until_s - self.now_s)
        self.now_s += step_s
        for thread, speed in zip(busy, speeds, strict=True):
            self._left_s[thread] = (self._left_s[thread] or 0.0) - step_s * speed
        if first > step_s or not busy:
            return False
        for thread in busy:
            if (self._left_s[thread] or 0.0) <= 1e-12:
                self._end(thread)
        self._start_idle()
        return True

    def _end(self, thread: int) -> None:
        self._left_s[thread] = None
        if thread == _SCHEDULER:
            answer_s = self._costs.http_s * _ANSWER_SHARE
            for request in list(self._batch):
                self._batch[request] -= 1
                if self._batch[request] == 0:
                    del self._batch[request]
                    self._queues[_EVENT_LOOP].append((-1 - request, answer_s))
            return
        request, _ = self._queues[thread].popleft()
        if thread == _CLIENT:
            self._queues[_EVENT_LOOP].append((request, self._costs.http_s * (1 - _ANSWER_SHARE)))
        elif request < 0:
            self.answered.append(-1 - request)
        else:
            self._inbox.append(request)

    def _start_idle(self) -> None:
        for thread in (_EVENT_LOOP, _CLIENT):
            if self._left_s[thread] is None and self._queues[thread]:
                self._left_s[thread] = self._queues[thread][0][1]
        if self._left_s[_SCHEDULER] is None and (self._inbox or self._batch):
            while self._inbox and len(self._batch) < MAX_BATCH:
                self._batch[self._inbox.popleft()] = self._characters
            self._left_s[_SCHEDULER] = self._costs.turn_s(len(self._batch))


def closed_loop(costs: Costs, *, clients: int, requests: int, characters: int, cores: float) -> Simulated:
    """Simulate clients on the same cores that send the next request when the last one is answered."""
    process = _Process(costs, characters=characters, cores=cores)
    began: dict[int, float] = {}
    sent = 0
    found = Simulated()
    while sent < min(clients, requests):
        began[sent] = 0.0
        process.arrive(sent, from_client=True)
        sent += 1
    while len(found.times) < requests:
        process.advance(float("inf"))
        for request in process.answered:
            found.times.append(process.now_s - began[request])
            if sent < requests:
                began[sent] = process.now_s
                process.arrive(sent, from_client=True)
                sent += 1
        process.answered.clear()
    found.per_second = len(found.times) / process.now_s
    return found


def open_loop(
    costs: Costs, *, per_second: float, requests: int, characters: int, cores: float, seed: int = 1
) -> Simulated:
    """Simulate requests that arrive at random (a Poisson process), from other machines."""
    process = _Process(costs, characters=characters, cores=cores)
    random_of = random.Random(seed)
    began = list(itertools.accumulate(random_of.expovariate(per_second) for _ in range(requests)))
    found = Simulated()
    sent = 0
    while len(found.times) < requests:
        until_s = began[sent] if sent < requests else float("inf")
        if not process.advance(until_s) and sent < requests:
            process.arrive(sent, from_client=False)
            sent += 1
        found.times += [process.now_s - began[request] for request in process.answered]
        process.answered.clear()
    found.per_second = len(found.times) / process.now_s
    return found


def highest_rate(
    costs: Costs, *, p99_s: float, characters: int, cores: float, requests: int = 20_000
) -> tuple[float, float]:
    """Return the most requests per second whose p99 is at most `p99_s`, and that p99; 0 if none is."""
    limits = (1 / costs.http_s, *(size / (seconds * characters) for size, seconds in costs.turns))
    low, high, reached_s = 0.0, 1.2 * max(limits), 0.0
    for _ in range(12):
        middle = (low + high) / 2
        found = open_loop(costs, per_second=middle, requests=requests, characters=characters, cores=cores)
        if found.percentile(99) <= p99_s:
            low, reached_s = middle, found.percentile(99)
        else:
            high = middle
    return low, reached_s
