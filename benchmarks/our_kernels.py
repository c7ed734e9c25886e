"""Which of our kernels this machine uses: `python -m benchmarks.our_kernels` prints it as JSON.

As in a job, the variants of the products are measured once per machine and kept in the data folder.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from benchmarks.machine import ROOT


def our_kernels(limits: Mapping[str, str]) -> dict[str, Any]:
    """Return what kernels a process with these variables in its environment uses.

    Returns:
        level: the highest instruction set that they are compiled for
        chosen: the variant by product; None where there is none
        measurements: those of `nextchar.models.kernels.variants`, as dictionaries
        folder: the NUMBA_CACHE_DIR that makes other processes use the same; None: there is none
    """
    environment = {**os.environ, **limits}
    if limits:  # measurements are kept by level below the data folder; an inherited folder has one level
        environment.pop("NUMBA_CACHE_DIR", None)
    command = [sys.executable, "-m", "benchmarks.our_kernels"]
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def described(found: Mapping[str, Any]) -> list[str]:
    """Return lines on what `our_kernels` returned."""
    lines = [f"instruction set: {found['level']}"]
    for product, variant in found["chosen"].items():
        measured = [_described(one) for one in found["measurements"] if one["product"] == product]
        reason = f" (measured: {'; '.join(measured)})" if measured else ""
        lines.append(f"nextchar, {product} products: {variant or 'none on this processor'}{reason}")
    return lines


def _described(one: Mapping[str, Any]) -> str:
    if one["failure"]:
        return f"{one['variant']} failed: {one['failure']}"
    speeds = ", ".join(f"{speed:.0f} G/s with {rows} rows" for rows, speed in one["giga_per_s"].items())
    return f"{one['variant']} {speeds}"


def main() -> None:
    """Measure the variants, if this machine has no measurements, and print what is used."""
    from nextchar.models.kernels import variants
    from nextchar.models.kernels.compile_cache import use_cache_folder
    from nextchar.store.settings import StoreSettings

    use_cache_folder(StoreSettings.load().data_dir)  # before numba is imported
    variants.measure()

    from nextchar.models.kernels import selection
    from nextchar.models.kernels.instruction_sets import highest_level

    kernels = {
        "int8": selection.INT8_KERNEL,
        "float32": selection.FLOAT32_KERNEL,
        "bfloat16": selection.BFLOAT16_KERNEL,
    }
    found = {
        "level": highest_level(),
        "chosen": {product: kernel and kernel.name for product, kernel in kernels.items()},
        "measurements": [asdict(one) for one in variants.load()],
        "folder": os.environ.get("NUMBA_CACHE_DIR"),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    main()
