"""Memory that is given back."""

import ctypes
import subprocess
import sys

import pytest

# Freed blocks stay with the process, because one in use lies above them.
_PROGRAM = """
import numpy as np
from nextchar.app.operations.room import trim_heap

def resident_mib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) >> 10

blocks = [np.ones(100_000, np.uint8) for _ in range(1_000)]
above = np.ones(100_000, np.uint8)
del blocks
before = resident_mib()
trim_heap()
print(before - resident_mib())
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc"
)
def test_freed_memory_below_blocks_in_use_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 80
