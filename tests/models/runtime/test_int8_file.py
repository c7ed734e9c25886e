import io
from typing import Any

import numpy as np
import pytest

from nextchar.models.runtime import int8_file
from nextchar.models.runtime.int8_file import Arrays, check_int8, quantize_lstm, read_int8
from tests.models.runtime.networks import random_weights

V, E, UNITS = 7, 3, [5, 4]


def file_of(units: list[int] = UNITS) -> Arrays:
    return read_int8(quantize_lstm(random_weights(V, E, units)))


def test_a_column_of_zeros_is_quantized_to_zeros() -> None:
    weights = np.array([[0.0, 1.0], [0.0, -2.0]], np.float32)
    quantized, scale = int8_file._quantized(weights)
    np.testing.assert_array_equal(quantized, [[0, 64], [0, -127]])
    np.testing.assert_allclose(quantized * scale, weights, atol=0.01)
    np.testing.assert_array_equal(scale, np.array([1, 2 / 127], np.float32))


def test_weights_are_numbers_up_to_127_times_the_scale_of_their_column() -> None:
    weights = random_weights(V, E, UNITS)
    arrays = file_of()
    table = weights["embedding"] @ weights["lstm_0/kernel"] + weights["lstm_0/bias"]
    np.testing.assert_allclose(arrays["table"], table, rtol=1e-6)
    for name in ("lstm_1/bias", "dense/bias"):
        np.testing.assert_array_equal(arrays[name], weights[name])
    for name in ("lstm_0/recurrent", "lstm_1/kernel", "lstm_1/recurrent", "dense/kernel"):
        scale = arrays[name.partition("/")[0] + "/scale"]
        assert arrays[name].dtype == np.int8 and scale.dtype == np.float32
        assert (np.abs(arrays[name] * scale - weights[name]) <= 0.501 * scale).all()
    largest = np.abs(np.concatenate([arrays["lstm_1/kernel"], arrays["lstm_1/recurrent"]])).max(0)
    np.testing.assert_array_equal(largest, 127), "kernel and recurrent weights have one scale"
    np.testing.assert_array_equal(np.abs(arrays["lstm_0/recurrent"]).max(0), 127)


@pytest.mark.parametrize("units", [[1], [5], [5, 4], [1, 1, 2]])
def test_the_units_of_a_file_are_those_of_its_network(units: list[int]) -> None:
    assert check_int8(file_of(units)) == units


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        ("table", (V, 20), np.float32),
        ("lstm_0/recurrent", (5, 20), np.int8),
        ("lstm_0/scale", (20,), np.float32),
        ("lstm_1/kernel", (5, 16), np.int8),
        ("lstm_1/recurrent", (4, 16), np.int8),
        ("lstm_1/scale", (16,), np.float32),
        ("lstm_1/bias", (16,), np.float32),
        ("dense/kernel", (4, V), np.int8),
        ("dense/scale", (V,), np.float32),
        ("dense/bias", (V,), np.float32),
    ],
)
def test_an_array_of_another_shape_or_type_is_refused_with_what_is_expected(
    name: str, shape: tuple[int, ...], kind: Any
) -> None:
    arrays = file_of()
    assert (arrays[name].shape, arrays[name].dtype) == (shape, kind)
    other = np.float64 if kind == np.float32 else np.int16
    longer = (*shape[:-1], shape[-1] + 1)
    for wrong in (np.zeros(shape, other), np.zeros(longer, kind)):
        with pytest.raises(ValueError, match=r"expected|cannot have") as caught:
            check_int8(arrays | {name: wrong})
        assert str(np.dtype(kind)) in str(caught.value) or "recurrent" in str(caught.value)
    with pytest.raises(ValueError, match=r"an int8 network of . LSTM layers cannot have the arrays"):
        check_int8({other: array for other, array in arrays.items() if other != name})


def test_what_makes_no_network_is_refused() -> None:
    arrays = file_of()
    for wrong in (
        {},
        {"table": arrays["table"], "dense/kernel": arrays["dense/kernel"]},
        arrays | {"lstm_2/bias": np.zeros(16, np.float32)},
        arrays | {"lstm_1/else": np.zeros(16, np.float32)},
        arrays | {"table": arrays["table"][None]},
        arrays | {"table": arrays["table"][0]},
    ):
        with pytest.raises(ValueError, match="cannot have the arrays"):
            check_int8(wrong)
    with pytest.raises(ValueError, match="an array is a single number"):
        check_int8(arrays | {"dense/bias": np.array(1, np.float32)})


def test_networks_without_units_or_characters_are_refused() -> None:
    arrays = file_of([5])
    without_units = {name: array[:0] if name.endswith(("recurrent", "kernel")) else array
                     for name, array in arrays.items()}  # fmt: skip
    without_units |= {
        "table": np.zeros((V, 0), np.float32),
        "lstm_0/recurrent": np.zeros((0, 0), np.int8),
        "lstm_0/scale": np.zeros(0, np.float32),
    }
    with pytest.raises(ValueError, match="expected"):
        check_int8(without_units)
    names = {"dense/kernel": (5, 0), "dense/scale": (0,), "dense/bias": (0,), "table": (0, 20)}
    empty = {name: np.zeros(shape, arrays[name].dtype) for name, shape in names.items()}
    with pytest.raises(ValueError, match="expected"):
        check_int8(arrays | empty)


def test_objects_are_neither_written_nor_read() -> None:
    weights: dict[str, Any] = {**random_weights(V, E, [5])}
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        quantize_lstm(weights | {"dense/bias": np.array([object()])})
    file = io.BytesIO()
    np.savez(file, table=np.array([object()]))
    with pytest.raises(ValueError, match="not a file of int8 weights"):
        read_int8(file.getvalue())
