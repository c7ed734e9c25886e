"""What a benchmark ran on, and how to limit it to the instructions of another kind of processor."""

import argparse
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nextchar.models.kernels.instruction_sets import VARIABLE, UnknownInstructionSetError, check_level
from nextchar.models.machine import Processor, available_cores, processor

ROOT = Path(__file__).parents[1]

_LOAD_S = 0.5
_XLA_FLAG = "--xla_cpu_max_isa"

# By level: oneDNN in torch and TensorFlow, ATen and MKL in torch, OpenBLAS in NumPy, XLA.
_PEERS_LIMITS = {
    "avx512": ("AVX512_CORE_FP16", "avx512", "AVX512", "SkylakeX", "AVX512_BF16"),
    "avxvnni": ("AVX2_VNNI_2", "avx2", "AVX2", "Haswell", "AVX2"),
    "avx2": ("AVX2", "avx2", "AVX2", "Haswell", "AVX2"),
    "generic": ("SSE41", "default", "SSE4_2", "Nehalem", "SSE4_2"),  # the lowest that they know
}


def machine() -> dict[str, Any]:
    """Return the properties of this machine and of this checkout that affect speed, and the date."""
    name, family, model = processor()
    return {
        "processor": name,
        **({"family": family, "model": model} if family and model else {}),
        "cores": available_cores(),
        "system": platform.system(),
        "python": platform.python_version(),
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": _commit(),
    }


def other_cores_busy() -> float:
    """Return how many cores other processes keep busy now, watched for half a second. Linux only; else 0."""
    began, busy, own = time.perf_counter(), busy_cpu_seconds(), time.process_time()
    time.sleep(_LOAD_S)
    others_s = busy_cpu_seconds() - busy - (time.process_time() - own)
    return max(0.0, others_s / (time.perf_counter() - began))


def busy_cpu_seconds() -> float:
    """Return the CPU seconds used by all processes of this machine. Linux only; else 0."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system = map(int, stat.read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def add_isa_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--isa`, whose value is a level of this processor, or "auto"."""
    parser.add_argument(
        "--isa",
        type=_level,
        default=os.environ.get(VARIABLE) or "auto",
        metavar="amx|avx512|avxvnni|avx2|generic",
        help="limit ours and the peers to these instructions (ONNX Runtime cannot be limited)",
    )


def _level(text: str) -> str:
    try:
        check_level(text)
    except UnknownInstructionSetError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    return text


def limits(level: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that limit us and the peers; a process must have them before it imports anything.

    ONNX Runtime has none, and on ARM only ours are limited.
    """
    if level == "auto":
        return {}
    variables = {VARIABLE: level}
    if level in _PEERS_LIMITS:
        onednn, aten, mkl, openblas, xla = _PEERS_LIMITS[level]
        flags = [flag for flag in environment.get("XLA_FLAGS", "").split() if not flag.startswith(_XLA_FLAG)]
        variables |= {
            "ONEDNN_MAX_CPU_ISA": onednn,
            "ATEN_CPU_CAPABILITY": aten,
            "MKL_ENABLE_INSTRUCTIONS": mkl,
            "OPENBLAS_CORETYPE": openblas,
            "XLA_FLAGS": " ".join([*flags, f"{_XLA_FLAG}={xla}"]),
        }
    return variables


def described(found: Mapping[str, Any]) -> str:
    """Return `machine()` as a line."""
    kind = Processor(found["processor"], found.get("family", ""), found.get("model", ""))
    commit = f", commit {found['commit']}" if found["commit"] else ""
    return (
        f"{kind}, {found['cores']} cores, {found['system']},"
        f" Python {found['python']}; {found['date']}{commit}"
    )


def _commit() -> str | None:
    """Return the commit of this checkout, with -dirty if files differ from it; None if it is none."""
    if not (ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None
