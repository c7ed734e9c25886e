"""The processor of this machine, and the cores and the memory of this process, on Linux and macOS."""

import math
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

_CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def available_cores() -> int:
    """Return how many cores this process may use, given its CPU affinity and its container's CPU quota."""
    has_affinity = hasattr(os, "sched_getaffinity")  # macOS has none
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, min(cores, _quota_cores()))


class Processor(NamedTuple):
    """A kind of processor; family and model are empty where they do not identify it, as on ARM."""

    name: str
    family: str
    model: str

    def __str__(self) -> str:
        kind = f" (family {self.family}, model {self.model})" if self.family and self.model else ""
        return self.name + kind


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Processor:
    """Return the processor of this machine; its name is its architecture if the system reports none."""
    try:
        lines = [line.partition(":") for line in cpuinfo.read_text().split("\n\n")[0].splitlines()]
    except OSError:  # macOS has none
        name, family, model = map(_sysctl, ("brand_string", "family", "model"))
    else:
        fields = {key.strip(): value.strip() for key, _, value in lines}
        name, family, model = (fields.get(key, "") for key in ("model name", "cpu family", "model"))
    return Processor(name or platform.processor() or platform.machine(), family, model)


def peak_memory_bytes() -> int:
    """Return the peak resident set size of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB on Linux


def is_out_of_memory(error: Exception) -> bool:
    """Return whether memory was exhausted: that of this process, or of a GPU, which TensorFlow reports."""
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"


def _sysctl(key: str) -> str:
    """Return what macOS reports about its processor; "" if it does not, and elsewhere."""
    command = ["/usr/sbin/sysctl", "-n", f"machdep.cpu.{key}"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _quota_cores() -> int:
    """Return the container's CPU quota in cores, rounded up; sys.maxsize without a quota."""
    try:
        quota, period = _CGROUP_CPU_MAX.read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):  # not in a container, or no limit ("max")
        return sys.maxsize
