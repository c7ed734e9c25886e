"""A cache of what is read from the storage, where other processes may change it."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

V = TypeVar("V")

Clock = Callable[[], float]


class ExpiringCache(Generic[V]):
    """Keeps each value for `max_age_s`, and all of them up to `max_size` in sum. Safe to use from threads."""

    def __init__(
        self,
        max_age_s: float,
        *,
        clock: Clock = time.monotonic,
        max_size: float = float("inf"),
        size_of: Callable[[V], float] = lambda _: 1,
    ) -> None:
        self._max_age_s, self._clock, self._max_size, self._size_of = max_age_s, clock, max_size, size_of
        self._lock = threading.Lock()  # guards the fields below; never held while reading
        self._values: dict[str, tuple[float, V]] = {}
        self._forgotten = 0

    def get(self, key: str, read: Callable[[V | None], V]) -> V:
        """Return the value of a key, if it has expired that which `read` makes; it gets the expired one."""
        now, forgotten = self._clock(), self._forgotten
        with self._lock:
            cached = self._values.get(key)
        if cached and now - cached[0] < self._max_age_s:
            return cached[1]
        value = read(cached and cached[1])
        with self._lock:
            if forgotten == self._forgotten:  # else it may have changed since
                self._values[key] = (now, value)
            if sum(self._size_of(one) for _, one in self._values.values()) > self._max_size:
                self._values = {key: (now, value)}
        return value

    def forget(self, *keys: str) -> None:
        """Have the values of these keys read again, which this process has changed."""
        with self._lock:
            self._forgotten += 1
            for key in keys:
                self._values.pop(key, None)
