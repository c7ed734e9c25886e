"""The vector instructions that kernels may use, and NEXTCHAR_ISA, which limits them.

Kernels are compiled for the processor they run on. NEXTCHAR_ISA takes away what is above one level, so that a
machine shows how another kind of machine would run, and so that faulty instructions can be avoided:

    amx         all that there is
    avx512      without AMX
    avxvnni     without AVX-512
    avx2        without dot products of bytes
    generic     SSE2, the base of x86-64
    dotprod     all that there is, on ARM64
    neon        without dot products, the base of ARM64

Numba reads its target when it is imported, so `limit_target` is called by this package's `__init__`.
"""

import os
import platform
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "NEXTCHAR_ISA"

LEVELS: Mapping[str, Mapping[str, str]] = {
    "x86_64": {
        "amx": "amx-tile",
        "avx512": "avx512f",
        "avxvnni": "avxvnni",
        "avx2": "avx2",
        "generic": "sse2",
    },
    "aarch64": {"dotprod": "dotprod", "neon": "neon"},
}
"""By architecture: the levels, highest first, each with the LLVM feature that marks a processor of it."""

_ABOVE = {
    "amx": (),
    "avx512": ("amx", "avx10"),
    "avxvnni": ("amx", "avx10", "avx512"),
    "avx2": ("amx", "avx10", "avx512", "avxvnni", "avxifma", "avxneconvert"),
    "generic": (
        *("amx", "avx", "fma", "f16c", "xop", "vaes", "vpclmulqdq", "gfni", "sha", "sm3", "sm4"),
        *("sse3", "ssse3", "sse4", "bmi", "lzcnt", "movbe"),
    ),
    "dotprod": (),
    "neon": ("dotprod", "i8mm", "bf16", "fullfp16", "fp16fml", "sve", "sme"),
}
"""By level: how the names of the features begin that it takes away."""

_LINUX_NAMES = {"neon": "asimd", "dotprod": "asimddp", "i8mm": "i8mm", "bf16": "bf16"}
"""ARM64: LLVM's and Linux's names of features. Of these LLVM 22 detects neon only."""

_CPU_INFO = Path("/proc/cpuinfo")


class UnknownInstructionSetError(ValueError):
    """NEXTCHAR_ISA names no level of this processor."""


def target_features() -> frozenset[str]:
    """Return the LLVM names of the features that kernels are compiled for, such as `avx2`."""
    if (flattened := os.environ.get("NUMBA_CPU_FEATURES")) is not None:
        return frozenset(name[1:] for name in flattened.split(",") if name.startswith("+"))
    return frozenset(name for name, present in _host_features().items() if present)


def available_levels() -> list[str]:
    """Return the levels that this processor has, highest first."""
    features = _host_features()
    return [level for level, feature in _levels().items() if features.get(feature)]


def highest_level() -> str:
    """Return the highest level that kernels are compiled for."""
    features = target_features()
    return next((level for level, feature in _levels().items() if feature in features), "generic")


def limit_target(environment: Mapping[str, str] = os.environ) -> None:
    """Apply NEXTCHAR_ISA to this process and its children. Must be called before numba is imported.

    Without a limit, numba compiles for what LLVM detects; on ARM64, what Linux reports is added.

    Raises:
        UnknownInstructionSetError: it names no level, or one that this processor lacks.
    """
    level = environment.get(VARIABLE, "")
    if level in {"", "auto"}:
        if "NUMBA_CPU_FEATURES" in environment or not _arm_features():
            return
        level = available_levels()[0]
    elif level not in available_levels():
        levels = ", ".join(available_levels())
        raise UnknownInstructionSetError(
            f"{VARIABLE}={level}: this processor has {levels}; use one of these, or auto"
        )
    features = (
        f"{'+' if present and not name.startswith(_ABOVE[level]) else '-'}{name}"
        for name, present in sorted(_host_features().items())
    )
    os.environ["NUMBA_CPU_NAME"] = _host_name()
    os.environ["NUMBA_CPU_FEATURES"] = ",".join(features)


def _levels() -> Mapping[str, str]:
    return LEVELS.get(_machine(), {})


def _machine() -> str:
    return {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())


def _host_features() -> dict[str, bool]:
    from llvmlite import binding  # takes 40 ms

    try:
        return dict(binding.get_host_cpu_features()) | _arm_features()
    except RuntimeError:  # unknown to LLVM on some systems
        return _arm_features()


def _arm_features() -> dict[str, bool]:
    """Return what Linux reports on ARM64; nothing elsewhere."""
    if _machine() != "aarch64" or not _CPU_INFO.exists():
        return {}
    lines = _CPU_INFO.read_text().splitlines()
    names = {name for line in lines if line.startswith("Features") for name in line.split()}
    return {feature: name in names for feature, name in _LINUX_NAMES.items()}


def _host_name() -> str:
    from llvmlite import binding

    return str(binding.get_host_cpu_name())
