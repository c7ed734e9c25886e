"""The matrix products as compiled functions, a function per variant.

They are called, not inlined: a variant is compiled once for all its uses, and the code that uses it does not
depend on the variant.
"""

from types import FunctionType
from typing import Any

from nextchar.models.kernels.jit import compiled
from nextchar.models.kernels.product_kernels import ProductKernel, add_product_of, add_transposed_product_of

_SIGNATURES = {
    "int8": "void(int8[::1], int64, uint8[:,::1], int32[:,::1], int64, int64)",
    "float32": "void(float32[::1], int64, float32[:,::1], float32[:,::1], int64, int64)",
    "bfloat16": "void(uint32[::1], int64, uint16[:,::1], float32[:,::1], int64, int64)",
}

_TRANSPOSED_SIGNATURES = {
    "float32": "void(float32[:,:,::1], float32[:,:,::1], float32[:,::1])",
    "bfloat16": "void(uint32[:,:,::1], uint32[:,:,::1], float32[:,::1])",
}


def compiled_product(product: str, kernel: ProductKernel) -> Any:
    """Compile a variant, or load it from the cache: add_product(weights, first, x, sums, start, rows).

    For Python and for compiled code; see `product_kernels.add_product_of`.

    Args:
        product: int8, float32 or bfloat16.
        kernel: the variant.
    """
    # Not a closure, whose variables numba would make part of the cache's key.
    names = {"__name__": __name__, "_add_product": add_product_of(kernel)}
    function = FunctionType(_call.__code__, names, f"{product}_product")
    function.__qualname__ = function.__name__
    return compiled(_SIGNATURES[product], variant=kernel.name)(function)


def compiled_transposed_product(product: str, kernel: ProductKernel) -> Any:
    """Compile a variant, or load it from the cache: add_transposed_product(x, weights, sums).

    For Python and for compiled code; see `product_kernels.add_transposed_product_of`.

    Args:
        product: float32 or bfloat16.
        kernel: the variant.
    """
    names = {"__name__": __name__, "_add_product": add_transposed_product_of(kernel)}
    function = FunctionType(_call_transposed.__code__, names, f"{product}_transposed_product")
    function.__qualname__ = function.__name__
    return compiled(_TRANSPOSED_SIGNATURES[product], variant=kernel.name)(function)


_add_product: Any = None  # each copy of `_call` has its own


def _call(weights, first, x, sums, start, rows):  # type: ignore[no-untyped-def]
    _add_product(weights, first, x, sums, start, rows)


def _call_transposed(x, weights, sums):  # type: ignore[no-untyped-def]
    _add_product(x, weights, sums)
