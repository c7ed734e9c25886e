"""Loss and gradients of a training window of the stateful LSTM, by the kernels of this package alone.

    embedding, normalized -> LSTM layers, each with dropout -> optional dense relu layer -> dense, softmax

One `LSTMWindow` belongs to one thread: it keeps all large arrays between windows, so no page is touched for
the first time during a step. Gradients are computed by hand; the tests compare each with
TensorFlow's.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.kernels import dense_training, lstm_training, packed_arrays
from nextchar.models.kernels.lstm_weights import Floats, LSTMShape, LSTMWeights, normalized
from nextchar.models.kernels.packed_arrays import ProductFormat

PROJECTED_VOCABULARY = 256
"""Up to this size each character's input to the gates is computed once for a window, not at each step."""

Ids = NDArray[np.int32]
State = list[tuple[Floats, Floats]]
"""h and c, (B, H) each, of every layer."""


class LSTMWindow:
    """Computes gradients for windows of T steps and B rows; products in `dtype`, float32 or bfloat16.

    Args:
        shape: the network's.
        frequencies: (V,) relative frequency of each id in the training text.
        rows: B.
        window: T.
        dtype: number format of the products; float32 is used if the processor has no bfloat16 products.
    """

    def __init__(
        self, shape: LSTMShape, frequencies: Floats, *, rows: int, window: int, dtype: str = "float32"
    ) -> None:
        formats = ProductFormat(dtype)
        self._shape, self._frequencies, self._rows, self._window = shape, frequencies, rows, window
        self._is_projected = shape.vocabulary_size <= PROJECTED_VOCABULARY
        self._layers = []
        for i in range(shape.layers):
            is_projected = self._starts_projected(i)
            inputs = 0 if is_projected else shape.units if i else shape.embedding
            starts = shape.vocabulary_size if is_projected else 1
            self._layers.append(_Layer(formats, rows, window, inputs, shape, starts))
        count = rows * window
        self._hidden = _Dense(formats, count, shape.units, shape.units) if shape.has_hidden else None
        self._dense = _Dense(formats, count, shape.units, shape.vocabulary_size)
        self._no_masks = [np.ones((rows, shape.units), np.float32)] * (shape.layers + 1)
        self._row_of_biases = np.zeros((window, rows), np.int32)

    def run(
        self,
        weights: LSTMWeights,
        ids: Ids,
        targets: NDArray[Any],
        state: State,
        gradient: LSTMWeights,
        masks: Sequence[Floats] | None = None,
    ) -> float:
        """Return the mean loss of a window in nats per character.

        Args:
            weights: of the network.
            ids: (T, B) int32.
            targets: ids (T, B), or distributions over them (T, B, V) float32.
            state: before the window; replaced by that after it.
            gradient: filled with the gradients of the weights.
            masks: (B, H) what the outputs of each layer, then of the hidden layer, are multiplied by.
        """
        ids = np.ascontiguousarray(ids, np.int32)
        masks = masks or self._no_masks
        gradient.flat[:] = 0
        table, unscaled, inverse = normalized(weights, self._frequencies)
        self._forward(weights, ids, table, state, masks)
        loss, d_outputs = self._head(weights, targets, gradient, masks[-1])
        d_table = self._backward(weights, ids, table, d_outputs, masks, gradient)
        self._normalization_gradient(weights, gradient, d_table, unscaled, inverse)
        for (h, c), layer in zip(state, self._layers, strict=True):
            h[:], c[:] = layer.h, layer.cs[-1]
        return loss

    def _forward(
        self, weights: LSTMWeights, ids: Ids, table: Floats, state: State, masks: Sequence[Floats]
    ) -> None:
        """Run all layers from `state` on characters of a table (V, E); the last fills what the head reads."""
        head = self._hidden or self._dense
        above = [layer.xs for layer in self._layers[1:]] + [head.x.reshape(self._window, self._rows, -1)]
        if not self._is_projected:
            packed_arrays.gather(table, ids, self._layers[0].xs)
        for i, layer in enumerate(self._layers):
            start, rows_of_start = weights[f"lstm_{i}/bias"][None], self._row_of_biases
            if self._starts_projected(i):
                start, rows_of_start = start + _product(table, weights["lstm_0/kernel"]), ids
            matrix = self._matrix(weights, i)
            layer.forward(matrix, start, rows_of_start, above[i], masks[i], *state[i])

    def _backward(
        self,
        weights: LSTMWeights,
        ids: Ids,
        table: Floats,
        d_outputs: Floats,
        masks: Sequence[Floats],
        gradient: LSTMWeights,
    ) -> Floats:
        """Write the gradients of all layers; return that of the table (V, E).

        `d_outputs` (T * B, H or more) is the gradient of the last layer's outputs.
        """
        d_above = d_outputs.reshape(self._window, self._rows, -1)
        for i, layer in reversed(list(enumerate(self._layers))):
            d_start = layer.backward(d_above, masks[i], self._matrix(gradient, i))
            gradient[f"lstm_{i}/bias"][:] = d_start.sum(0)
            d_above = layer.d_xs
        if self._is_projected:
            gradient["lstm_0/kernel"][:] = _product(table.T, d_start)
            return _product(d_start, weights["lstm_0/kernel"].T)
        d_table = np.zeros_like(table)
        packed_arrays.add_rows(d_above, ids, d_table)
        return d_table

    def _starts_projected(self, layer: int) -> bool:
        """Return whether a layer's steps start from projected characters, so that it has no other inputs."""
        return layer == 0 and self._is_projected

    def _matrix(self, weights: LSTMWeights, layer: int) -> Floats:
        """Return what a layer's steps multiply by, (I + H, 4H or 3H), or its gradient."""
        matrix = weights.layer_matrix(layer)
        return matrix[-self._shape.units :] if self._starts_projected(layer) else matrix

    def _head(
        self, weights: LSTMWeights, targets: NDArray[Any], gradient: LSTMWeights, mask: Floats
    ) -> tuple[float, Floats]:
        """Return the mean loss, and the gradient (T * B, H or more) of the last layer's outputs."""
        dense, hidden = self._dense, self._hidden
        if hidden:
            hidden.forward(weights["hidden/kernel"], weights["hidden/bias"])
            dense_training.relu(hidden.sums, mask, dense.x)
        dense.forward(weights["dense/kernel"], weights["dense/bias"])
        count = self._rows * self._window
        loss_of = dense_training.soft_cross_entropy if targets.ndim == 3 else dense_training.cross_entropy
        flat = np.ascontiguousarray(targets.reshape(count, *targets.shape[2:]))
        loss = loss_of(dense.sums, flat, np.float32(1 / count), dense.d, gradient["dense/bias"])
        d = dense.backward(weights["dense/kernel"], gradient["dense/kernel"])
        if hidden:
            dense_training.relu_gradient(hidden.sums, mask, d, hidden.d, gradient["hidden/bias"])
            d = hidden.backward(weights["hidden/kernel"], gradient["hidden/kernel"])
        return loss / count, d

    def _normalization_gradient(
        self, weights: LSTMWeights, gradient: LSTMWeights, d_table: Floats, unscaled: Floats, inverse: Floats
    ) -> None:
        """Back-propagate through `normalized`."""
        d = d_table * weights["gamma"]
        gradient["gamma"][:] = (d_table * unscaled).sum(0)
        gradient["beta"][:] = d_table.sum(0)
        correction = d.sum(0) + unscaled * (d * unscaled).sum(0)
        gradient["embedding"][:] = inverse * (d - self._frequencies[:, None] * correction)


