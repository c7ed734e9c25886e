"""Waiting for a condition in tests, instead of a fixed sleep."""

import time
from collections.abc import Callable

import pytest

_MIN_PAUSE_S, _MAX_PAUSE_S = 0.02, 0.1
_PAUSE_FRACTION = 0.05  # of the time waited so far: a condition that is slow to come is asked for less often


def eventually(
    condition: Callable[[], object],
    *,
    within_s: float = 120.0,
    what: str = "the condition",
    max_pause_s: float = _MAX_PAUSE_S,
) -> None:
    """Wait until `condition()` is true; fail after `within_s` seconds with a message that names `what`.

    Asking takes processor time from what is waited for. So the pauses grow, up to `max_pause_s`.
    """
    began = time.monotonic()
    while not condition():
        waited_s = time.monotonic() - began
        if waited_s > within_s:
            pytest.fail(f"not within {within_s:g} s: {what}")
        time.sleep(min(max(_MIN_PAUSE_S, waited_s * _PAUSE_FRACTION), max_pause_s))
