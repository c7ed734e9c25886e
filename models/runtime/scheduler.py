"""The scheduler: one thread that owns a network and runs all requests for it, a step at a time.

The life of a request:

    1. `submit` puts it into the inbox, or raises Busy.
    2. The thread admits it and skips the prefix of its prompt that the state cache has.
    3. `prefill` reads the rest in chunks, side by side with other prompts and along with decoding steps.
    4. Its sequences join the batch (`decode`). If more than MAX_BATCH are ready, some are picked;
       the others wait with their states, as do those of a paused request.
    5. In every turn each sequence of the batch chooses a character, reports it, and leaves once it is
       finished.
    6. The network then runs one step for the remaining sequences, and the next turn begins.
    7. A deadline or `cancel` ends a request between two calls of the network, in any of these stages. A long
       step is made in several calls if a deadline passes meanwhile.
    8. After its last sequence the request ends with Usage.

An exception inside a turn ends all running requests with Failed; the thread continues with the next ones.
"""

import logging
import threading
import time
from collections.abc import Iterable
from queue import Empty

from nextchar.models.errors import Unavailable
from nextchar.models.runtime.decode import Decode
from nextchar.models.runtime.generation import ScheduledRequest
from nextchar.models.runtime.prefill import MAX_CALL_S, Backlog, Inbox, Prefill
from nextchar.models.runtime.session import StepNetwork
from nextchar.models.runtime.state_cache import StateCache

log = logging.getLogger(__name__)


