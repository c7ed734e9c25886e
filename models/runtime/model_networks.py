"""Loads the networks of a saved model: of each precision, alone and in a mixture."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.errors import Unavailable
from nextchar.models.kernels.mixture_arguments import Experts
from nextchar.models.runtime import mixture
from nextchar.models.runtime.mixture import Learned
from nextchar.models.runtime.mixture_learning import learn_text
from nextchar.models.runtime.requests import Expert
from nextchar.models.runtime.session import Network, SharedNetwork, StepNetwork, open_network
from nextchar.models.saved_model import SavedModel

log = logging.getLogger(__name__)

FLOAT32_FILE = "model.onnx"
INT8_FILE = "model.int8.npz"
INT8_GRAPH_FILE = "model.int8.onnx"
"""The int8 file of architectures without int8 kernels."""

NetworkKey = tuple[str, Expert]
"""A precision, and `network` for the network alone or `mixture`."""


@dataclass(frozen=True)
class LoadedNetworks:
    """The networks of a model, and the bytes that their weights take."""

    networks: dict[NetworkKey, StepNetwork]
    weight_bytes: int


def load_networks(saved: SavedModel, *, threads: int) -> LoadedNetworks:
    """Load the networks of a model; `threads` as for `nextchar.models.runtime.session.Network`.

    Raises:
        Unavailable: a file is damaged or missing (code `model_damaged`).
    """
    files = [("float32", FLOAT32_FILE), ("int8", INT8_GRAPH_FILE), ("int8", INT8_FILE)]
    names = {precision: name for precision, name in files if name in saved.card.files}
    if "float32" not in names:
        raise Unavailable(f"model {saved.card.reference} has no {FLOAT32_FILE}", code="model_damaged")
    experts = load_experts(saved)
    networks: dict[NetworkKey, StepNetwork] = {}
    for precision, name in names.items():
        networks[precision, "network"] = network = load_network(saved, name, threads=threads)
        if experts:
            networks[precision, "mixture"] = mixture.make_mixture(network, experts)
    weight_bytes = sum(saved.card.files[name].bytes for name in names.values())
    weight_bytes += sum(array.nbytes for array in experts or ())
    return LoadedNetworks(networks, weight_bytes)


def load_network(saved: SavedModel, name: str, *, threads: int) -> SharedNetwork:
    """Load the network in one file of a model. Raises Unavailable as `load_networks`."""
    reference, data = saved.card.reference, saved.file(name)
    try:
        network = open_network(name, data, threads=threads)
        _check_finite(network, name, data)
    except ValueError as error:
        raise Unavailable(f"model {reference} cannot be loaded: {error}", code="model_damaged") from None
    vocabulary_size = len(saved.vocabulary)
    if vocabulary_size != network.V:
        raise Unavailable(
            f"model {reference} has {network.V} outputs and {vocabulary_size} ids", code="model_damaged"
        )
    return network


def _check_finite(network: SharedNetwork, name: str, data: bytes) -> None:
    """Raise ValueError if weights of a graph or the results of a step are not finite."""
    if not isinstance(network, Network):  # `check_int8` has checked the weights; products of int8 are finite
        return
    if (weight := non_finite_weight(data)) is not None:
        raise ValueError(f"in {name}, the weight {weight!r} has numbers that are not finite")
    if not all(
        np.isfinite(r).all() for r in network.step(np.zeros((1, 1), np.int32), network.initial_state())
    ):
        raise ValueError(f"the results of a step of {name} are not finite")


def load_experts(saved: SavedModel) -> Experts | None:
    """Return the experts other than the network, if the model has them."""
    if mixture.FILE not in saved.card.files:
        return None
    data = saved.file(mixture.FILE)
    try:
        return mixture.load(data, size=len(saved.vocabulary), upgrade=partial(_upgraded, saved))
    except Unavailable:
        raise
    except Exception:  # any error of the compiler; the network remains
        log.exception("the kernels of the mixture cannot be compiled; the network predicts alone")
        return None


def _upgraded(saved: SavedModel, text: NDArray[np.int32]) -> Learned:
    """Return what an older model's mixture would have learned from its text alone."""
    return learn_text(text, saved.vocabulary, is_records=saved.card.kind == "records")[0]


_BATCHES = ((11, 2), (31, 1))  # rows and steps of the batches that are compared
_SEED = 0


def is_batch_invariant(network: StepNetwork) -> bool:
    """Return whether a row's results are bit-identical alone, in a batch, and in chunks of any length.

    ONNX Runtime's own matrix kernels add up each product in one order whatever the number of rows. With other
    kernels, the same seed could give another text under load.
    """
    # Both batches run in one call, also with a network that shares larger ones between threads.
    return all(_is_row_by_row(network, rows, steps) for rows, steps in _BATCHES)


def _is_row_by_row(network: StepNetwork, rows: int, steps: int) -> bool:
    random = np.random.default_rng(_SEED)
    ids = random.integers(network.V, size=(steps, rows), dtype=np.int32)
    start = random.random((rows, network.initial_state().shape[1]), np.float32)
    logits, state = network.step(ids, start)
    for row in range(rows):
        alone = start[row : row + 1]
        for step in range(steps):
            one, alone = network.step(ids[step : step + 1, row : row + 1], alone)
            if not np.array_equal(one[0, 0], logits[step, row]):
                return False
        if not np.array_equal(alone[0], state[row]):
            return False
    return True


_DTYPES = {1: "<f4", 10: "<f2", 11: "<f8"}  # by TensorProto.data_type
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5  # wire types


def non_finite_weight(graph: bytes) -> str | None:
    """Return the name of the first weight of a graph with a number that is not finite; None: all are.

    A graph is a Protocol Buffers message, read here because API processes lack the package onnx:
    ModelProto.graph is field 7, GraphProto.initializer field 5, and of a TensorProto `data_type` is field 2,
    `float_data` 4, `name` 8 and `raw_data` 9.

    Raises:
        ValueError: it is no such message.
    """
    for number, part in _fields(memoryview(graph)):
        if number != 7 or isinstance(part, int):
            continue
        for field, tensor in _fields(part):
            if field != 5 or isinstance(tensor, int):
                continue
            fields: dict[int, Any] = dict(_fields(tensor))
            dtype, data = _DTYPES.get(fields.get(2, 0)), fields.get(9) or fields.get(4)
            if dtype and data and not np.isfinite(np.frombuffer(data, dtype)).all():
                return bytes(fields.get(8, b"")).decode(errors="replace")
    return None


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number and the value of each field; of fixed width only those in bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire_type = tag & 7
        if wire_type == _VARINT:
            value, at = _varint(message, at)
            yield tag >> 3, value
        elif wire_type == _BYTES:
            length, at = _varint(message, at)
            if length > len(message) - at:
                raise ValueError("a field is longer than its message")
            yield tag >> 3, message[at : at + length]
            at += length
        elif wire_type in (_EIGHT_BYTES, _FOUR_BYTES):
            at += 8 if wire_type == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"a field has wire type {wire_type}")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return the number that begins at a position, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise ValueError("a number is incomplete or too long")
