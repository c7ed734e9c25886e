"""Reads that a caller does not wait for without bound."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")

STORAGE_READ_S = 4.0
"""Reads of a storage that hangs are given up after this long: a scraper waits ten seconds for all metrics."""


class BoundedRead(Generic[T]):
    """Calls `read` in a thread and waits for at most `timeout_s` seconds for the result.

    While a call has not ended, further callers wait for the same one: a storage that hangs holds one thread.
    """

    def __init__(self, read: Callable[[], T], timeout_s: float) -> None:
        self._read, self._timeout_s = read, timeout_s
        self._lock = threading.Lock()
        self._reading: Future[T] | None = None

    def __call__(self) -> T:
        """Return what `read` returns. Raises what it raises, and TimeoutError."""
        with self._lock:
            if self._reading is None or self._reading.done():
                reading = Future[T]()
                threading.Thread(target=self._run, args=(reading,), daemon=True).start()
                self._reading = reading  # after the start, which fails if there are too many threads
            reading = self._reading
        return reading.result(timeout=self._timeout_s)

    def _run(self, reading: Future[T]) -> None:
        try:
            reading.set_result(self._read())
        except BaseException as error:  # noqa: BLE001  (is raised by `result`)
            reading.set_exception(error)
