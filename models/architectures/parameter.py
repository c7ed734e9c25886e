"""A trainable NumPy array."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.kernels.lstm_weights import with_input_gate, without_input_gate

Floats = NDArray[np.floating[Any]]


class Parameter:
    """An array with the methods of a variable that training uses."""

    def __init__(self, value: Floats) -> None:
        self.value = value
        self.shape = value.shape

    def numpy(self) -> Floats:
        """Return a copy."""
        return self.value.copy()

    def assign(self, value: Floats) -> None:
        """Set the value."""
        self.value[...] = value


class CoupledGates(Parameter):
    """Weights (..., 3H) of LSTM gates f, g, o, with the methods of a variable (..., 4H) of i, f, g, o.

    `sign`: see `nextchar.models.kernels.lstm_weights.with_input_gate`.
    """

    def __init__(self, value: Floats, *, sign: int = -1) -> None:
        super().__init__(value)
        self._sign = sign
        self.shape = (*value.shape[:-1], value.shape[-1] // 3 * 4)

    def numpy(self) -> Floats:
        """Return a copy with the input gate."""
        return with_input_gate(self.value, sign=self._sign)

    def assign(self, value: Floats) -> None:
        """Set the value; its input gate is left out."""
        self.value[...] = without_input_gate(value)
