"""Atomic loads and stores, and ways to wait, for compiled code that two threads run on the same arrays."""

import os
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nextchar.models.kernels.instruction_sets import target_features
from nextchar.models.kernels.jit import declare_function


def _load_acquire(_: Any, array: Any, index: Any) -> Any:
    """Load array[index] (int64) with acquire semantics: it pairs with `store_release`."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load_atomic(builder.gep(data, [arguments[1]]), "acquire", 8)

    return types.int64(array, index), code


def _store_release(_: Any, array: Any, index: Any, value: Any) -> Any:
    """Store array[index] (int64) with release semantics: all earlier writes are visible to its reader."""
    del value

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        builder.store_atomic(arguments[2], builder.gep(data, [arguments[1]]), "release", 8)
        return context.get_dummy_value()

    return types.void(array, index, types.int64), code


def _spin_pause(_: Any) -> Any:
    """Pause for some tens of cycles in a spin loop, on processors with an instruction for it."""

    def code(context: Any, builder: Any, *_: Any) -> Any:
        if "sse2" in target_features():
            builder.call(declare_function(builder, "llvm.x86.sse2.pause", ir.VoidType(), []), [])
        return context.get_dummy_value()

    return types.void(), code


def _sched_yield(_: Any) -> Any:
    """Let another runnable thread have this core; does nothing outside POSIX."""

    def code(context: Any, builder: Any, *_: Any) -> Any:
        if os.name == "posix":
            builder.call(declare_function(builder, "sched_yield", ir.IntType(32), []), [])
        return context.get_dummy_value()

    return types.void(), code


load_acquire: Any
store_release: Any
spin_pause: Any
sched_yield: Any
load_acquire, store_release, spin_pause, sched_yield = (
    intrinsic(make) for make in (_load_acquire, _store_release, _spin_pause, _sched_yield)
)
