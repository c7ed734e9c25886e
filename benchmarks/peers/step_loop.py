"""A step loop of `benchmarks.step_loops` in a process of its own."""

from collections.abc import Callable
from typing import Any, Literal

from benchmarks.networks import CHARACTERS, random_weights
from benchmarks.peers.steps import keras_versions, timed, torch_versions
from benchmarks.step_loops import KerasLoop, TorchLoop

Library = Literal["keras", "torch"]


def prepare(
    *, library: Literal["keras", "torch"], layers: int, units: int
) -> Callable[[float], dict[str, Any]]:
    """Return the Turn; each step is a keystroke."""
    kind = KerasLoop if library == "keras" else TorchLoop
    loop = kind(random_weights(layers, units), layers, units)
    loop.read(CHARACTERS)
    return timed(lambda: loop.keystroke("a"))


def versions(*, library: Library, **_: object) -> str:
    """Return the versions of the libraries."""
    return keras_versions() if library == "keras" else torch_versions()
