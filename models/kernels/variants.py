"""Which variant of each product is used on this machine: measured once, kept with the compiled code.

`measure` runs every variant that the processor should be able to run in a child process, where an illegal
instruction or a wrong result cannot harm the service. The fastest one that passes is chosen, and the result
is kept in `variants.json` in the folder of `models.kernels.compile_cache`, which is specific to a processor,
a compiler and these sources. Without a folder the variants are not measured, and the widest one is used.
"""

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

log = logging.getLogger("nextchar.kernels")

FILE_NAME = "variants.json"

_TIMEOUT_S = 300.0
"""Of one run of the child, which takes about 5 s of processor time, under an emulator many times that.

Not longer, because a worker waits, and a container's health check gives it that time to start.
"""
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Measurement:
    """One variant of one product on this machine."""

    product: str
    """int8, float32 or bfloat16."""
    variant: str
    failure: str = ""
    """Why it cannot be used; empty if it passed the check."""
    giga_per_s: dict[str, float] = field(default_factory=dict)
    """10**9 multiplications and additions per second on one core, by the rows of activations."""

    @property
    def speed(self) -> float:
        """The geometric mean over the numbers of rows."""
        speeds = self.giga_per_s.values()
        return float(prod(speeds) ** (1 / len(speeds))) if speeds else 0.0


def load() -> list[Measurement]:
    """Return the measurements on this machine; none if there are none, or the file is damaged."""
    if not (folder := os.environ.get("NUMBA_CACHE_DIR")):
        return []
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        stored: Any = json.loads(Path(folder, FILE_NAME).read_bytes())
        return [Measurement(**one) for one in stored]
    return []


def chosen(measurements: Iterable[Measurement]) -> dict[str, str]:
    """Return the fastest variant of each product that passed the check; no entry if none did."""
    best: dict[str, Measurement] = {}
    for one in measurements:
        if not one.failure and (one.product not in best or one.speed > best[one.product].speed):
            best[one.product] = one
    return {product: one.variant for product, one in best.items()}


def measure() -> None:
    """Measure the variants, unless this machine's folder has measurements. Takes some seconds.

    A failure is logged and raises nothing.
    """
    folder = os.environ.get("NUMBA_CACHE_DIR")
    if not folder or not Path(folder).is_dir() or load():
        return
    measurements = _measured_in_child()
    for one in measurements:
        if one.failure:
            log.warning(
                "the %s variant of %s products is not used on this machine: %s",
                one.variant,
                one.product,
                one.failure,
            )
    for product, variant in chosen(measurements).items():
        rivals = ", ".join(described(one) for one in measurements if one.product == product)
        log.info("%s products use %s; measured: %s", product, variant, rivals)
    with contextlib.suppress(OSError):
        _write(Path(folder), measurements)


def described(one: Measurement) -> str:
    """Return the variant and its speed, for a log."""
    if one.failure:
        return f"{one.variant} failed ({one.failure})"
    speeds = ", ".join(f"{rows} rows {speed:.0f}" for rows, speed in one.giga_per_s.items())
    return f"{one.variant} {speeds} G/s"


def _measured_in_child() -> list[Measurement]:
    """Run `models.kernels.measurement`, again without a variant that crashed it."""
    measurements: list[Measurement] = []
    while True:
        known = [f"{one.product}:{one.variant}" for one in measurements]
        command = [sys.executable, "-m", f"{__package__}.measurement", *known]
        try:
            child = subprocess.run(
                command, cwd=_ROOT, check=False, capture_output=True, text=True, timeout=_TIMEOUT_S
            )
            ended = f"its process ended with status {child.returncode}"
            printed, is_complete, said = child.stdout, child.returncode == 0, child.stderr
        except subprocess.TimeoutExpired as error:
            ended, is_complete, said = f"it took longer than {_TIMEOUT_S:.0f} s", False, ""
            printed = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else ""
        running: Measurement | None = None
        for line in printed.splitlines():
            with contextlib.suppress(ValueError, TypeError):
                one = Measurement(**json.loads(line))
                is_result = bool(one.giga_per_s or one.failure)
                if is_result:
                    measurements.append(one)
                running = None if is_result else one
        if is_complete:
            return measurements
        if running is None:
            log.warning("kernels could not be measured: %s %s", ended, said.strip()[-500:])
            return measurements
        measurements.append(replace(running, failure=ended))


def _write(folder: Path, measurements: list[Measurement]) -> None:
    with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
        json.dump([asdict(one) for one in measurements], file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(folder / FILE_NAME)
