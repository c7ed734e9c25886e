"""Golden values: what a tiny network of fixed weights predicts in each number format, by each variant.

They were computed by NumPy in float64 and with exact integers; of training in bfloat16 by AMX. The weights
are fractions of integers, so they are the same everywhere. The two last tests run the whole kernels at one
level of instructions; with NEXTCHAR_ISA all of this file can be run at a lower one.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nextchar.models.architectures.onnx_graph import stateful_lstm_graph
from nextchar.models.kernels.lstm_arguments import padded_columns
from nextchar.models.kernels.lstm_weights import LSTMShape, LSTMWeights
from nextchar.models.kernels.lstm_window import LSTMWindow
from nextchar.models.kernels.packed_arrays import HAS_BFLOAT16
from nextchar.models.kernels.product_kernels import (
    BFLOAT16,
    FLOAT32,
    INT8,
    ProductKernel,
    available,
    compiled_product,
)
from nextchar.models.runtime.int8_file import quantize_lstm, read_int8
from nextchar.models.runtime.lstm_network import LstmNetwork
from nextchar.models.runtime.session import Network
from tests.models.kernels.test_product_kernels import bfloat16

V, E, H = 11, 3, 8
VARIANTS = [
    (product, kernel)
    for product, kernels in (("int8", INT8), ("float32", FLOAT32), ("bfloat16", BFLOAT16))
    for kernel in available(kernels)
]
IDS = np.stack([np.arange(V), (3 * np.arange(V) + 1) % V]).astype(np.int32)  # (T, B), of which B is V
Product = Callable[[Any, str], Any]
"""Multiplies outputs (B, H) by a matrix of the network, which it gets by name."""

LOGITS = {  # by format, after two characters, of the first row and the last
    "int8": (
        [-0.492943, 0.412186, 0.645656, 0.530035, -0.480395, 0.504429, 0.737909, 0.559918, -0.386575,
         -1.395281, 0.827934],
        [-0.14607, 0.538489, 0.550224, 0.621709, -0.68868, 0.65442, 0.666992, 0.173588, -0.570715,
         -1.218747, 0.783788],
    ),
    "float32": (
        [-0.495419, 0.414787, 0.644497, 0.534255, -0.476548, 0.506039, 0.73575, 0.559515, -0.385295,
         -1.396848, 0.827003],
        [-0.143972, 0.533347, 0.551777, 0.618497, -0.686919, 0.651068, 0.669498, 0.179326, -0.569198,
         -1.225352, 0.787219],
    ),
    "bfloat16": (
        [-0.495377, 0.417994, 0.642051, 0.532269, -0.476352, 0.50776, 0.733877, 0.55828, -0.385125,
         -1.393912, 0.824286],
        [-0.146253, 0.534986, 0.5515, 0.615725, -0.685919, 0.650506, 0.670345, 0.180711, -0.568809,
         -1.224133, 0.786521],
    ),
}  # fmt: skip


def fixed(*shape: int, seed: int = 0) -> Any:
    """Return fractions between -1 and 1."""
    numbers = (np.arange(np.prod(shape)) + 31 * seed) * 7919 % 1021
    return ((numbers - 510) / np.float32(512)).astype(np.float32).reshape(shape)


WEIGHTS = {
    "embedding": fixed(V, E),
    "lstm_0/kernel": fixed(E, 4 * H, seed=1),
    "lstm_0/recurrent": fixed(H, 4 * H, seed=2),
    "lstm_0/bias": fixed(4 * H, seed=3),
    "dense/kernel": fixed(H, V, seed=4),
    "dense/bias": fixed(V, seed=5),
}
INT8_WEIGHTS = read_int8(quantize_lstm(WEIGHTS))


def logits_by(product: Product) -> Any:
    """Return the logits (B, V) after two characters."""
    table = WEIGHTS["embedding"] @ WEIGHTS["lstm_0/kernel"] + WEIGHTS["lstm_0/bias"]
    h = c = np.zeros((V, H))
    for ids in IDS:
        z = table[ids] + product(h, "lstm_0/recurrent")
        i, f, g, o = np.split(z, 4, axis=1)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
    return product(h, "dense/kernel") + WEIGHTS["dense/bias"]


def plain(product: str, x: Any, weights: Any) -> Any:
    """Return the product of numbers in one format, as integers or float64."""
    return x.astype(int) @ weights.astype(int) if product == "int8" else x.astype(float) @ weights


def by_variant(kernel: ProductKernel, product: str, x: Any, weights: Any) -> Any:
    """Return the product of numbers in one format by a variant."""
    n, word = weights.shape[1], kernel.arithmetic.activations_per_word
    padded = np.pad(weights, ((0, 0), (0, padded_columns(n, kernel.panel) - n)))
    sums = np.zeros((len(x), padded.shape[1]), np.int32 if product == "int8" else np.float32)
    if product == "int8":
        x = (x + kernel.zero_point).astype(np.uint8)
        padded = padded.astype(np.int8)
    elif product == "bfloat16":
        x, padded = bfloat16(x)[1], bfloat16(padded)[1]
    panels = padded.reshape(H // word, word, -1, kernel.panel).transpose(2, 0, 3, 1)
    flat = np.ascontiguousarray(panels).ravel()
    flat = flat.view(np.uint32) if product == "bfloat16" else flat
    compiled_product(product, kernel)(flat, 0, x, sums, 0, len(x))
    return sums[:, :n] - kernel.zero_point * weights.astype(sums.dtype).sum(0)


def in_format(product: str, multiply: Callable[[str, Any, Any], Any]) -> Product:
    """Return a product of factors that are rounded to a format."""

    def rounded(x: Any, name: str) -> Any:
        if product == "int8":
            scale = INT8_WEIGHTS[name.rpartition("/")[0] + "/scale"].astype(float)
            return multiply(product, np.rint(127 * x), INT8_WEIGHTS[name]) * scale / 127
        x, weights = x.astype(np.float32), WEIGHTS[name]
        if product == "bfloat16":
            x, weights = bfloat16(x)[0], bfloat16(weights)[0]
        return multiply(product, x, weights)

    return rounded


@pytest.mark.parametrize("product", list(LOGITS))
def test_plain_arithmetic_gives_the_golden_values(product: str) -> None:
    np.testing.assert_allclose(logits_by(in_format(product, plain))[[0, -1]], LOGITS[product], atol=1e-6)


@pytest.mark.parametrize(("product", "kernel"), VARIANTS, ids=[f"{p}-{k.name}" for p, k in VARIANTS])
def test_each_variant_gives_the_golden_values(product: str, kernel: ProductKernel) -> None:
    def multiply(_: str, x: Any, weights: Any) -> Any:
        found = by_variant(kernel, product, x, weights)
        if product == "int8":  # exact
            np.testing.assert_array_equal(found, plain(product, x, weights))
        return found

    np.testing.assert_allclose(logits_by(in_format(product, multiply))[[0, -1]], LOGITS[product], atol=2e-6)


@pytest.mark.parametrize("product", ["int8", "float32"])
def test_the_runtime_gives_the_golden_values(product: str) -> None:
    is_int8 = product == "int8"
    network = LstmNetwork(quantize_lstm(WEIGHTS)) if is_int8 else Network(stateful_lstm_graph(WEIGHTS))
    logits, _ = network.step(IDS, network.initial_state(V))
    np.testing.assert_allclose(logits[-1][[0, -1]], LOGITS[product], atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "loss", "norm"), [("float32", 2.807602, 0.600710), ("bfloat16", 2.807885, 0.600417)]
)
def test_training_gives_the_golden_loss_and_gradient(dtype: str, loss: float, norm: float) -> None:
    if dtype == "bfloat16" and not HAS_BFLOAT16:
        pytest.skip("this processor has no bfloat16 products")
    shape = LSTMShape(layers=1, units=5, embedding=E, vocabulary_size=V, has_coupled_gates=True)
    weights, gradient = LSTMWeights(shape), LSTMWeights(shape)
    weights.flat[:] = fixed(weights.flat.size)
    ids, frequencies = IDS.reshape(-1)[:8].reshape(4, 2), np.full(V, 1 / V, np.float32)
    state = [(fixed(2, 5), fixed(2, 5, seed=1))]
    window = LSTMWindow(shape, frequencies, rows=2, window=3, dtype=dtype)
    found = window.run(weights, ids[:-1], ids[1:], state, gradient)
    assert found == pytest.approx(loss, abs=1e-5)
    assert np.linalg.norm(gradient.flat) == pytest.approx(norm, abs=1e-5)