class _Gradient:
    """The gradient of a matrix (K, N) of the weights, from packed factors (T * B, K) and (T * B, N)."""

    def __init__(self, formats: ProductFormat, k: int, n: int) -> None:
        self._padded = formats.sums(k, n) if n % formats.panel else None

    def __call__(self, x: NDArray[Any], d: NDArray[Any], gradient: Floats) -> None:
        """Write the product to `gradient`, which is zeros."""
        if self._padded is None:
            packed_arrays.add_transposed_product(x, d, gradient)
        else:
            self._padded[:] = 0
            packed_arrays.add_transposed_product(x, d, self._padded)
            gradient[:] = self._padded[:, : gradient.shape[1]]


class _Layer:
    """One LSTM layer: its arrays for a window. `inputs` is I, `starts` the rows of `start`."""

    def __init__(
        self, formats: ProductFormat, rows: int, window: int, inputs: int, shape: LSTMShape, starts: int
    ) -> None:
        units, gates = shape.units, shape.gate_count * shape.units
        width = inputs + units
        self._inputs = inputs
        self._packed, self._packed_transposed = (formats.packed(width, gates), formats.packed(gates, width))
        self.xs = formats.activations(window, rows, width)
        self._packed_xs = formats.packed(rows, width, steps=window)
        self._packed_dz = formats.packed(rows, gates, steps=window)
        self._gradient = _Gradient(formats, width, gates)
        self.h, self._c0 = np.zeros((rows, units), np.float32), np.zeros((rows, units), np.float32)
        self._dh, self._dc = np.zeros_like(self.h), np.zeros_like(self.h)
        self._sums, self._gates = (formats.sums(rows, gates), np.zeros((window, rows, gates), np.float32))
        self.cs = np.zeros((window, rows, units), np.float32)
        self._x, self._dz = formats.activations(rows, gates), np.zeros((rows, gates), np.float32)
        self.d_xs = formats.sums(window if inputs else 1, rows, width)
        self._d_start = np.zeros((starts, gates), np.float32)

    def forward(
        self, matrix: Floats, start: Floats, ids: Ids, above: NDArray[Any], mask: Floats, h: Floats, c: Floats
    ) -> None:
        """Run the steps from state h, c (B, H), as `lstm_training.forward`; `matrix` is (I + H, 4H or 3H)."""
        self._matrix, self._ids = matrix, ids
        self.h[:], self._c0[:] = h, c
        packed_arrays.pack(matrix, self._packed)
        lstm_training.forward(
            start,
            ids,
            self._packed,
            self.xs,
            self._inputs,
            above,
            mask,
            self.h,
            self._c0,
            self._sums,
            self._gates,
            self.cs,
        )

    def backward(self, d_above: Floats, mask: Floats, gradient: Floats) -> Floats:
        """Add to the gradient of the matrix, fill `d_xs`; return the gradient of `start`."""
        packed_arrays.pack_transposed(self._matrix, self._packed_transposed)
        for array in (self._dh, self._dc, self._d_start):
            array[:] = 0
        lstm_training.backward(
            self._gates,
            self.cs,
            self._c0,
            d_above,
            mask,
            self._packed_transposed,
            self._inputs,
            self._x,
            self._dz,
            self.d_xs,
            self._dh,
            self._dc,
            self._ids,
            self._d_start,
            self._packed_dz,
        )
        packed_arrays.pack_steps(self.xs, self._packed_xs)
        self._gradient(self._packed_xs, self._packed_dz, gradient)
        return self._d_start


