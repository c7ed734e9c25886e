"""Gives freed memory back to the system.

glibc keeps what is freed below other allocations. Under many clients that is hundreds of megabytes of arrays
of different sizes, which a process would hold until it ends. musl and macOS have no such call; there nothing
is done.
"""

import ctypes
from collections.abc import Callable

TRIM_S = 4.0
"""Interval between two calls of `trim_heap`: the more memory a call gives back, the longer it blocks other
threads."""


def trim_heap() -> None:
    """Give back all free pages of the heap. Takes milliseconds, without Python's lock."""
    if _malloc_trim:
        _malloc_trim(0)


def _find_malloc_trim() -> Callable[[int], int] | None:
    try:
        found = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # TypeError: Windows
        return None
    found.argtypes, found.restype = [ctypes.c_size_t], ctypes.c_int
    return found


_malloc_trim = _find_malloc_trim()
