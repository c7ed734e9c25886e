"""Measures which precision of matrix products trains faster on this machine: bfloat16 or float32.

With AVX-512 BF16 some processors multiply bfloat16 twice as fast as float32; others gain less than the
conversion costs. So the kernels are timed before a run, at its sizes, in both precisions alternately. The
result is kept beside the compiled code, so later jobs make the same choice.
"""

import contextlib
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nextchar.models.config import NetworkConfig
from nextchar.models.kernels.lstm_weights import LSTMShape, LSTMWeights
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