class _Dense:
    """A dense layer over R = T * B rows; `x` are its inputs, `sums` its outputs, `d` their gradient."""

    def __init__(self, formats: ProductFormat, count: int, inputs: int, outputs: int) -> None:
        self._packed, self._packed_transposed = (
            formats.packed(inputs, outputs),
            formats.packed(outputs, inputs),
        )
        self.x, self.d = formats.activations(count, inputs), formats.activations(count, outputs)
        self._packed_x, self._packed_d = formats.packed(count, inputs), formats.packed(count, outputs)
        self._gradient = _Gradient(formats, inputs, outputs)
        self.sums, self._d_x = formats.sums(count, outputs), formats.sums(count, inputs)

    def forward(self, matrix: Floats, bias: Floats) -> None:
        """Fill `sums` (R, N)."""
        packed_arrays.pack(matrix, self._packed)
        self.sums[:, : len(bias)] = bias
        packed_arrays.add_product(self._packed, self.x, self.sums)

    def backward(self, matrix: Floats, gradient: Floats) -> Floats:
        """Fill the gradient (K, N) of the matrix from `x` and `d`; return that of `x` (R, K or more)."""
        packed_arrays.pack_transposed(matrix, self._packed_transposed)
        self._d_x[:] = 0
        packed_arrays.add_product(self._packed_transposed, self.d, self._d_x)
        packed_arrays.pack_steps(self.x[None], self._packed_x)
        packed_arrays.pack_steps(self.d[None], self._packed_d)
        self._gradient(self._packed_x, self._packed_d, gradient)
        return self._d_x


def _product(a: Floats, b: Floats) -> Floats:
    """Return a (M, K) times b (K, N), small float32 matrices, computed in this thread."""
    formats = ProductFormat("float32")
    packed, sums = formats.packed(*b.shape), formats.sums(len(a), b.shape[1])
    packed_arrays.pack(np.ascontiguousarray(b), packed)
    packed_arrays.add_product(packed, np.ascontiguousarray(a), sums)
    return np.ascontiguousarray(sums[:, : b.shape[1]])
