"""Makes arrays for the products of `packed_arrays` in one number format."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.kernels import packed_arrays
from nextchar.models.kernels.lstm_weights import Floats
from nextchar.models.kernels.selection import BFLOAT16_KERNEL, FLOAT32_KERNEL


class ProductFormat:
    """Makes arrays for products in one number format."""

    def __init__(self, dtype: str) -> None:
        self.is_bfloat16 = dtype == "bfloat16" and packed_arrays.HAS_BFLOAT16
        kernel = (BFLOAT16_KERNEL if self.is_bfloat16 else None) or FLOAT32_KERNEL
        self.panel, self.per_word = kernel.panel, 2 if self.is_bfloat16 else 1

    def activations(self, *shape: int) -> NDArray[Any]:
        """Return zeros (..., K), with whole words."""
        width = -(-shape[-1] // self.per_word) * self.per_word
        return np.zeros((*shape[:-1], width), np.uint16 if self.is_bfloat16 else np.float32)

    def packed(self, k: int, n: int, *, steps: int = 1) -> NDArray[Any]:
        """Return a packed matrix (steps * K, N) of zeros, with whole words for every step."""
        shape = -(-n // self.panel), steps * -(-k // self.per_word), self.panel
        return np.zeros(shape, np.uint32 if self.is_bfloat16 else np.float32)

    def sums(self, *shape: int) -> Floats:
        """Return zeros (..., N), with whole panels."""
        return np.zeros((*shape[:-1], -(-shape[-1] // self.panel) * self.panel), np.float32)
