"""A thread beside the one that runs a network: large steps are shared with it."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.machine import available_cores

Ids = NDArray[np.int32]
Floats = NDArray[np.float32]
Step = Callable[[Ids, Floats], tuple[Floats, Floats]]


CORES = available_cores()
"""On one core nothing is shared."""


class SecondThread:
    """May be asked from several threads at once; the thread ends with it."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    def begin(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call `function` in the thread, once that is free."""
        return self._pool.submit(function, *arguments)

    def share(self, step: Step, ids: Ids, state: Floats, *, rows: int) -> tuple[Floats, Floats]:
        """Return the logits (., B, V) and states (B, S) of a step for ids (T, B) and state (B, S).

        It is done in parts of `rows` rows, of which each of the two threads takes one after another: where
        the other gets no core, this one does most or all.
        """
        if CORES == 1:
            return step(ids, state)
        starts = iter(range(0, ids.shape[1], rows))
        parts: dict[int, tuple[Floats, Floats]] = {}

        def do_parts() -> None:
            for at in starts:  # what one thread takes the other does not get
                part = slice(at, at + rows)
                parts[at] = step(np.ascontiguousarray(ids[:, part]), state[part])

        other = self.begin(do_parts)
        try:
            do_parts()
        finally:
            if not other.cancel():
                other.result()
        logits, states = zip(*(parts[at] for at in sorted(parts)), strict=True)
        return np.concatenate(logits, axis=1), np.concatenate(states)
