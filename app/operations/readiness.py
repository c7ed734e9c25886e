"""Readiness checks for /readyz, of reads and writes, with short timeouts.

Serving only needs readable storage and loaded kernels: without Redis or a worker jobs wait, and completions
are served. So the service is not ready if one of these two is missing, and degraded if anything else fails.
Error messages that may contain hosts or paths go to the log, because /readyz needs no key.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, Field
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from nextchar.app.http.limits import DiskWatermark
from nextchar.app.http.schemas import Shape, with_examples
from nextchar.models.errors import DomainError, StorageFull
from nextchar.models.kernels.compile_cache import is_compiling
from nextchar.store.background import BackgroundLoop as Loop
from nextchar.store.background import LoopStatus
from nextchar.store.blobs import Blobs
from nextchar.store.queue import TrainingQueue


class Alive(BaseModel):
    """The process is running."""

    model_config = with_examples({"status": "ok"})

    status: Literal["ok"] = "ok"


class Degradation(BaseModel):
    """One part that does not work."""

    part: Literal["redis", "storage", "worker", "background", "keys", "kernels"]
    problem: str = Field(description="The problem.")
    effect: str = Field(description="The consequence for users.")


class BackgroundLoop(BaseModel):
    """One of the periodic background tasks."""

    name: str
    last_beat_s: float = Field(description="Seconds since its last iteration ended, with an error or not.")
    last_success_s: float = Field(description="Seconds since its last iteration without an error ended.")
    errors: dict[str, int] = Field(description="Failed iterations, by type of error.")


class Readiness(Shape):
    """Whether models can be served, and which parts do not work."""

    model_config = with_examples({
        "status": "ready", "down": [], "degraded": [],
        "background": [{"name": "reconciler", "last_beat_s": 1.2, "last_success_s": 1.2, "errors": {}}],
    })  # fmt: skip

    status: Literal["ready", "degraded", "not_ready"]
    """`degraded`: models are served, but the parts listed in `degraded` do not work."""
    down: list[Literal["redis", "storage", "kernels"]]
    """The parts that do not respond, and `kernels` while these are not loaded."""
    degraded: list[Degradation] = Field(default=[], description="All parts that do not work.")
    background: list[BackgroundLoop] = Field(default=[], description="The process's background loops.")


log = logging.getLogger("nextchar.api")

FRESH_S = 1.0
"""Redis and the storage are checked at most once in this time."""

OBJECT_STORE_FRESH_S = 10.0
"""An object store that works is checked at most once in this time, because each check costs two requests."""

WAIT_S = 1.0
"""A caller waits at most this long for a check, then uses the last result."""

HUNG_S = 4.0
"""A check that takes longer counts as failed."""

LOOP_FAILING_S = 60.0
"""A background loop without a success for this long after one was due is reported."""

WORKER_START_S = 60.0
"""A missing worker is not logged for this long after the start, because it may be starting too."""

_REDIS_KEY = "nextchar:health"
_BLOB_PATH = "health/write-test"


_WITHOUT_REDIS = (
    "jobs wait in storage, running jobs show no progress, streams of lines cannot continue and rate limits"
    " are not enforced; completions and scores are served"
)


@dataclass(frozen=True)
class Problem:
    """The problem of one part, and its effect on users."""

    part: Literal["redis", "storage", "worker", "background", "keys", "kernels"]
    problem: str
    effect: str
    is_down: bool = False  # the part does not respond, or is not loaded yet
    detail: str = ""  # only for the log


_LOADING_KERNELS = Problem(
    "kernels",
    "are being loaded; the first time on a machine, and after an update, they are compiled first",
    "completions, scores and jobs wait",
    is_down=True,
)


class ReadinessCheck:
    """Checks the parts of one API process. Safe to use from several threads."""

    def __init__(
        self,
        *,
        blobs: Blobs,
        redis: Redis,
        queue: TrainingQueue,
        loops: Sequence[Loop],
        watermark: DiskWatermark | None = None,
        kernels_loaded: threading.Event | None = None,
    ) -> None:
        self._loops, self._kernels_loaded = loops, kernels_loaded
        self.checks: list[Callable[[], list[Problem]]] = []
        """Further checks, which read neither Redis nor the storage."""
        self.redis_checks: list[Callable[[], list[Problem]]] = []
        """Those that read Redis."""
        redis_hangs = Problem("redis", "does not respond", _WITHOUT_REDIS, is_down=True)
        self._probes = [
            Probe("redis", lambda: check_redis(redis, queue, self.redis_checks), redis_hangs),
            Probe(
                "storage",
                lambda: check_storage(blobs, watermark),
                _storage_down(),
                works_for_s=OBJECT_STORE_FRESH_S if blobs.free_bytes() is None else None,
            ),
        ]
        self._logged: set[tuple[str, str]] = set()
        self._started_s = time.monotonic()

    def report(self) -> Readiness:
        """Return the present state, after about WAIT_S seconds at most."""
        for probe in self._probes:
            probe.begin()
        problems = [problem for probe in self._probes for problem in probe.result()]
        loops = [loop.status() for loop in self._loops]
        problems += [_failing(loop) for loop in loops if loop.seconds_since_success > _failing_after_s(loop)]
        problems += [problem for check in self.checks for problem in check()]
        self._log(problems)
        if self._kernels_loaded and not self._kernels_loaded.is_set():
            problems.append(_LOADING_KERNELS)  # not logged: nothing is wrong
        return readiness_of(problems, loops)

    def _log(self, problems: list[Problem]) -> None:
        """Log changes since the last report."""
        if time.monotonic() - self._started_s < WORKER_START_S:
            problems = [p for p in problems if p.part != "worker"]
        before, self._logged = self._logged, {(p.part, p.problem) for p in problems}
        for p in problems:
            if (p.part, p.problem) not in before:
                detail = f" ({p.detail})" if p.detail else ""
                log.warning("%s: %s%s; %s", p.part, p.problem, detail, p.effect)
        for part in {part for part, _ in before} - {p.part for p in problems}:
            log.warning("%s: works again", part)


def readiness_of(problems: Sequence[Problem], loops: Sequence[LoopStatus]) -> Readiness:
    """Return the body that reports these problems: not ready if the storage or the kernels are down."""
    down = [p.part for p in problems if p.is_down]
    status = "degraded" if problems else "ready"
    if {"storage", "kernels"} & set(down):
        status = "not_ready"
    background = [
        {
            "name": loop.name,
            "last_beat_s": round(loop.seconds_since_beat, 1),
            "last_success_s": round(loop.seconds_since_success, 1),
            "errors": loop.errors,
        }
        for loop in loops
    ]
    return Readiness.model_validate(
        {"status": status, "down": down, "degraded": problems, "background": background}, from_attributes=True
    )


class Probe:
    """Runs one check in its own thread, so that a check that hangs delays nothing else.

    `hangs` is reported while it does not end. A result without problems counts for `works_for_s`, by default
    for FRESH_S, as all other results.
    """

    def __init__(
        self,
        name: str,
        check: Callable[[], list[Problem]],
        hangs: Problem,
        *,
        works_for_s: float | None = None,
    ) -> None:
        self._name, self._check, self._hangs, self._works_for_s = name, check, hangs, works_for_s
        self._lock = threading.Lock()  # guards the fields below
        self._started_at_s = self._ended_at_s = float("-inf")
        self._is_running = False
        self._ended = threading.Event()
        self._last: list[Problem] | None = None

    def begin(self) -> None:
        """Start the check, unless it runs or has just ended."""
        with self._lock:
            now = time.monotonic()
            fresh_s = self._works_for_s if self._works_for_s is not None and self._last == [] else FRESH_S
            if self._is_running or now - self._ended_at_s < fresh_s:
                return
            self._is_running, self._started_at_s = True, now
            self._ended.clear()
            try:
                threading.Thread(target=self._run, name=f"check {self._name}", daemon=True).start()
            except RuntimeError:  # no thread available: keep the last result
                self._end([self._hangs] if self._last is None else self._last)

    def result(self) -> list[Problem]:
        """Return the newest result; wait briefly for a running check."""
        wait_s = HUNG_S if self._last is None else WAIT_S
        self._ended.wait(max(0.0, self._started_at_s + wait_s - time.monotonic()))
        with self._lock:
            has_hung = self._is_running and time.monotonic() - self._started_at_s > HUNG_S
            return [self._hangs] if has_hung or self._last is None else self._last

    def _run(self) -> None:
        try:
            problems = self._check()
        except Exception:
            log.exception("the check of %s failed", self._name)
            problems = [self._hangs]
        with self._lock:
            self._end(problems)

    def _end(self, problems: list[Problem]) -> None:
        self._last, self._is_running, self._ended_at_s = problems, False, time.monotonic()
        self._ended.set()


def check_redis(
    redis: Redis, queue: TrainingQueue, others: Sequence[Callable[[], list[Problem]]] = ()
) -> list[Problem]:
    """Write to Redis and look for a live worker, and what `others` look for; return the problems."""
    problems = []
    try:
        try:
            redis.set(_REDIS_KEY, "1", ex=60)
        except ResponseError as error:  # its message contains no host
            problems.append(Problem("redis", f"refuses writes: {error}", _WITHOUT_REDIS))
        workers = queue.live_workers()
        found = [problem for check in others for problem in check()]
    except (RedisError, OSError) as error:
        return [Problem("redis", "does not respond", _WITHOUT_REDIS, is_down=True, detail=str(error))]
    if not workers:
        problem = "no worker is running, or none has reported recently"
        if is_compiling():
            problem = "no worker is running yet; kernels are being compiled (once per machine and version)"
        effect = "jobs wait until there is one; completions and scores need none"
        problems.append(Problem("worker", problem, effect))
    return [*problems, *found]


def check_storage(blobs: Blobs, watermark: DiskWatermark | None = None) -> list[Problem]:
    """Read the storage and write to it; return the problems."""
    try:
        blobs.folders("jobs")
    except (DomainError, OSError) as error:
        return [_storage_down(str(error))]
    try:
        if blobs.free_bytes() is None:
            blobs.write(_BLOB_PATH, b"1")
        else:  # a folder, where records need hard links
            blobs.delete(_BLOB_PATH)
            blobs.create(_BLOB_PATH, b"1")
    except (DomainError, OSError) as error:
        effect = "uploads, jobs and calibrations are refused; completions and scores are served"
        problem = "is full" if isinstance(error, StorageFull) else "can be read, but refuses writes"
        return [Problem("storage", problem, effect, detail=str(error))]
    try:
        if watermark:
            watermark.check()
    except StorageFull as error:
        effect = "uploads and jobs are refused; everything else works"
        return [Problem("storage", "has less space free than the disk watermark", effect, detail=str(error))]
    return []


def _storage_down(detail: str = "") -> Problem:
    effect = "models that are not in memory cannot be served, and nothing can be stored"
    return Problem("storage", "does not respond", effect, is_down=True, detail=detail)


def _failing_after_s(loop: LoopStatus) -> float:
    return loop.interval_s + LOOP_FAILING_S


def _failing(loop: LoopStatus) -> Problem:
    errors = ", ".join(sorted(loop.errors)) or "none"
    return Problem(
        "background",
        f"{loop.name} has not succeeded for {_failing_after_s(loop):.0f} s or more (errors: {errors})",
        loop.effect,
    )
