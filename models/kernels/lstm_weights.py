"""The weights of the stateful LSTM in NumPy arrays. Compiles nothing."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EPSILON = 1e-3
"""Added to the variance of the embedding."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class LSTMShape:
    """The sizes of a network, and the names and shapes of its weights."""

    layers: int
    units: int
    embedding: int
    vocabulary_size: int
    has_hidden: bool = False
    """Whether a dense relu layer of `units` is before the output."""
    has_coupled_gates: bool = False
    """Whether the input gate is 1 - f, so that there are three gates: f, g, o; else i, f, g, o."""

    @property
    def gate_count(self) -> int:
        """How many gates have weights."""
        return 3 if self.has_coupled_gates else 4

    def weights(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each weight, in the order of the trainable variables."""
        e, h, v, gates = self.embedding, self.units, self.vocabulary_size, self.gate_count * self.units
        shapes: dict[str, tuple[int, ...]] = {"embedding": (v, e), "gamma": (e,), "beta": (e,)}
        for i in range(self.layers):
            inputs = h if i else e
            shapes |= {f"lstm_{i}/kernel": (inputs, gates), f"lstm_{i}/recurrent": (h, gates)}
            shapes |= {f"lstm_{i}/bias": (gates,)}
        shapes |= {"dense/kernel": (h, v), "dense/bias": (v,)}
        if self.has_hidden:
            shapes |= {"hidden/kernel": (h, h), "hidden/bias": (h,)}
        return shapes


class LSTMWeights:
    """Named arrays that are parts of one vector, `flat`, one after the other."""

    def __init__(self, shape: LSTMShape, flat: Floats | None = None) -> None:
        shapes = shape.weights()
        sizes = [int(np.prod(one)) for one in shapes.values()]
        self.flat: Floats = np.zeros(sum(sizes), np.float32) if flat is None else flat
        ends = np.cumsum(sizes).tolist()
        self.parts = {
            name: slice(end - size, end) for name, size, end in zip(shapes, sizes, ends, strict=True)
        }
        self.arrays: dict[str, Floats] = {
            name: self.flat[self.parts[name]].reshape(one) for name, one in shapes.items()
        }

    def __getitem__(self, name: str) -> Floats:
        return self.arrays[name]

    def layer_matrix(self, layer: int) -> Floats:
        """Return the adjacent weights (I + H, 4H or 3H) of a layer's inputs and of its outputs before."""
        first, last = (self.parts[f"lstm_{layer}/{part}"] for part in ("kernel", "recurrent"))
        return self.flat[first.start : last.stop].reshape(-1, self[f"lstm_{layer}/kernel"].shape[1])


def normalized(weights: LSTMWeights, frequencies: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the embedding normalized over the training text.

    Args:
        weights: its table (V, E), gamma and beta.
        frequencies: (V,) relative frequency of each id.

    Returns:
        The table (V, E); before gamma and beta; and the reciprocal deviation (E,).
    """
    table = weights["embedding"]
    centered = table - frequencies @ table
    inverse = 1 / np.sqrt(frequencies @ np.square(centered) + np.float32(EPSILON))
    unscaled = centered * inverse
    return unscaled * weights["gamma"] + weights["beta"], unscaled, inverse


def with_input_gate(gates: Floats, *, sign: int = -1) -> Floats:
    """Return the weights (..., 4H) of all gates from those of coupled ones (..., 3H).

    The input gate 1 - sigmoid(z) is sigmoid(-z), so its weights are those of the forget gate, negated: a
    stock LSTM with them computes the same. `sign` 1 is for arrays that do not change sign with the weights:
    squared gradients do not.
    """
    forget = gates[..., : gates.shape[-1] // 3]
    return np.concatenate([sign * forget, gates], -1)


def without_input_gate(gates: Floats) -> Floats:
    """Return the weights (..., 3H) of coupled gates from those of all (..., 4H); see `with_input_gate`."""
    return gates[..., gates.shape[-1] // 4 :]
