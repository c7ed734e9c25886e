"""AMX's tile registers in NumPy, for processors without them.

`Emulator.install` makes the instructions functions that compiled code can call, on the addresses it passes.
What a processor rejects (a general-protection fault or an undefined instruction) is recorded in `faults`.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numpy as np
from numpy.typing import NDArray

PREFIX = "emulated_amx_"
"""To replace `nextchar.models.kernels.amx.PREFIX`."""

_NAMES = ("ldtilecfg", "tilerelease", "tileloadd64", "tilestored64", "tdpbusd", "tdpbf16ps")
_REGISTERS, _MAX_ROWS, _MAX_ROW_BYTES = 8, 16, 64


class Fault(Exception):
    """The processor would not execute this instruction."""


class Emulator:
    """The registers of one thread."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.executed: dict[str, int] = dict.fromkeys(_NAMES, 0)
        self.shapes: list[tuple[int, int]] | None = None
        """Rows and bytes per row of each register; None if none are configured."""
        self.tiles: list[NDArray[np.uint8]] = []

    def install(self) -> None:
        """Make the instructions of this emulator those that compiled code calls."""
        byte, address, stride = ctypes.c_uint8, ctypes.c_void_p, ctypes.c_int64
        parameters: dict[str, list[Any]] = {
            "ldtilecfg": [address],
            "tilerelease": [],
            "tileloadd64": [byte, address, stride],
            "tilestored64": [byte, address, stride],
            "tdpbusd": [byte] * 3,
            "tdpbf16ps": [byte] * 3,
        }
        self._callbacks = []  # must outlive the compiled code
        for name, types in parameters.items():
            callback = ctypes.CFUNCTYPE(None, *types)(self._recorded(name))
            self._callbacks.append(callback)
            place = ctypes.cast(callback, ctypes.c_void_p).value
            assert place is not None
            llvmlite.binding.add_symbol(PREFIX + name, place)

    def _recorded(self, name: str) -> Callable[..., None]:
        def execute(*arguments: int) -> None:
            self.executed[name] += 1
            try:
                getattr(self, name)(*arguments)
            except Fault as fault:
                self.faults.append(f"{name}{arguments}: {fault}")

        return execute

    # ---- the instructions

    def ldtilecfg(self, address: int) -> None:
        configuration = _bytes_at(address, 64)
        palette, start_row, reserved = configuration[0], configuration[1], configuration[2:16]
        row_bytes = configuration[16:48].view(np.uint16)
        rows = configuration[48:64]
        if palette != 1:
            raise Fault(f"palette {palette}")
        if start_row or reserved.any() or row_bytes[_REGISTERS:].any() or rows[_REGISTERS:].any():
            raise Fault("reserved bytes are not 0")
        shapes = list(zip(rows[:_REGISTERS].tolist(), row_bytes[:_REGISTERS].tolist(), strict=True))
        for shape in shapes:
            if shape[0] > _MAX_ROWS or shape[1] > _MAX_ROW_BYTES or (shape[0] == 0) != (shape[1] == 0):
                raise Fault(f"shape {shape}")
        self.shapes = shapes
        self.tiles = [np.zeros(shape, np.uint8) for shape in shapes]

    def tilerelease(self) -> None:
        self.shapes, self.tiles = None, []

    def tileloadd64(self, register: int, address: int, stride: int) -> None:
        tile = self._tile(register)
        for n, row in enumerate(tile):
            row[:] = _bytes_at(address + n * stride, len(row))

    def tilestored64(self, register: int, address: int, stride: int) -> None:
        for n, row in enumerate(self._tile(register)):
            _bytes_at(address + n * stride, len(row))[:] = row

    def tdpbusd(self, sums: int, activations: int, weights: int) -> None:
        a, b, c = self._factors(sums, activations, weights)
        products = a.astype(np.int64) @ _columns(b.view(np.int8), 4).astype(np.int64)
        c.view(np.int32)[:] += products.astype(np.int32)

    def tdpbf16ps(self, sums: int, activations: int, weights: int) -> None:
        a, b, c = self._factors(sums, activations, weights)
        c.view(np.float32)[:] += _floats(a.view(np.uint16)) @ _floats(_columns(b.view(np.uint16), 2))

    # ---- checks

    def _tile(self, register: int) -> NDArray[np.uint8]:
        if self.shapes is None:
            raise Fault("no configuration")
        if register >= _REGISTERS:
            raise Fault(f"register {register}")
        if self.shapes[register] == (0, 0):
            raise Fault(f"register {register} has no shape")
        return self.tiles[register]

    def _factors(self, sums: int, activations: int, weights: int) -> tuple[NDArray[np.uint8], ...]:
        c, a, b = (self._tile(register) for register in (sums, activations, weights))
        if len({sums, activations, weights}) < 3:
            raise Fault("a register is used twice")
        if any(tile.shape[1] % 4 for tile in (a, b, c)):
            raise Fault("rows are not made of 32-bit words")
        if len(c) != len(a) or c.shape[1] != b.shape[1] or a.shape[1] // 4 != len(b):
            raise Fault(f"shapes {c.shape} += {a.shape} {b.shape}")
        return a, b, c


def _bytes_at(address: int, count: int) -> NDArray[np.uint8]:
    return np.frombuffer((ctypes.c_uint8 * count).from_address(address), np.uint8)


def _columns(rows: NDArray[Any], per_word: int) -> NDArray[Any]:
    """Return (K / per_word, N * per_word), words of elements of a column, as (K, N)."""
    words = rows.reshape(len(rows), -1, per_word)
    return words.transpose(0, 2, 1).reshape(-1, words.shape[1])


def _floats(bfloat16: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bfloat16.astype(np.uint32) << 16).view(np.float32)
