"""A trainable NumPy array."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
