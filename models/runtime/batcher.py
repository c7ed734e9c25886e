"""One thread that owns a network and runs all requests for it, a step at a time.

The life of a request:

    1. `submit` puts a job into the inbox, or raises Busy.
    2. The thread admits it and asks the state cache how much of its text is known.
    3. The rest is read, in slices of about READ_SLICE_S so that nobody waits long for it, together with
       other jobs' texts. While others are generating, a job also rides along in their steps.
    4. Its completions join the batch as rows. Where there are more than ROWS, `fairness.by_turns` says which
       of them are in it; the others wait with their states. Those of a job that is paused wait too.
    5. Each turn every row chooses a character, tells its listener, and leaves if it is over.
    6. One step of the network for all rows that are left, and the next turn begins.
    7. A deadline or `cancel` takes a job out between two turns, wherever it is.
    8. The last row to leave ends the job with Usage.

An exception inside a turn ends the jobs under way with Failed; the thread goes on with the next ones.
Knows no HTTP and no files. What a job does with its logits is in `models.runtime.sequences`.
"""

import logging
import threading
import time
from collections import Counter
from itertools import islice
from queue import Empty, SimpleQueue

import numpy as np

from models.errors import Busy, Unavailable
from models.runtime.decoding import Floats
from models.runtime.fairness import SHORT, by_turns
from models.runtime.sequences import Job, Row, RowSampler
from models.runtime.session import ChoosingNetwork, State, StepNetwork
from models.runtime.state_cache import CHUNK, STRIDE, StateCache

log = logging.getLogger(__name__)

ROWS = 64
"""The most completions in one step."""

JOBS = 64
"""The most jobs that are read or generated at a time; the others wait.

As many again are admitted of short ones, and of clients that have fewer than their share of the places.
"""

LONG_SHARE = 0.75
"""Of the waiting places, what long jobs may take: a short one still finds room."""

CLIENT_SHARE = 1 / 16
"""Of the waiting places, what each client has for itself when they are all taken."""

READERS = 16
"""The most texts that are read together in one slice."""

READ_SLICE_S = 1e-3
"""The longest that reading keeps the thread from its other work, about."""

AHEAD_S = 0.5e-3
"""The longest that a network generates by itself, about: what comes meanwhile waits for so long."""

READ_ALONE_S = 0.1
"""The longest that a text is read in one turn while nobody else is there. Who comes ends it at once."""

READ_SHARE = 0.5
"""The time given to reading while rows are generating, as a share of theirs."""

DENSE_CHARACTERS = 4 * STRIDE
"""Before this much of a text's end, only its strides are kept and not its chunks."""


