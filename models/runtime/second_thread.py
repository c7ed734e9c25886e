"""A helper thread that shares large steps of a network with the calling thread."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.machine import available_cores

Ids = NDArray[np.int32]
Floats = NDArray[np.float32]
Step = Callable[[Ids, Floats], tuple[Floats, Floats]]


CORES = available_cores()
"""With one core, steps are not shared."""


class SecondThread:
    """One worker thread. Thread-safe; the thread ends with the object."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    def begin(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call `function` in the helper thread once it is free."""
        return self._pool.submit(function, *arguments)

    def share(self, step: Step, ids: Ids, state: Floats, *, rows: int) -> tuple[Floats, Floats]:
        """Return the logits (., B, V) and states (B, S) of a step for ids (T, B) and state (B, S).

        The batch is split into parts of `rows` rows, which both threads take from a common queue: if the
        helper gets no core, the calling thread does most or all of them.
        """
        if CORES == 1:
            return step(ids, state)
        starts = iter(range(0, ids.shape[1], rows))
        parts: dict[int, tuple[Floats, Floats]] = {}

        def do_parts() -> None:
            for at in starts:  # each part is taken once
                part = slice(at, at + rows)
                parts[at] = step(np.ascontiguousarray(ids[:, part]), state[part])

        helper = self.begin(do_parts)
        try:
            do_parts()
        finally:
            if not helper.cancel():
                helper.result()
        logits, states = zip(*(parts[at] for at in sorted(parts)), strict=True)
        return np.concatenate(logits, axis=1), np.concatenate(states)
