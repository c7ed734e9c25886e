"""A thread that calls a function every few seconds while its process lives, and survives errors.

    loop = BackgroundLoop("reconciler", reconciler.run, interval_s=5.0)
    loop.start()
    ...
    loop.status().seconds_since_success

An uncaught exception would end the thread unnoticed. So every error is caught, logged, and counted by its
class, and the loop continues.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self

LOG_EVERY_S = 60.0
"""Errors of the same class are logged at most this often."""

_EXIT_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class LoopStatus:
    """The health of a loop."""

    name: str
    effect: str
    """What its failure means to users."""
    interval_s: float
    """Pause between the end of a round and the start of the next."""
    seconds_since_beat: float
    """Since the last round ended, with or without an error. It grows while a round hangs."""
    seconds_since_success: float
    """Since the last round ended without an error, or since the start if none has."""
    errors: Mapping[str, int]
    """Failed rounds by the class name of the error."""


class BackgroundLoop:
    """Calls `run` every `interval_s` seconds in its own thread, from `start` to `stop`.

    As a context manager it starts on entry and stops on exit, after the current round. Any `Exception` of
    `run` is counted and logged, the first of its class with a traceback.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[], object],
        *,
        interval_s: float,
        effect: str = "its work is not done",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._run = run
        self._interval_s, self._effect = interval_s, effect
        self._clock = clock
        self._woken, self._is_stopped = threading.Event(), False
        self._thread = threading.Thread(target=self._keep_running, name=name, daemon=True)
        self._beat_at_s = self._success_at_s = clock()
        self._errors = ErrorLog(logging.getLogger("nextchar.background"), clock=clock)

    def start(self) -> None:
        """Start the thread. The first round starts after one interval."""
        self._beat_at_s = self._success_at_s = self._clock()
        self._thread.start()

    def run_soon(self) -> None:
        """Start the next round now, or as soon as the current one is over."""
        self._woken.set()

    def stop(self, timeout_s: float = 0.0) -> None:
        """Start no further round, and wait up to `timeout_s` seconds for the current one."""
        self._is_stopped = True
        self._woken.set()
        if timeout_s:
            self._thread.join(timeout_s)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(timeout_s=_EXIT_TIMEOUT_S)

    def status(self) -> LoopStatus:
        """Return the health of the loop now."""
        now = self._clock()
        return LoopStatus(
            name=self.name,
            effect=self._effect,
            interval_s=self._interval_s,
            seconds_since_beat=now - self._beat_at_s,
            seconds_since_success=now - self._success_at_s,
            errors=dict(self._errors.counts),
        )

    def beat(self) -> None:
        """Note that a long round makes progress, so that it does not look as if it hung."""
        self._beat_at_s = self._success_at_s = self._clock()

    def _keep_running(self) -> None:
        while True:
            self._woken.wait(self._interval_s)
            self._woken.clear()
            if self._is_stopped:  # read after `clear`, which may have cleared what `stop` set
                return
            try:
                self._run()
            except Exception as error:  # noqa: BLE001 -- logged and counted; the thread must survive
                self._errors.add(f"a round of the background loop {self.name!r} failed", error)
            else:
                self._success_at_s = self._clock()
            self._beat_at_s = self._clock()


@dataclass
class ErrorLog:
    """Counts errors by class, and logs them without flooding the log.

    The first error of a class is logged with its traceback, further ones in one line each, at most every
    LOG_EVERY_S seconds.
    """

    log: logging.Logger
    clock: Callable[[], float] = time.monotonic
    counts: Counter[str] = field(default_factory=Counter)
    _logged_at_s: dict[str, float] = field(default_factory=dict)

    def add(self, what_failed: str, error: Exception) -> None:
        """Count an error, and log it if one is due."""
        kind = type(error).__name__
        self.counts[kind] += 1
        now = self.clock()
        last = self._logged_at_s.get(kind)
        if last is not None and now - last < LOG_EVERY_S:
            return
        self._logged_at_s[kind] = now
        count = self.counts[kind]
        times = f" ({count} times so far)" if count > 1 else ""
        self.log.warning(
            "%s: %s: %s%s", what_failed, kind, error, times, exc_info=error if last is None else None
        )
