"""Measures which precision of matrix products trains faster on this machine: bfloat16 or float32.

With AVX-512 BF16 some processors multiply bfloat16 twice as fast as float32; others gain less than the
conversion costs. So the kernels are timed before a run, at its sizes, in both precisions alternately. The
result is kept beside the compiled code, so later jobs make the same choice.

What decides the last bits of a training run, so that a resumed run can report when it has changed.

The sum of float32 numbers depends on their order. One kernel keeps it; others have another order, another
number format of factors, or no fused multiply-add. Replicas split the rows over which gradients are summed.
Another version of nextchar, or of TensorFlow where it trains, may compute differently. So may, where
gradients are preconditioned, another version of NumPy or kind of processor. The number of threads changes
nothing.
"""

import contextlib
import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nextchar.models import installed_version
from nextchar.models.architectures import architecture
from nextchar.models.config import NetworkConfig
from nextchar.models.kernels.instruction_sets import available_levels
from nextchar.models.kernels.lstm_weights import LSTMShape, LSTMWeights
from nextchar.worker.devices import gpus
from nextchar.worker.rows import replicas_of
from nextchar.worker.settings import Precision

FILE_NAME = "precision.json"

_MIN_SPEEDUP = 1.05  # below it, bfloat16 is not worth its lower accuracy
_MEASUREMENT_S = 0.3
_MIN_ROUNDS, _MAX_ROUNDS = 2, 20
_MAX_WINDOW = 32  # steps; longer windows give the same ratio
_VOCABULARY_STEP = 64  # vocabulary sizes are rounded up to a multiple of this, to share measurements

Seconds = dict[str, float]  # per window, by the dtype of the products


@dataclass(frozen=True)
class PrecisionChoice:
    """The precision to train in. `bfloat16_speedup` is relative to float32; None: not measured."""

    precision: Precision
    bfloat16_speedup: float | None = None

    @property
    def sentence(self) -> str:
        """The measurement and the choice, for the job's messages."""
        assert self.bfloat16_speedup is not None
        dtype = "bfloat16" if self.precision == "mixed" else "float32"
        return (
            f"bfloat16: {self.bfloat16_speedup:.2f} times the speed of float32 on this processor;"
            f" matrix products are in {dtype}"
        )


