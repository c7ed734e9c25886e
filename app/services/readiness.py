"""What works and what does not, for /readyz. Writes as well as reads, and never waits for long.

Serving needs the storage to be readable, and nothing else: without Redis or a worker jobs wait, and
completions go on. So only a storage that cannot be read makes the service not ready; the rest is degraded.
Error texts that may name hosts or paths go to the log, for anybody may read the answer.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from app.keys import KeyFile
from models.errors import DomainError, StorageFull
from store.background import BackgroundLoop, LoopStatus
from store.blobs import Blobs
from store.queue import TrainingQueue

log = logging.getLogger("nextchar.api")

FRESH_S = 1.0
"""Redis and the storage are looked at at most this often."""

WAIT_S = 1.0
"""The longest that a caller waits for a check; then the last result counts."""

HUNG_S = 4.0
"""After this long a check counts as failed, though it has not ended."""

LOOP_FAILING_S = 60.0
"""A background loop without a success for this long, after one was due, is reported."""

WORKER_START_S = 60.0
"""For this long after the start a missing worker is not logged: it may be starting, too."""

_REDIS_KEY = "nextchar:health"
_BLOB_PATH = "health/write-test"

_WITHOUT_REDIS = (
    "jobs wait in storage, running jobs show no progress, streams of lines cannot go on and rates of keys are"
    " not counted; completions and scores go on"
)


@dataclass(frozen=True)
class Problem:
    """What is wrong with one part, and what that means for the service's users."""

    part: Literal["redis", "storage", "worker", "background", "keys"]
    problem: str
    effect: str
    is_down: bool = False  # it does not answer
    detail: str = ""  # for the log alone


_BAD_KEYS = Problem(
    "keys",
    "the file of API keys has bad lines or cannot be read",
    "the keys on these lines, or all of them, are not valid; the log names the lines",
)


@dataclass(frozen=True)
class Report:
    """What was found."""

    problems: list[Problem]
    loops: list[LoopStatus]

    @property
    def down(self) -> list[Literal["redis", "storage"]]:
        """The parts that do not answer."""
        return [p.part for p in self.problems if p.is_down and p.part in ("redis", "storage")]

    @property
    def is_ready(self) -> bool:
        """Whether models can be served."""
        return "storage" not in self.down


class ReadinessCheck:
    """Looks at the parts of one API process. Safe to use from several threads."""

    def __init__(
        self,
        *,
        blobs: Blobs,
        redis: Redis,
        queue: TrainingQueue,
        loops: Sequence[BackgroundLoop],
        keys: KeyFile | None = None,
    ) -> None:
        self._loops, self._keys = loops, keys
        redis_hangs = Problem("redis", "does not answer", _WITHOUT_REDIS, is_down=True)
        self._probes = [
            Probe("redis", lambda: check_redis(redis, queue), redis_hangs),
            Probe("storage", lambda: check_storage(blobs), _storage_down()),
        ]
        self._logged: set[tuple[str, str]] = set()
        self._started_s = time.monotonic()

    def report(self) -> Report:
        """Return what works now, after about WAIT_S seconds at most."""
        for probe in self._probes:
            probe.begin()
        problems = [problem for probe in self._probes for problem in probe.result()]
        loops = [loop.status() for loop in self._loops]
        problems += [_failing(loop) for loop in loops if loop.seconds_since_success > _failing_after_s(loop)]
        if self._keys and self._keys.problems:
            problems.append(_BAD_KEYS)
        self._log(problems)
        return Report(problems, loops)

    def _log(self, problems: list[Problem]) -> None:
        """Log what has changed."""
        if time.monotonic() - self._started_s < WORKER_START_S:
            problems = [p for p in problems if p.part != "worker"]
        before, self._logged = self._logged, {(p.part, p.problem) for p in problems}
        for p in problems:
            if (p.part, p.problem) not in before:
                detail = f" ({p.detail})" if p.detail else ""
                log.warning("%s: %s%s; %s", p.part, p.problem, detail, p.effect)
        for part in {part for part, _ in before} - {p.part for p in problems}:
            log.warning("%s: works again", part)


