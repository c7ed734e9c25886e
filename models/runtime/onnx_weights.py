"""Reads the weights in an ONNX graph without the package onnx, which API processes lack.

A graph is a Protocol Buffers message: ModelProto.graph is field 7, GraphProto.initializer field 5, and of a
TensorProto `data_type` is field 2, `float_data` 4, `name` 8 and `raw_data` 9.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

_DTYPES = {1: "<f4", 10: "<f2", 11: "<f8"}  # by TensorProto.data_type
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5  # wire types


def non_finite_weight(graph: bytes) -> str | None:
    """Return the name of the first weight of a graph with a number that is not finite; None: all are.

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
