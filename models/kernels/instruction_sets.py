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

AMX counts as missing where Linux does not give this process the tile registers.

Numba reads its target when it is imported, so `limit_target` is called by this package's `__init__`.
"""

import ctypes
import os
import platform
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from nextchar.models.kernels import prebuilt

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
"""The levels of each architecture, highest first, each with the LLVM feature that identifies a processor of
it."""

_DISABLED_FEATURES = {
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
"""The prefixes of the names of the features that each level disables."""

_LINUX_NAMES = {"neon": "asimd", "dotprod": "asimddp", "i8mm": "i8mm", "bf16": "bf16"}
"""ARM64: LLVM's and Linux's names of features. Of these LLVM 22 detects neon only."""

_CPU_INFO = Path("/proc/cpuinfo")


class UnknownInstructionSetError(ValueError):
    """A value of NEXTCHAR_ISA names no level of this processor."""


def target_features() -> frozenset[str]:
    """Return the LLVM names of the features that kernels are compiled for, such as `avx2`."""
    if (flattened := os.environ.get("NUMBA_CPU_FEATURES")) is not None:
        return _permitted(name[1:] for name in flattened.split(",") if name.startswith("+"))
    return frozenset(name for name, present in _host_features().items() if present)


@cache
def has_tile_registers() -> bool:
    """Ask Linux for AMX's tile registers; return whether this process may use them.

    It must have asked before its first instruction on them. The answer holds for all its threads, but not for
    programs that it starts. See "Using XSTATE features in user space applications" in Linux's documentation.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return bool(ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0)


def available_levels() -> list[str]:
    """Return the levels that this processor has, highest first."""
    features = _host_features()
    return [level for level, feature in _levels().items() if features.get(feature)]


def highest_level() -> str:
    """Return the highest level that kernels are compiled for."""
    features = target_features()
    return next((level for level, feature in _levels().items() if feature in features), "generic")


def check_level(level: str) -> None:
    """Check a value of NEXTCHAR_ISA; "" is auto.

    Raises:
        UnknownInstructionSetError: it is not a level, or one that this processor lacks.
    """
    if level not in {"", "auto"} and level not in available_levels():
        raise UnknownInstructionSetError(
            f"this processor has {', '.join(available_levels())}; use one of these, or auto"
        )


def limit_target(environment: Mapping[str, str] = os.environ) -> None:
    """Apply NEXTCHAR_ISA to this process and its children. Must be called before numba is imported.

    Without a limit, numba compiles for the level of `nextchar.models.kernels.prebuilt` in a container image,
    and else for what LLVM detects; on ARM64, what Linux reports is added.

    Raises:
        UnknownInstructionSetError: it names no level, or one that this processor lacks.
    """
    level = environment.get(VARIABLE, "")
    check_level(level)
    if level in {"", "auto"}:
        if "NUMBA_CPU_FEATURES" in environment:
            return
        if prebuilt.FOLDER.is_dir():
            present = (name for name, is_present in _host_features().items() if is_present)
            if settings := prebuilt.target(present):
                os.environ.update(settings)
                return
        if not _arm_features():
            return
        level = available_levels()[0]
    features = (
        f"{'+' if present and not name.startswith(_DISABLED_FEATURES[level]) else '-'}{name}"
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
        features = dict(binding.get_host_cpu_features())
    except RuntimeError:  # unknown to LLVM on some systems
        return _arm_features()
    permitted = _permitted(name for name, present in features.items() if present)
    return {name: name in permitted for name in features} | _arm_features()


def _arm_features() -> dict[str, bool]:
    """Return what Linux reports on ARM64; nothing elsewhere."""
    if _machine() != "aarch64" or not _CPU_INFO.exists():
        return {}
    lines = _CPU_INFO.read_text().splitlines()
    names = {name for line in lines if line.startswith("Features") for name in line.split()}
    return {feature: name in names for feature, name in _LINUX_NAMES.items()}


def _permitted(features: Iterable[str]) -> frozenset[str]:
    """Return these features without AMX's, unless Linux gives this process tile registers."""
    names = frozenset(features)
    if "amx-tile" not in names or has_tile_registers():
        return names
    return frozenset(name for name in names if not name.startswith("amx"))


def _host_name() -> str:
    from llvmlite import binding

    return str(binding.get_host_cpu_name())