class Probe:
    """Runs one check in a thread of its own, so that what hangs holds up nobody else.

    Args:
        name: of the thread.
        check: returns what is wrong.
        hangs: what is wrong while the check does not end.
    """

    def __init__(self, name: str, check: Callable[[], list[Problem]], hangs: Problem) -> None:
        self._name, self._check, self._hangs = name, check, hangs
        self._lock = threading.Lock()  # guards the fields below
        self._begun_at_s = self._ended_at_s = float("-inf")
        self._is_running = False
        self._ended = threading.Event()
        self._last: list[Problem] | None = None

    def begin(self) -> None:
        """Start the check, unless it runs or has just ended."""
        with self._lock:
            now = time.monotonic()
            if self._is_running or now - self._ended_at_s < FRESH_S:
                return
            self._is_running, self._begun_at_s = True, now
            self._ended.clear()
            try:
                threading.Thread(target=self._run, name=f"check {self._name}", daemon=True).start()
            except RuntimeError:  # no thread to be had: the last result stays
                self._end([self._hangs] if self._last is None else self._last)

    def result(self) -> list[Problem]:
        """Return the newest result, waiting a moment for the check under way."""
        wait_s = HUNG_S if self._last is None else WAIT_S
        self._ended.wait(max(0.0, self._begun_at_s + wait_s - time.monotonic()))
        with self._lock:
            has_hung = self._is_running and time.monotonic() - self._begun_at_s > HUNG_S
            return [self._hangs] if has_hung or self._last is None else self._last

    def _run(self) -> None:
        try:
            found = self._check()
        except Exception:
            log.exception("the check of %s failed", self._name)
            found = [self._hangs]
        with self._lock:
            self._end(found)

    def _end(self, found: list[Problem]) -> None:
        self._last, self._is_running, self._ended_at_s = found, False, time.monotonic()
        self._ended.set()


def check_redis(redis: Redis, queue: TrainingQueue) -> list[Problem]:
    """Write to Redis and look for a living worker; return what is wrong."""
    problems = []
    try:
        try:
            redis.set(_REDIS_KEY, "1", ex=60)
        except ResponseError as error:  # it answers, and its words name no host
            problems.append(Problem("redis", f"refuses writes: {error}", _WITHOUT_REDIS))
        workers = queue.live_workers()
    except (RedisError, OSError) as error:
        return [Problem("redis", "does not answer", _WITHOUT_REDIS, is_down=True, detail=str(error))]
    if not workers:
        effect = "jobs wait until there is one; completions and scores go on"
        problems.append(Problem("worker", "there is none, or none was heard of lately", effect))
    return problems


def check_storage(blobs: Blobs) -> list[Problem]:
    """Read the storage and write to it; return what is wrong."""
    try:
        blobs.folders("jobs")
    except (DomainError, OSError) as error:
        return [_storage_down(str(error))]
    try:
        blobs.write(_BLOB_PATH, b"1")
    except (DomainError, OSError) as error:
        effect = "uploads, jobs and calibrations are refused; completions and scores go on"
        problem = "is full" if isinstance(error, StorageFull) else "can be read, but refuses writes"
        return [Problem("storage", problem, effect, detail=str(error))]
    return []


def _storage_down(detail: str = "") -> Problem:
    effect = "models that are not in memory cannot be served, and nothing can be kept"
    return Problem("storage", "does not answer", effect, is_down=True, detail=detail)


def _failing_after_s(loop: LoopStatus) -> float:
    return loop.interval_s + LOOP_FAILING_S


def _failing(loop: LoopStatus) -> Problem:
    effect = {
        "reconciler": "jobs whose worker or message was lost are not taken up again",
        "retention": "what has been kept long enough is not deleted",
    }
    errors = ", ".join(sorted(loop.errors)) or "none"
    return Problem(
        "background",
        f"{loop.name} has not succeeded for {_failing_after_s(loop):.0f} s or more (errors: {errors})",
        effect.get(loop.name, "its work is not done"),
    )
