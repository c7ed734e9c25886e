"""Applies `worker.preconditioner` to a gradient by the kernels of `models.kernels`, on several threads."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.kernels import packed_arrays
from nextchar.models.kernels.lstm_weights import Floats
from nextchar.models.kernels.packed_arrays import ProductFormat
from nextchar.worker.preconditioner import Preconditioner, is_observed, is_preconditioned

Map = Callable[[Callable[[slice], None], Sequence[slice]], Iterable[None]]
"""Calls a function for each of some slices, perhaps at the same time."""


class KernelPreconditioner:
    """Preconditions a gradient (H, N), with products in `dtype`, float32 or bfloat16."""

    def __init__(self, shape: tuple[int, int], dtype: str) -> None:
        h, n = shape
        formats = ProductFormat(dtype)
        self.preconditioner = Preconditioner(h)
        self._root, self._gradient = formats.activations(h, h), formats.activations(h, n)
        self._packed, self._packed_transposed = formats.packed(h, n), formats.packed(n, h)
        self._sums, self._squares = formats.sums(h, n), formats.sums(h, h)
        self.load_root()

    def apply(self, gradient: Floats, *, step: int, scale: float, parallel: Map, parts: int) -> None:
        """Replace a gradient (H, N) by its preconditioned one.

        Args:
            gradient: of this step.
            step: its number; the first is 1.
            scale: what the gradient is multiplied by, for clipping, where it is observed.
            parallel: how to call a function for several slices.
            parts: the number of slices; it does not change the result.
        """
        rows = slices(len(gradient), parts)
        if is_observed(step):
            self._observe(gradient, step, scale, parallel, rows)
        if is_preconditioned(step):
            packed_arrays.pack(gradient, self._packed)
            _multiply(self._root, self._packed, self._sums, parallel, rows)
            gradient[:] = self._sums[:, : gradient.shape[1]]

    def load_root(self) -> None:
        """Copy R of `preconditioner`, as after its arrays were restored."""
        _to_activations(self.preconditioner.root, self._root)

    def _observe(
        self, gradient: Floats, step: int, scale: float, parallel: Map, rows: Sequence[slice]
    ) -> None:
        _to_activations(gradient, self._gradient)
        packed_arrays.pack_transposed(gradient, self._packed_transposed)
        _multiply(self._gradient, self._packed_transposed, self._squares, parallel, rows)
        product = self._squares[:, : len(gradient)] * np.float32(scale**2 / gradient.shape[1])
        if self.preconditioner.observe(product, step):
            _to_activations(self.preconditioner.root, self._root)


def slices(length: int, parts: int) -> list[slice]:
    """Return slices that divide `length` elements into `parts` of nearly equal length."""
    ends = [length * part // parts for part in range(parts + 1)]
    return [slice(*pair) for pair in pairwise(ends)]


def _multiply(
    x: NDArray[Any], packed: NDArray[Any], sums: Floats, parallel: Map, rows: Sequence[slice]
) -> None:
    """Set sums (M, N) to activations x (M, K) times a packed matrix."""

    def multiply(some: slice) -> None:
        sums[some] = 0
        packed_arrays.add_product(packed, x[some], sums[some])

    for _ in parallel(multiply, rows):
        pass


def _to_activations(matrix: Floats, x: NDArray[Any]) -> None:
    packed_arrays.gather(matrix, np.arange(len(matrix), dtype=np.int32)[None], x[None])
