"""Compiles functions of arrays to machine code with numba.

`compiled` is for functions that other code calls, `inline_jit` for functions that only compiled ones call.
Machine code is cached on disk for the next process: in the folder of `models.kernels.compile_cache`, in
NUMBA_CACHE_DIR, or else in `__pycache__`. If nothing can be written, every process compiles, which takes
seconds.

Numba invalidates its cache when the file of the compiled function changes, not when a file that it imports
changes. The folder of `models.kernels.compile_cache` covers all files of this package. Without that folder
(benchmarks), touch `lstm_training.py` and `lstm_inference.py` after an edit of another file here.

Every function has explicit signatures, so that processes that start at the same time write the same files.
"""

import contextlib
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit

_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "fastmath": {"contract", "nsz"},  # allows fused multiply-add; never reorders a sum
    "error_model": "numpy",  # division by zero raises nothing: loops that may raise are not vectorized
}

inline_jit = njit(**_OPTIONS)


def compiled(*signatures: Any, variant: str = "") -> Callable[[Any], Any]:
    """Return a decorator that compiles a function for these signatures, or loads its cached machine code.

    Args:
        signatures: numba's.
        variant: what the code depends on besides its source; each variant has its own machine code.
    """

    def compile_(function: Any) -> Any:
        function.__qualname__ += f"_{variant}" if variant else ""
        # A folder that is not writable or a damaged cache file must not stop the process.
        with contextlib.suppress(Exception):
            return njit(list(signatures), cache=True, **_OPTIONS)(function)
        return njit(list(signatures), **_OPTIONS)(function)

    return compile_


def declare_function(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Return an external function or LLVM intrinsic of this name and type, declared once per module."""
    declared = builder.module.globals.get(name)
    return declared or ir.Function(builder.module, ir.FunctionType(result, arguments), name)
