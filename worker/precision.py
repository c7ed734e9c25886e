"""Which precision of matrix products is faster here: bfloat16 or float32, by a measurement.

Processors differ: with AVX-512 BF16, one multiplies bfloat16 numbers twice as fast as float32 ones, another
hardly faster, and converting costs more than that gains. So the kernels are timed before a run, at its sizes,
in both precisions alternately. The result is kept beside the compiled code, so that later jobs choose alike.
"""

import contextlib
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.config import NetworkConfig
from worker.settings import Precision

FILE_NAME = "precision.json"

_MIN_SPEEDUP = 1.05  # below it, bfloat16 is not worth its lower accuracy
_ENOUGH_S = 0.3
_ROUNDS = (2, 20)  # at least, at most
_MAX_WINDOW = 32  # steps; more take longer and measure the same
_VOCABULARY_STEP = 64  # characters; texts with nearly as many share a measurement

Seconds = dict[str, float]  # of one window, by the dtype of the products


@dataclass(frozen=True)
class Choice:
    """The precision to train in. `bfloat16_speedup` is the speed over float32's; None: not measured."""

    precision: Precision
    bfloat16_speedup: float | None = None

    def to_meta(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> "Choice":
        """Return what `to_meta` gave; checkpoints from before there was a choice are `mixed`."""
        return cls(meta.get("precision", "mixed"), meta.get("bfloat16_speedup"))

    @property
    def sentence(self) -> str:
        """What was measured, and what follows from it."""
        assert self.bfloat16_speedup is not None
        chosen = "bfloat16" if self.precision == "mixed" else "float32"
        return (
            f"bfloat16: {self.bfloat16_speedup:.2f} times the speed of float32 on this processor;"
            f" matrix products are in {chosen}"
        )


def choose(
    config: NetworkConfig, *, rows: int, window: int, vocabulary_size: int, kept_in: Path | None
) -> Choice:
    """Return the faster precision on the CPU, measured now or earlier.

    Args:
        config: of a network that the kernels of `models.kernels.tensorflow_ops` train.
        rows: B, of the replica of one core.
        window: T.
        vocabulary_size: V.
        kept_in: the folder for what is valid on this kind of machine only; None: nothing is kept.
    """
    from models.kernels import tensorflow_ops  # imports TensorFlow

    if not tensorflow_ops.HAS_BFLOAT16:
        return Choice("float32")
    columns = -(-vocabulary_size // _VOCABULARY_STEP) * _VOCABULARY_STEP
    sizes = {
        "layers": config.layers,
        "units": config.units,
        "rows": rows,
        "window": min(window, _MAX_WINDOW),
        "vocabulary_size": columns,
    }
    key = ", ".join(f"{name} {value}" for name, value in sizes.items())
    seconds = _kept(kept_in).get(key)
    if seconds is None:
        seconds = _measure(sizes)
        _keep(kept_in, key, seconds)
    speedup = seconds["float32"] / seconds["bfloat16"]
    return Choice("mixed" if speedup >= _MIN_SPEEDUP else "float32", round(speedup, 3))


def _measure(sizes: dict[str, int]) -> Seconds:
    """Time both alternately and return the least of each: other work on the machine only adds to it."""
    from models.kernels import tensorflow_ops

    found: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    began = time.monotonic()
    least, most = _ROUNDS
    for done in range(most):
        if done >= least and time.monotonic() - began > _ENOUGH_S:
            break
        for dtype, seconds in found.items():
            seconds.append(tensorflow_ops.window_seconds(**sizes, dtype=dtype))
    return {dtype: min(seconds) for dtype, seconds in found.items()}


def _kept(folder: Path | None) -> dict[str, Seconds]:
    try:
        found: Any = json.loads((folder / FILE_NAME).read_bytes()) if folder else {}
        return {
            key: {dtype: float(of[dtype]) for dtype in ("float32", "bfloat16") if float(of[dtype]) > 0}
            for key, of in found.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none yet, or damaged: measured again
        return {}


def _keep(folder: Path | None, key: str, seconds: Seconds) -> None:
    if folder is None:
        return
    with contextlib.suppress(OSError), tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
        json.dump(_kept(folder) | {key: seconds}, file, indent=1)
        file.close()
        Path(file.name).replace(folder / FILE_NAME)
