"""The processor of this machine, and the cores and the memory of this process, on Linux and macOS."""

import contextlib
import math
import os
import platform
import re
import resource
import subprocess
import sys
from pathlib import Path

_CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def available_cores() -> int:
    """Return how many cores this process may use, given its CPU affinity and its container's CPU quota."""
    has_affinity = hasattr(os, "sched_getaffinity")  # macOS has none
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, min(cores, _quota_cores()))


def processor_name() -> str:
    """Return the processor's model name, or its architecture if the system does not tell."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if sys.platform == "darwin":
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        fields = dict(re.findall(r"^(.+?)\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE))
        if name := fields.get("model name"):
            return f"{name} (family {fields.get('cpu family')}, model {fields.get('model')})"
    return platform.machine()


def peak_memory_bytes() -> int:
    """Return the peak resident set size of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB on Linux


def _quota_cores() -> int:
    """Return the container's CPU quota in cores, rounded up; sys.maxsize without a quota."""
    try:
        quota, period = _CGROUP_CPU_MAX.read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):  # not in a container, or no limit ("max")
        return sys.maxsize
