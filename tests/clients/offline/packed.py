"""The runtime in C, built once per process, called from Python."""

import ctypes
import json
import mmap
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[3] / "clients" / "offline"
UNTIL = {None: 0, "word": 1, "line": 2, "confidence": 3}
REASONS = ("", "length", "stop", "word", "line", "confidence")
_POINTER, _SIZE, _U, _D, _TEXT = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_uint32,
    ctypes.c_double,
    ctypes.c_char_p,
)
_TYPES: dict[str, tuple[Any, list[Any]]] = {
    "nc_error": (_TEXT, []),
    "nc_memory": (_SIZE, [_POINTER, _SIZE]),
    "nc_open": (_POINTER, [_POINTER, _SIZE, _POINTER, _SIZE, _POINTER, _SIZE]),
    "nc_tables": (_POINTER, [_POINTER, _POINTER]),
    "nc_complete_start": (
        ctypes.c_int,
        [_POINTER, _TEXT, _SIZE, _U, _D, _U, _U, _U, _U, _D, _D, ctypes.c_int, _D, _TEXT, _SIZE],
    ),
    "nc_complete_next": (ctypes.c_int, [_POINTER, _TEXT, _SIZE]),
    "nc_complete_reason": (ctypes.c_int, [_POINTER]),
    "nc_complete_bits": (_D, [_POINTER]),
    "nc_next": (ctypes.c_int, [_POINTER, _TEXT, _SIZE, _D, _U, _TEXT, _SIZE]),
    "nc_suggest": (
        ctypes.c_int,
        [_POINTER, _TEXT, _SIZE, _TEXT, _SIZE, _TEXT, _SIZE, _U, ctypes.c_int, _TEXT, _SIZE],
    ),
    "nc_score": (ctypes.c_int, [_POINTER, _TEXT, _SIZE, _D, _TEXT, _SIZE]),
    "nc_mask": (ctypes.c_int, [_POINTER, _TEXT, _SIZE, _TEXT, _SIZE]),
    "nc_info": (ctypes.c_int, [_POINTER, _TEXT, _SIZE]),
    "nc_forget": (None, [_POINTER]),
}


@cache
def build() -> Path:
    """Return the folder of what `build.sh` makes."""
    folder = Path(tempfile.mkdtemp(prefix="nextchar-offline-"))
    subprocess.run(["sh", SOURCE / "build.sh", folder], check=True)
    return folder


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(build() / "libnextchar.so"))
    for name, (result, arguments) in _TYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Packed:
    """An open packed model."""

    def __init__(self, data: bytes, tables: bytes = b"") -> None:
        """Open a file, with what `tables` has returned. Raises ValueError: it is refused."""
        self._c = _library()
        self._file = mmap.mmap(-1, max(1, len(data)))
        self._file.write(data)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._file))
        self.memory_bytes = self._c.nc_memory(address, len(data))
        if not self.memory_bytes:
            raise self._error()
        self._memory = mmap.mmap(-1, self.memory_bytes)
        memory = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._tables = mmap.mmap(-1, max(1, len(tables)))
        self._tables.write(tables)
        given = ctypes.addressof(ctypes.c_char.from_buffer(self._tables)) if tables else None
        self._model = self._c.nc_open(address, len(data), given, len(tables), memory, self.memory_bytes)
        if not self._model:
            raise self._error()

    def complete(
        self,
        prompt: str | bytes,
        *,
        max_characters: int = 40,
        temperature: float = 1.0,
        seed: int = 0,
        index: int = 0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        until: str | None = None,
        confidence_bits: float = 2.0,
        stop: Sequence[str] = (),
    ) -> tuple[bytes, str, float]:
        """Return the completion, why it ended, and its bits. Raises ValueError."""
        text = prompt if isinstance(prompt, bytes) else prompt.encode()
        stops = b"".join(one.encode() + b"\0" for one in stop)
        if not self._c.nc_complete_start(
            self._model, text, len(text), max_characters, temperature, seed & 0xFFFFFFFF, seed >> 32, index,
            top_k, top_p, min_p, UNTIL[until], confidence_bits, stops, len(stops),
        ):  # fmt: skip
            raise self._error()
        buffer, parts = ctypes.create_string_buffer(16), []
        while count := self._c.nc_complete_next(self._model, buffer, 16):
            parts.append(buffer.raw[:count])
        bits = self._c.nc_complete_bits(self._model)
        return b"".join(parts), REASONS[self._c.nc_complete_reason(self._model)], bits

    def next(self, prompt: str, *, temperature: float = 1.0, top: int = 5) -> Any:
        """Return the distribution of the next character."""
        buffer, text = ctypes.create_string_buffer(1 << 16), prompt.encode()
        self._c.nc_next(self._model, text, len(text), temperature, top, buffer, 1 << 16)
        return json.loads(buffer.value)

    def suggest(
        self,
        prefix: str,
        *,
        limit: int = 10,
        context: str = "",
        exclude: Sequence[str] = (),
        typos: int | None = None,
    ) -> Any:
        """Return suggestions for a prefix. Raises ValueError."""
        buffer, text, before = ctypes.create_string_buffer(1 << 16), prefix.encode(), context.encode()
        excluded = b"".join(one.encode() + b"\0" for one in exclude)
        if self._c.nc_suggest(
            self._model, text, len(text), before, len(before), excluded, len(excluded), limit,
            -1 if typos is None else typos, buffer, 1 << 16,
        ) < 0:  # fmt: skip
            raise self._error()
        return json.loads(buffer.value)

    def score(self, line: str, *, false_alarms: float = 0.0) -> Any:
        """Return the score of a line. Raises ValueError."""
        buffer, text = ctypes.create_string_buffer(1 << 12), line.encode()
        if self._c.nc_score(self._model, text, len(text), false_alarms, buffer, 1 << 12) < 0:
            raise self._error()
        return json.loads(buffer.value)

    def mask(self, text: str) -> str:
        """Return a text with its values masked. Raises ValueError."""
        data = text.encode()
        buffer = ctypes.create_string_buffer(3 * len(data) + 16)
        if self._c.nc_mask(self._model, data, len(data), buffer, len(buffer)) < 0:
            raise self._error()
        return buffer.value.decode()

    def info(self) -> Any:
        """Return what the model is."""
        buffer = ctypes.create_string_buffer(1 << 12)
        self._c.nc_info(self._model, buffer, 1 << 12)
        return json.loads(buffer.value)

    def tables(self) -> bytes:
        """Return the tables that were made, to open the file at once."""
        size = ctypes.c_size_t()
        at = self._c.nc_tables(self._model, ctypes.byref(size))
        return ctypes.string_at(at, size.value) if at else b""

    def forget(self) -> None:
        """Forget the states of earlier prompts."""
        self._c.nc_forget(self._model)

    def _error(self) -> ValueError:
        return ValueError(self._c.nc_error().decode())


has_wasm_compiler = bool(shutil.which("clang-14") and shutil.which("wasm-ld-14"))
