"""What this process may use of the machine, asked for in a way that works on Linux and on macOS."""

import math
import os
import resource
import sys
from pathlib import Path

_CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def available_cores() -> int:
    """Return how many cores this process may use: by its affinity, and by its container's CPU quota."""
    has_affinity = hasattr(os, "sched_getaffinity")  # macOS has none
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, min(cores, _quota()))


def peak_memory_bytes() -> int:
    """Return the most memory that this process has had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB on Linux


def _quota() -> int:
    """Return the cores that a container's CPU quota comes to, rounded up; a large number without one."""
    try:
        quota, period = _CGROUP_CPU_MAX.read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):  # no container, or "max"
        return sys.maxsize