class Scheduler:
    """Runs requests on one network, in a thread of its own."""

    def __init__(self, network: StepNetwork, cache: StateCache, *, max_waiting: int, name: str) -> None:
        self.network = network
        self.cache = cache
        self.counters: dict[str, float] = {
            "requests": 0, "failures": 0, "cancelled": 0, "timeouts": 0, "steps": 0,
            "read_characters": 0, "generated_characters": 0,
        }  # fmt: skip
        self._name = name
        self._lock = threading.Lock()  # guards the next field
        self._is_closing = False
        self._close_deadline = float("inf")
        self._inbox = Inbox()
        self._backlog = Backlog(max_waiting=max_waiting, name=name)
        self._running: dict[ScheduledRequest, None] = {}
        self._prefill = Prefill(network, cache, self._inbox, self.counters)
        self._decode = Decode(network, self.counters)
        self._self_stepping: list[ScheduledRequest] = []  # beam searches
        self._has_changed = False  # since admission and the batch were last decided
        self._thread = threading.Thread(target=self._run, name=f"scheduler-{name}", daemon=True)
        self._thread.start()

    # ---- called from any thread

    def submit(self, request: ScheduledRequest) -> None:
        """Start a request.

        Raises:
            Busy: `max_waiting` requests are waiting, or LONG_FRACTION of that many and this one is long.
                Clients with few waiting requests are admitted until twice as many are waiting.
            Unavailable: the scheduler is closing.
        """
        with self._lock:
            if self._is_closing:
                raise Unavailable(f"model {self._name} is being unloaded; try again", code="model_unloading")
            self._backlog.reserve(request)
            self._inbox.put(request)  # inside the lock: nothing enters after close() has begun

    def cancel(self, request: ScheduledRequest) -> None:
        """End a request before the next step, with Finished("cancelled") and Usage."""
        request.is_cancelled = True
        self._inbox.put(None)

    def pause(self, request: ScheduledRequest) -> None:
        """Stop generating for a request until `resume`. Its deadline stays; others take its place."""
        request.is_paused = True
        self._inbox.put(None)

    def resume(self, request: ScheduledRequest) -> None:
        """Continue a paused request."""
        request.is_paused = False
        self._inbox.put(None)

    def close(self, timeout_s: float = 30.0) -> None:
        """Refuse new requests and wait for the running ones; those that take longer than `timeout_s` fail."""
        with self._lock:
            self._is_closing = True
        self._close_deadline = time.perf_counter() + timeout_s
        self._inbox.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def active(self) -> int:
        """The sequences being decoded or waiting for a place in the batch, and the prompts being read."""
        decoding = len(self._decode.sequences) + len(self._decode.waiting)
        return decoding + len(self._prefill.requests) + len(self._self_stepping)

    @property
    def steps_by_batch_size(self) -> list[int]:
        """How many steps had 0, 1, 2, … sequences."""
        return self._decode.steps_by_batch_size

    @property
    def waiting(self) -> int:
        """The requests that wait to be admitted."""
        return self._backlog.waiting

    # ---- the thread

    def _run(self) -> None:
        while True:
            try:
                if not self._receive():
                    self.cache.clear()
                    return
                self._run_once()
            except Exception as error:  # the thread must outlive any one request
                log.exception("a step of model %s failed", self._name)
                self._fail_all(error)

    def _receive(self) -> bool:
        """Take arrivals from the inbox, waiting if there is nothing to do; return False once closed."""
        is_idle = not (self._running or self._backlog.requests)
        if is_idle and self._is_closing and self._inbox.is_empty():
            return False
        wait_s = None if is_idle else self._idle_s()
        while is_idle or wait_s or not self._inbox.is_empty():
            try:
                request = self._inbox.get(timeout=wait_s)
            except Empty:
                break
            is_idle, wait_s = False, 0.0
            self._has_changed = True
            if request is not None:
                self._backlog.requests.append(request)
        if self._is_closing and time.perf_counter() > self._close_deadline:
            self._fail_all(Unavailable(f"model {self._name} was unloaded", code="model_unloading"))
        return True

    def _idle_s(self) -> float:
        """Return how long nothing is to be done: while all requests are paused, until the next deadline."""
        if self._decode.sequences or self._prefill.requests or self._self_stepping or self._has_changed:
            return 0.0
        requests = (*self._running, *self._backlog.requests)
        deadline = min([self._close_deadline, *(request.deadline for request in requests)])
        return min(1.0, max(0.0, deadline - time.perf_counter()))

    def _run_once(self) -> None:
        decode, prefill = self._decode, self._prefill
        self._end_before_call()
        if self._has_changed:
            self._has_changed = False
            if self._backlog.requests:
                self._admit()
            decode.rebalance()
        if decode.sequences:
            self._end_all(decode.choose())
        if decode.sequences:
            is_busy = prefill.requests or self._self_stepping or self._has_changed
            may_generate = not is_busy and self._inbox.is_empty()
            self._end_all(
                decode.step(
                    prefill,
                    may_generate=may_generate,
                    is_due_within=self._is_due_within,
                    end_due=self._end_before_call,
                )
            )
            prefill.grant(decode.step_s)
            self._begin_decoding()
            if prefill.requests:  # whose chunk may take as long again
                self._end_due()
        if prefill.requests:
            decode_s = decode.step_s if decode.sequences else None
            if decode_s is not None and decode_s > MAX_CALL_S and self._is_due_within(decode_s):
                decode_s = MAX_CALL_S
            prefill.step(decode_s=decode_s, is_alone=len(self._running) == 1)
            self._begin_decoding()
        if self._self_stepping:
            self._advance()

    def _is_due_within(self, seconds: float) -> bool:
        """Whether a deadline passes within this time."""
        until = time.perf_counter() + seconds
        return any(request.deadline < until for request in (*self._running, *self._backlog.requests))

    def _end_before_call(self) -> None:
        """A deadline that falls into the first half of the next call ends a request before it."""
        call_s = self._prefill.call_s if self._prefill.requests else 0.0
        self._end_due(within_s=(self._decode.call_s if self._decode.sequences else call_s) / 2)

    def _end_due(self, *, within_s: float = 0.0) -> None:
        """End requests that are cancelled or whose deadline passes within this time."""
        now = time.perf_counter() + within_s
        ended = [r for r in self._running if r.is_cancelled or r.deadline < now]
        if self._backlog.requests:
            ended += [r for r in self._backlog.requests if r.is_cancelled or r.deadline < now]
        if ended:
            self._stop(ended)

    def _stop(self, requests: Iterable[ScheduledRequest]) -> None:
        """End requests that were cancelled or have passed their deadline."""
        self._decode.flush()
        for request in requests:
            if request in self._running:
                self._remove(request)
            else:
                self._backlog.remove(request)
                self._start(request)
            self.counters["cancelled" if request.is_cancelled else "timeouts"] += 1
            request.stop("cancelled" if request.is_cancelled else "timeout")
            self._end(request)

    def _admit(self) -> None:
        for request in self._backlog.admit(self._running):
            self._start(request)
            self._prefill.add(request)

    def _start(self, request: ScheduledRequest) -> None:
        self._running[request] = None
        request.started = time.perf_counter()
        self.counters["requests"] += 1

    def _begin_decoding(self) -> None:
        """Hand over the requests whose prompts have been read."""
        for request, logits, state in self._prefill.take_completed():
            sequences = request.begin(logits[0], state)
            self._decode.waiting.extend((sequence, logits, state) for sequence in sequences)
            self._has_changed = True
            if request.is_self_stepping:
                self._self_stepping.append(request)
            elif not sequences:
                self._end(request)

    def _advance(self) -> None:
        """Run a step of one self-stepping request per client, in rotation."""
        clients: dict[str, ScheduledRequest] = {}
        for request in self._self_stepping:
            clients.setdefault(request.client, request)
        for request in clients.values():
            self._end_due()  # each step may take as long as a decoding step
            if request not in self._self_stepping:
                continue
            self._self_stepping.remove(request)
            self._self_stepping.append(request)
            if request.advance():
                self._self_stepping.remove(request)
                self._end(request)

    def _remove(self, request: ScheduledRequest) -> None:
        self._has_changed = True
        self._prefill.remove(request)
        self._decode.remove(request)
        if request in self._self_stepping:
            self._self_stepping.remove(request)

    def _end_all(self, requests: list[ScheduledRequest] | None) -> None:
        """End finished requests; None: no sequence has finished."""
        if requests is not None:
            self._has_changed = True
            for request in requests:
                self._end(request)

    def _end(self, request: ScheduledRequest) -> None:
        self._running.pop(request, None)
        self._has_changed = True
        self._backlog.observe(time.perf_counter() - request.started)
        request.end()
        request.release()

    def _fail_all(self, error: Exception) -> None:
        requests = list(self._running)
        self._running.clear()
        # After an error inside a step, sequences and states may no longer match: all are dropped.
        self._prefill.clear()
        self._decode.clear()
        self._self_stepping.clear()
        self._has_changed = True  # the backlog can be admitted
        self.counters["failures"] += len(requests)
        for request in requests:
            try:
                request.fail(error)
            except Exception:  # the other requests must be notified all the same
                log.exception("reporting the failure of a request to model %s failed", self._name)
            request.release()