class Batcher:
    """Runs jobs on one network, from its own thread."""

    def __init__(self, network: StepNetwork, cache: StateCache, *, max_waiting: int, name: str) -> None:
        self.network = network
        self.cache = cache
        self._max_waiting = max_waiting
        self._name = name
        self._lock = threading.Lock()  # guards the next four
        self._waiting = 0
        self._waiting_by_client: Counter[str] = Counter()
        self._arrivals = 0
        self._closing = False
        self._inbox: SimpleQueue[Job | None] = SimpleQueue()  # None only wakes the thread
        self._hurry = np.zeros(1, np.int64)  # 1: something was sent since reading alone began

        self._has_changed = False  # since it was last decided who is admitted and in the batch
        self._backlog: list[Job] = []  # received, not admitted
        self._jobs: dict[Job, None] = {}  # admitted
        self._readers: list[Job] = []  # admitted, their text not yet read
        self._steppers: list[Job] = []  # jobs that do their own steps: beams
        self._joining: list[tuple[Row, Floats, State]] = []  # that wait for a place in the batch
        self._rows: list[Row] = []  # (B,)
        self._state = network.initial_state(0)  # (B, S)
        self._logits = np.zeros((0, network.V), np.float32)  # (B, V), what each row chooses from next
        self._sampler: RowSampler | None = None  # None: the rows have changed

        self._step_s = 0.0  # of the last step
        self._credit_s = 0.0  # that reading may take from the rows
        self._stepping_s: dict[int, float] = {}  # for one step of the rows, by the magnitude of their number
        self._reading_s: dict[int, float] = {}  # for one step of a slice, likewise
        self._character_s = READ_ALONE_S / CHUNK  # of reading alone
        self._chooser = network if isinstance(network, ChoosingNetwork) else None
        self._service_s = 0.01  # of a job, from admission to its end, smoothed
        self.counters: dict[str, float] = {
            "requests": 0, "failures": 0, "cancelled": 0, "timeouts": 0, "steps": 0,
            "read_characters": 0, "generated_characters": 0,
        }  # fmt: skip
        self._give_up_at = float("inf")
        self._thread = threading.Thread(target=self._run, name=f"batcher-{name}", daemon=True)
        self._thread.start()

    # ---- called from any thread

    def submit(self, job: Job) -> None:
        """Start a job.

        Raises:
            Busy: `max_waiting` jobs are waiting for a place, or LONG_SHARE of that many and this one is long.
                A client with few of them waiting is let in all the same, until twice as many wait.
            Unavailable: the batcher is closing.
        """
        with self._lock:
            if self._closing:
                raise Unavailable(f"model {self._name} is being unloaded; ask again", code="model_unloading")
            if not self._has_room_for(job):
                wait_s = min(30.0, max(0.1, self._service_s * (self._waiting + JOBS) / JOBS))
                raise Busy(
                    f"{self._waiting} requests are waiting for model {self._name}", retry_after_s=wait_s
                )
            self._waiting += 1
            self._waiting_by_client[job.client] += 1
            self._arrivals += 1
            job.number = self._arrivals
            self._send(job)  # inside the lock: nothing enters after close() has begun

    def _has_room_for(self, job: Job) -> bool:
        is_short = job.generation <= SHORT
        if self._waiting < (self._max_waiting if is_short else max(1, LONG_SHARE * self._max_waiting)):
            return True
        own = self._waiting_by_client[job.client]
        return own < CLIENT_SHARE * self._max_waiting and self._waiting < 2 * self._max_waiting

    def cancel(self, job: Job) -> None:
        """Take a job out before the next step; it ends with Finished("cancelled") and Usage."""
        job.is_cancelled = True
        self._send(None)

    def pause(self, job: Job) -> None:
        """Generate nothing more of a job until `resume`. Its deadline stays; its place goes to others."""
        job.is_paused = True
        self._send(None)

    def resume(self, job: Job) -> None:
        """Go on with a job that was paused."""
        job.is_paused = False
        self._send(None)

    def close(self, timeout_s: float = 30.0) -> None:
        """Refuse new jobs, let those under way end; what lasts longer than `timeout_s` fails."""
        with self._lock:
            self._closing = True
        self._give_up_at = time.perf_counter() + timeout_s
        self._send(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def active(self) -> int:
        """Completions that are being generated now, and texts being read."""
        return len(self._rows) + len(self._joining) + len(self._readers) + len(self._steppers)

    @property
    def waiting(self) -> int:
        """Jobs that wait for a place."""
        return self._waiting

    def _send(self, job: Job | None) -> None:
        self._inbox.put(job)
        self._hurry[0] = 1

    # ---- the thread

    def _run(self) -> None:
        while True:
            try:
                if not self._receive():
                    self.cache.clear()
                    return
                self._turn()
            except Exception as error:  # the thread must outlive any one request
                log.exception("a step of model %s failed", self._name)
                self._fail_all(error)

    def _receive(self) -> bool:
        """Take in what has arrived, waiting if there is nothing to do; return False when closed."""
        idle = not (self._jobs or self._backlog)
        if idle and self._closing and self._inbox.empty():
            return False
        wait_s = None if idle else self._idle_s()
        while idle or wait_s or not self._inbox.empty():
            try:
                job = self._inbox.get(timeout=wait_s)
            except Empty:
                break
            idle, wait_s = False, 0.0
            self._has_changed = True
            if job is not None:
                self._backlog.append(job)
        if self._closing and time.perf_counter() > self._give_up_at:
            self._fail_all(Unavailable(f"model {self._name} was unloaded", code="model_unloading"))
        return True

    def _idle_s(self) -> float:
        """Return how long there is nothing to do: while all jobs are paused, until the next deadline."""
        if self._rows or self._readers or self._steppers or self._has_changed:
            return 0.0
        limit = min([self._give_up_at, *(job.deadline for job in (*self._jobs, *self._backlog))])
        return min(1.0, max(0.0, limit - time.perf_counter()))

    def _turn(self) -> None:
        now = time.perf_counter()
        late = [job for job in self._jobs if job.is_cancelled or job.deadline < now]
        if self._backlog:
            late += [job for job in self._backlog if job.is_cancelled or job.deadline < now]
        if late:
            self._take_out(late)
        if self._has_changed:
            self._has_changed = False
            if self._backlog:
                self._admit_some()
            self._seat()
        if self._rows:
            self._choose()
        if self._rows:
            self._step()
        if self._readers:
            self._read()
        if self._steppers:
            self._advance()

    def _advance(self) -> None:
        """Let a beam of each client do a step, and so each after the other."""
        clients: dict[str, Job] = {}
        for job in self._steppers:
            clients.setdefault(job.client, job)
        for job in clients.values():
            self._steppers.remove(job)
            self._steppers.append(job)
            if job.advance():
                self._steppers.remove(job)
                self._end(job)

    def _take_out(self, late: list[Job]) -> None:
        """End jobs that were cancelled or are past their deadline."""
        if self._sampler:
            self._sampler.settle()
        for job in late:
            if job in self._jobs:
                self._remove(job)
            else:
                self._backlog.remove(job)
                self._admitted(job)
            self.counters["cancelled" if job.is_cancelled else "timeouts"] += 1
            job.stop("cancelled" if job.is_cancelled else "timeout")
            self._end(job)

    def _admitted(self, job: Job) -> None:
        with self._lock:
            self._waiting -= 1
            self._waiting_by_client[job.client] -= 1
            if not self._waiting_by_client[job.client]:
                del self._waiting_by_client[job.client]
        self._jobs[job] = None
        job.started = time.perf_counter()
        self.counters["requests"] += 1

    def _admit_some(self) -> None:
        """Admit the jobs whose turn it is, and for which there is a place."""
        places = Counter(job.client for job in self._jobs if not job.is_paused)
        taken = places.total()
        if taken + len(self._backlog) <= JOBS:
            admitted = self._backlog[:]
        else:
            share = JOBS // len(places.keys() | {job.client for job in self._backlog})
            admitted = []
            for job in by_turns(self._backlog, lambda job: job):
                has_less = job.generation <= SHORT or places[job.client] < max(1, share)
                if taken < JOBS or (taken < 2 * JOBS and has_less):
                    admitted.append(job)
                    places[job.client] += 1
                    taken += 1
        for job in admitted:
            self._backlog.remove(job)
            self._admit(job)

    def _admit(self, job: Job) -> None:
        self._admitted(job)
        # The last character is always read: its logits are wanted, and they are not kept.
        job.place = self.cache.find(job.text[:-1])
        job.at = job.place.length
        job.cached = job.at
        state = job.place.state
        job.state = self.network.initial_state() if state is None else state[None]
        self._readers.append(job)

    # Generating

    def _seat(self) -> None:
        """Decide which rows are in the batch: all if there is room, and else those whose turn it is."""
        if not self._joining and not any(row.job.is_paused for row in self._rows):
            return
        rows = [row for row in (*self._rows, *(row for row, _, _ in self._joining)) if not row.job.is_paused]
        if len(rows) > ROWS:
            rows = list(islice(by_turns(rows, lambda row: row.job), ROWS))
        seated = set(rows)
        if out := [i for i, row in enumerate(self._rows) if row not in seated]:
            if self._sampler:
                self._sampler.settle()
            self._joining += [(self._rows[i], self._logits[i : i + 1], self._state[i : i + 1]) for i in out]
            self._keep([i for i, row in enumerate(self._rows) if row in seated])
        joining = [item for item in self._joining if item[0] in seated]
        if joining:
            self._joining = [item for item in self._joining if item[0] not in seated]
            self._join(joining)

    def _join(self, joining: list[tuple[Row, Floats, State]]) -> None:
        self._rows = self._rows + [row for row, _, _ in joining]
        self._regroup()
        if len(self._rows) == 1:
            _, self._logits, self._state = joining[0]
            return
        self._state = np.concatenate([self._state, *(state for _, _, state in joining)])
        self._logits = np.concatenate([self._logits, *(logits for _, logits, _ in joining)])

    def _choose(self) -> None:
        """Let every row take its next character; drop the rows that are over."""
        if self._sampler is None:
            choose_plain = self._chooser.choose if self._chooser else None
            self._sampler = RowSampler(self._rows, self.network.V, choose_plain=choose_plain)
        self.counters["generated_characters"] += len(self._rows)
        self._leave(self._sampler.choose(self._logits))

    def _leave(self, over: list[int]) -> None:
        """Drop the rows at these places."""
        if not over:
            return
        self._has_changed = True
        leaving = [self._rows[i] for i in over]
        self._keep([i for i, row in enumerate(self._rows) if row not in leaving])
        for job in dict.fromkeys(row.job for row in leaving):
            if job.row_ended():
                self._end(job)

    def _keep(self, kept: list[int]) -> None:
        self._rows = [self._rows[i] for i in kept]
        self._state, self._logits = self._state[kept], self._logits[kept]
        self._regroup()

    def _regroup(self) -> None:
        """The rows have changed."""
        if self._sampler:
            self._sampler.settle()
            self._sampler = None

    def _ahead(self) -> int:
        """How many characters the network can choose by itself now, without anybody waiting for long."""
        is_busy = self._readers or self._steppers or self._has_changed or not self._inbox.empty()
        if is_busy or self._chooser is None or self._sampler is None:
            return 0
        one_s = self._stepping_s.get(len(self._rows).bit_length(), AHEAD_S / 4)
        return min(int(AHEAD_S / one_s), self._sampler.most_ahead) - 1

    def _step(self) -> None:
        """One step for all rows, and for some readers that ride along; or some steps for the rows alone."""
        ahead = self._ahead()
        if ahead > 0:
            self._step_ahead(ahead)
            return
        started = time.perf_counter()
        rows = self._rows
        riders = _next_readers(self._readers, max(4, len(rows))) if self._readers else []
        ids = [row.last_id for row in rows]
        state = self._state
        if riders:
            ids += [job.next_ids(1)[0] for job in riders]
            state = np.concatenate([state, *(job.state for job in riders)])
        logits, state = self.network.step(np.array([ids], np.int32), state)
        b = len(rows)
        self._logits, self._state = logits[0], state
        if riders:
            self._logits, self._state = logits[0, :b], state[:b]
            for i, job in enumerate(riders, b):
                self._has_read(job, 1, logits[0, i : i + 1], state[i : i + 1])
        self.counters["steps"] += 1
        self._step_s = time.perf_counter() - started
        if not riders:
            self._has_stepped(b, self._step_s)
        self._credit_s += READ_SHARE * self._step_s

    def _step_ahead(self, count: int) -> None:
        """Let the network do some steps, and choose `count` characters between them."""
        assert self._chooser and self._sampler
        started = time.perf_counter()
        ids = np.array([row.last_id for row in self._rows], np.int32)
        chosen, logits, self._state = self._chooser.generate(ids, self._state, *self._sampler.sampling(count))
        self._step_s = time.perf_counter() - started
        self._has_stepped(len(ids), self._step_s / (count + 1))
        self._credit_s += READ_SHARE * self._step_s
        self._logits = logits[-1]
        self.counters["steps"] += count + 1
        self.counters["generated_characters"] += count * len(self._rows)
        self._leave(self._sampler.take_ahead(logits[:-1], chosen))

    def _has_stepped(self, rows: int, one_s: float) -> None:
        size = rows.bit_length()
        # Once in a while the machine does something else in the middle of a step: that tells nothing.
        self._stepping_s[size] = min(one_s, 2 * self._stepping_s.get(size, one_s))

    # LineSurprisal

    def _read(self) -> None:
        """Read a slice of the first few texts; or a good deal of the only one."""
        if self._chooser and len(self._jobs) == 1 and not self._rows:
            (job,) = self._readers
            if len(job.text) - job.at > 2 * CHUNK and self._read_alone(self._chooser, job):
                return
        group = _next_readers(self._readers, READERS)
        size = len(group).bit_length()
        one_s = self._reading_s.get(size, READ_SLICE_S / 4)
        slice_s = READ_SLICE_S
        if self._rows:
            self._credit_s = slice_s = min(self._credit_s, max(READ_SLICE_S, self._step_s))
            if slice_s < one_s:
                return
        started = time.perf_counter()
        steps = min(CHUNK, max(1, int(slice_s / one_s)), *(_to_next_stop(job, job.at) for job in group))
        ids = np.array([job.next_ids(steps) for job in group], np.int32).T  # (T, B)
        state = group[0].state if len(group) == 1 else np.concatenate([job.state for job in group])
        finishes = any(job.at + steps == len(job.text) for job in group)
        first = steps - 1 if finishes else steps
        logits, state = self.network.step(np.ascontiguousarray(ids), state, first)
        for i, job in enumerate(group):
            self._has_read(job, steps, logits[-1, i : i + 1] if finishes else None, state[i : i + 1])
        took = time.perf_counter() - started
        self._credit_s -= took
        self._reading_s[size] = 0.7 * one_s + 0.3 * took / steps if size in self._reading_s else took / steps

    def _read_alone(self, network: ChoosingNetwork, job: Job) -> bool:
        """Read on until somebody comes, for READ_ALONE_S at most; return whether anything was read."""
        self._hurry[0] = 0
        if not self._inbox.empty():  # and who comes from here on sets it
            return False
        started = time.perf_counter()
        most = job.at + min(READ_ALONE_S, job.deadline - started) / self._character_s
        ends: list[int] = []
        at = job.at
        while not ends or at < min(len(job.text) - 1, most):
            at += _to_next_stop(job, at)
            ends.append(at - job.at)
        ids = np.array(job.next_ids(ends[-1]), np.int32)
        states = network.read(ids, ends, job.state, self._hurry)
        for state in states:
            self._has_read(job, _to_next_stop(job, job.at), None, state)
        if states:
            self._character_s = (time.perf_counter() - started) / ends[len(states) - 1]
        return bool(states)

    def _has_read(self, job: Job, steps: int, logits: Floats | None, state: State) -> None:
        job.at += steps
        job.state = state
        self.counters["read_characters"] += steps
        length = len(job.text)
        if job.at >= length - 1 or _keeps(job.at, length):
            self.cache.put(job.place, job.text, job.at, state[0])
        if job.at < length:
            return
        assert logits is not None
        self._readers.remove(job)
        rows = job.begin(logits[0], state)
        self._joining.extend((row, logits, state) for row in rows)
        self._has_changed = True
        if job.is_stepper:
            self._steppers.append(job)
        elif not rows:
            self._end(job)

    # Ending

    def _remove(self, job: Job) -> None:
        if job in self._readers:
            self._readers.remove(job)
        if job in self._steppers:
            self._steppers.remove(job)
        self._has_changed = True
        self._joining = [item for item in self._joining if item[0].job is not job]
        kept = [i for i, row in enumerate(self._rows) if row.job is not job]
        if len(kept) < len(self._rows):
            self._keep(kept)

    def _end(self, job: Job) -> None:
        self._jobs.pop(job, None)
        self._has_changed = True
        self._service_s += 0.05 * (time.perf_counter() - job.started - self._service_s)
        job.end()

    def _fail_all(self, error: Exception) -> None:
        jobs = list(self._jobs)
        self._jobs.clear()
        self._readers.clear()
        self._steppers.clear()
        self._joining.clear()
        # As at the start: whatever broke may have left rows and states that do not fit together.
        self._sampler = None
        self._rows = []
        self._state = self.network.initial_state(0)
        self._logits = np.zeros((0, self.network.V), np.float32)
        self._credit_s = 0.0
        self._has_changed = True  # those in the backlog can have the places
        self.counters["failures"] += len(jobs)
        for job in jobs:
            try:
                job.fail(error)
            except Exception:  # the others must be told all the same
                log.exception("a request to model %s could not be told that it failed", self._name)


def _keeps(at: int, length: int) -> bool:
    """Whether a state is kept at this place of a text: its strides, and the chunks near its end."""
    return at % STRIDE == 0 or (at % CHUNK == 0 and at > (length - DENSE_CHARACTERS) // STRIDE * STRIDE)


def _to_next_stop(job: Job, at: int) -> int:
    """How many steps a text can be read in one call from a place on: to where a state is kept.

    That is also before the last character, so that the same text asked again costs one step.
    """
    rest = len(job.text) - at
    return min(rest if rest == 1 else rest - 1, CHUNK - at % CHUNK)


def _next_readers(readers: list[Job], count: int) -> list[Job]:
    """Return up to `count` of them: those whose turn it is."""
    return readers[:] if len(readers) <= count else list(islice(by_turns(readers, lambda job: job), count))
