"""Which variant of each product is used on this machine: measured once, kept with the compiled code.

Variants run in a child process first, where an illegal instruction or a wrong result cannot harm the service.
`measure` runs every variant that the processor should be able to run, and the fastest one that passes is
chosen. `check` takes the widest one that passes, which is nearly always the same and needs a quarter of the
time. The result is kept in `variants.json` in the folder of `nextchar.models.kernels.compile_cache`, which is
specific to a processor, a compiler and these sources; a process uses what was chosen when it loaded its
kernels. Without a folder the widest variants are used, unchecked.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

from nextchar.models.die_with_parent import bound

log = logging.getLogger("nextchar.kernels")

FILE_NAME = "variants.json"

_TIMEOUT_S = 300.0
"""Time limit of one run of the child, which takes about 5 s of processor time, and much longer under an
emulator.

Not longer, because a worker waits, and a container's health check gives it that time to start.
"""
_CRASH_SIGNALS = {signal.SIGILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT}
"""What a variant can end its process by. Other signals are sent to it, as SIGKILL if memory is exhausted."""

IMPORT_FOLDER = Path(__file__).absolute().parents[__name__.count(".")]
"""The folder from which nextchar is imported, for child processes: clients/python, or site-packages."""


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
    return _stored()[0]


def is_complete() -> bool:
    """Return whether all variants were measured on this machine."""
    return _stored()[1]


def is_checked(product: str) -> bool:
    """Return whether variants of a product were run on this machine."""
    return any(one.product == product for one in load())


def _stored() -> tuple[list[Measurement], bool]:
    """Return the measurements, and whether they are of all variants."""
    if not (folder := os.environ.get("NUMBA_CACHE_DIR")):
        return [], False
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
        stored: Any = json.loads(Path(folder, FILE_NAME).read_bytes())
        return [Measurement(**one) for one in stored["measurements"]], bool(stored["is_complete"])
    return [], False


def chosen(measurements: Iterable[Measurement]) -> dict[str, str]:
    """Return the fastest variant of each product that passed the check; no entry if none did."""
    best: dict[str, Measurement] = {}
    for one in measurements:
        if not one.failure and (one.product not in best or one.speed > best[one.product].speed):
            best[one.product] = one
    return {product: one.variant for product, one in best.items()}


def measure() -> None:
    """Measure all variants, unless this machine's folder has their measurements. Takes some seconds.

    A failure is logged and raises nothing.
    """
    folder = _folder()
    if not folder or is_complete():
        return
    measurements, is_killed = _measured_in_child()
    _log_failures(measurements)
    for product, variant in chosen(measurements).items():
        rivals = ", ".join(described(one) for one in measurements if one.product == product)
        log.info("%s products use %s; measured: %s", product, variant, rivals)
    _write(folder, measurements, is_complete=bool(measurements) and not is_killed)


def check(product: str) -> None:
    """Find a variant of a product that works, unless this machine's folder has one. Takes about a second.

    A failure is logged and raises nothing.
    """
    folder = _folder()
    if not folder or is_checked(product):
        return
    measurements, _ = _measured_in_child("--first", product)
    _log_failures(measurements)
    _write(folder, load() + measurements, is_complete=False)


def _folder() -> Path | None:
    folder = os.environ.get("NUMBA_CACHE_DIR")
    return Path(folder) if folder and Path(folder).is_dir() else None


def _log_failures(measurements: Iterable[Measurement]) -> None:
    for one in measurements:
        if one.failure:
            log.warning(
                "the %s variant of %s products is not used on this machine: %s",
                one.variant,
                one.product,
                one.failure,
            )


def described(one: Measurement) -> str:
    """Return the variant and its speed, for a log."""
    if one.failure:
        return f"{one.variant} failed ({one.failure})"
    speeds = ", ".join(f"{rows} rows {speed:.0f}" for rows, speed in one.giga_per_s.items())
    return f"{one.variant} {speeds} G/s"


def _measured_in_child(*options: str) -> tuple[list[Measurement], bool]:
    """Run `nextchar.models.kernels.measurement`, again without a variant that crashed it.

    Returns:
        The measurements, none if it cannot start; and whether it was killed, so that some are missing.
    """
    measurements: list[Measurement] = []
    while True:
        known = [f"{one.product}:{one.variant}" for one in measurements]
        command = bound(sys.executable, "-m", f"{__package__}.measurement", *options, *known)
        try:
            child = subprocess.run(
                command, cwd=IMPORT_FOLDER, check=False, capture_output=True, text=True, timeout=_TIMEOUT_S
            )
            status: int | None = child.returncode
            ended, printed, said = f"its process ended with status {status}", child.stdout, child.stderr
        except subprocess.TimeoutExpired as error:
            status, ended, said = None, f"it took longer than {_TIMEOUT_S:.0f} s", ""
            printed = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else ""
        except OSError as error:  # of starting it, which says nothing about the variants
            log.warning("kernels could not be measured: %s", error)
            return [], False
        running: Measurement | None = None
        for line in printed.splitlines():
            with contextlib.suppress(ValueError, TypeError):
                one = Measurement(**json.loads(line))
                is_result = bool(one.giga_per_s or one.failure)
                if is_result:
                    measurements.append(one)
                running = None if is_result else one
        if status == 0:
            return measurements, False
        is_killed = status is not None and status < 0 and -status not in _CRASH_SIGNALS
        if running is None or is_killed:
            log.warning("kernels could not be measured: %s %s", ended, said.strip()[-500:])
            return measurements, is_killed
        measurements.append(replace(running, failure=ended))


def _write(folder: Path, measurements: list[Measurement], *, is_complete: bool) -> None:
    content = {"is_complete": is_complete, "measurements": [asdict(one) for one in measurements]}
    with contextlib.suppress(OSError):
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(folder / FILE_NAME)
