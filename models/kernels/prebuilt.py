"""Kernels that are compiled when a container image is built, for other processors than the build machine's.

Compiled code is cached for one type of processor, and an image runs on many. So
`nextchar.models.kernels.prebuild` compiles the kernels for each level of instructions, into
`prebuilt/<level>` beside this file. A process of such an image compiles for the highest level of which its
processor has all instructions, instead of for its processor, and begins with a copy of that level's folder.
Elsewhere the folder is missing, and this module has no effect.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

FOLDER = Path(__file__).with_name("prebuilt")

_V3 = (
    "avx avx2 bmi bmi2 cmov crc32 cx16 cx8 f16c fma fxsr lzcnt mmx movbe popcnt sahf sse sse2 sse3 sse4.1"
    " sse4.2 ssse3 xsave"
)
_V4 = f"{_V3} avx512bw avx512cd avx512dq avx512f avx512vl"

TARGETS = {
    "amx": ("x86-64-v4", f"{_V4} avx512vnni amx-int8 amx-tile"),
    "avx512": ("x86-64-v4", f"{_V4} avx512vnni"),
    "avxvnni": ("x86-64-v3", f"{_V3} avxvnni"),
    "avx2": ("x86-64-v3", _V3),
}
"""LLVM's names of the processor and the features of each level, highest first."""


def target(features: Iterable[str]) -> Mapping[str, str]:
    """Return numba's settings for the highest prebuilt level of a processor with these features, or none."""
    present = set(features)
    for level, (_, needed) in TARGETS.items():
        if present.issuperset(needed.split()) and (FOLDER / level).is_dir():
            return settings(level)
    return {}


def copy_kernels(folder: Path) -> None:
    """Copy the kernels of this process's level to a cache folder that has none yet. Ignores errors."""
    level = next((one for one in TARGETS if settings(one).items() <= os.environ.items()), None)
    if level is None or any(folder.glob("*.compiled")):
        return
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=folder) as unfinished:
        copy = shutil.copytree(FOLDER / level, Path(unfinished, level))
        # The code first: a mark promises it. Of several processes one renames the folder, the others fail.
        for path in sorted(copy.iterdir(), key=Path.is_file):
            path.rename(folder / path.name)


def settings(level: str) -> dict[str, str]:
    """Return the variables that make a level numba's target."""
    cpu, features = TARGETS[level]
    return {
        "NUMBA_CPU_NAME": cpu,
        "NUMBA_CPU_FEATURES": ",".join(f"+{feature}" for feature in features.split()),
    }