def choose_precision(
    config: NetworkConfig, *, rows: int, window: int, vocabulary_size: int, folder: Path | None
) -> PrecisionChoice:
    """Return the faster precision on the CPU for B rows per core, measured now or earlier.

    The network is one that the kernels of `nextchar.models.kernels.lstm_window` train. `folder` keeps
    measurements of this kind of machine; None keeps nothing.
    """
    from nextchar.models.kernels import packed_arrays  # compiles

    if not packed_arrays.HAS_BFLOAT16:
        return PrecisionChoice("float32")
    rounded_size = -(-vocabulary_size // _VOCABULARY_STEP) * _VOCABULARY_STEP
    shape = LSTMShape(
        config.layers,
        config.units,
        config.embedding or 0,
        rounded_size,
        has_coupled_gates=config.coupled_gates,
    )
    window = min(window, _MAX_WINDOW)
    key = ", ".join(f"{name} {value}" for name, value in asdict(shape).items())
    key += f", rows {rows}, window {window}"
    seconds = _load_measurements(folder).get(key)
    if seconds is None:
        seconds = _measure(shape, rows=rows, window=window)
        _save_measurement(folder, key, seconds)
    speedup = seconds["float32"] / seconds["bfloat16"]
    return PrecisionChoice("mixed" if speedup >= _MIN_SPEEDUP else "float32", round(speedup, 3))


def _measure(shape: LSTMShape, *, rows: int, window: int) -> Seconds:
    """Time both alternately and return the minimum of each, which other load on the machine changes least."""
    timers = {
        dtype: _timer(shape, rows=rows, window=window, dtype=dtype) for dtype in ("float32", "bfloat16")
    }
    durations: dict[str, list[float]] = {dtype: [] for dtype in timers}
    began = time.monotonic()
    for round_number in range(_MAX_ROUNDS):
        if round_number >= _MIN_ROUNDS and time.monotonic() - began > _MEASUREMENT_S:
            break
        for dtype, seconds in durations.items():
            seconds.append(timers[dtype]())
    return {dtype: min(seconds) for dtype, seconds in durations.items()}


def _timer(shape: LSTMShape, *, rows: int, window: int, dtype: str) -> Callable[[], float]:
    """Return a function that computes the gradients of a window and returns the CPU seconds it took.

    CPU time is nearly independent of other load on the machine. All weights and the text are random.
    """
    from nextchar.models.kernels.lstm_window import LSTMWindow  # compiles

    random = np.random.default_rng(0)
    frequencies = np.full(shape.vocabulary_size, 1 / shape.vocabulary_size, np.float32)
    timed = LSTMWindow(shape, frequencies, rows=rows, window=window, dtype=dtype)
    weights, gradient = LSTMWeights(shape), LSTMWeights(shape)
    weights.flat[:] = random.normal(0, 0.1, weights.flat.size)
    ids = random.integers(0, shape.vocabulary_size, (window, rows)).astype(np.int32)
    state = [
        (np.zeros((rows, shape.units), np.float32), np.zeros((rows, shape.units), np.float32))
        for _ in range(shape.layers)
    ]

    def seconds() -> float:
        started = time.thread_time()
        timed.run(weights, ids, ids, state, gradient)
        return time.thread_time() - started

    return seconds


def _load_measurements(folder: Path | None) -> dict[str, Seconds]:
    try:
        stored: Any = json.loads((folder / FILE_NAME).read_bytes()) if folder else {}
        return {
            key: {dtype: float(value[dtype]) for dtype in ("float32", "bfloat16") if float(value[dtype]) > 0}
            for key, value in stored.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # missing or damaged: measure again
        return {}


def _save_measurement(folder: Path | None, key: str, seconds: Seconds) -> None:
    if folder is None:
        return
    with contextlib.suppress(OSError), tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
        json.dump(_load_measurements(folder) | {key: seconds}, file, indent=1)
        file.close()
        Path(file.name).replace(folder / FILE_NAME)


@dataclass(frozen=True)
class Numerics:
    """What the last bits of some steps depend on; `nextchar.models.report.Numerics` explains the fields.

    Equal ones give the same bits from the same checkpoint, on CPUs.
    """

    product: str
    variant: str
    replicas: int
    tensorflow: str | None
    nextchar: str
    from_step: int = field(default=0, compare=False)

    def sentence_after(self, before: "Numerics", *, has_dropout: bool) -> str:
        """Return the message of a run that continues with these numerics, after steps with others."""
        names = {
            "other kernels": [f"{one.product} {one.variant}" for one in (before, self)],
            "another number of replicas": [f"{one.replicas}" for one in (before, self)],
            "another version of nextchar": [one.nextchar for one in (before, self)],
        }
        is_tensorflow = [one.tensorflow is not None for one in (before, self)]
        if all(is_tensorflow):
            names["another version of TensorFlow"] = [f"{one.tensorflow}" for one in (before, self)]
        changes = [f"{name} (from {old} to {new})" for name, (old, new) in names.items() if old != new]
        sentence = (
            f"the run continues with {' and '.join(changes)}, so its result can differ in the last bits from"
            " that of an uninterrupted run"
        )
        if has_dropout and (self.replicas != before.replicas or len({*is_tensorflow}) > 1):
            sentence += "; dropout masks differ, too"
        return sentence


def numerics_here(config: NetworkConfig, precision: Precision, *, rows: int, cores: int) -> Numerics:
    """Return the numerics of training B = `rows` in this process, on GPUs or on at most `cores` cores."""
    kind = architecture(config.architecture)
    devices = [] if kind.step else gpus()
    replicas = 1 if kind.step else replicas_of(rows, max_replicas=len(devices) or cores)
    if kind.build_for_kernels and not devices:
        return Numerics(*_kernel(precision), replicas, None, installed_version())
    import tensorflow as tf  # takes seconds

    product = "float16" if devices and precision == "mixed" else "float32"
    variant = _gpu_name() if devices else _library_variant()
    return Numerics(product, variant, replicas, tf.__version__, installed_version())


def _kernel(precision: Precision) -> tuple[str, str]:
    """Return the product and the variant of our own kernels."""
    from nextchar.models.kernels.selection import BFLOAT16_KERNEL, FLOAT32_KERNEL  # imports numba

    if precision == "mixed" and BFLOAT16_KERNEL:
        return "bfloat16", BFLOAT16_KERNEL.name
    return "float32", FLOAT32_KERNEL.name


def _library_variant() -> str:
    """Return the variant of products by TensorFlow or NumPy, which NEXTCHAR_ISA does not limit."""
    return f"library-{next(iter(available_levels()), platform.machine())}"


def _gpu_name() -> str:
    import tensorflow as tf

    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return next((str(one["device_name"]) for one in details if "device_name" in one), "GPU")
