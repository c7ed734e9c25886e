"""Waiting for a condition in tests, instead of a fixed sleep."""

import time
from collections.abc import Callable

import pytest


def eventually(
    condition: Callable[[], object], *, within_s: float = 120.0, what: str = "the condition"
) -> None:
    """Wait until `condition()` is true; fail after `within_s` seconds with a message that names `what`."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within_s:g} s: {what}")
        time.sleep(0.02)
