"""Operations that LLVM's vectorizer does not find, or that Python has no words for, for compiled code."""

import os
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nextchar.models.kernels.instruction_sets import target_features
from nextchar.models.kernels.jit import declare_function

MASK_BITS = 64
"""Elements that `equal_mask` compares."""

_MASK, _ID = ir.IntType(MASK_BITS), ir.IntType(16)


def _data(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Return the pointer to the elements of the first argument, an array."""
    return context.make_array(signature.args[0])(context, builder, arguments[0]).data


def _equal_mask(_: Any, array: Any, start: Any, value: Any) -> Any:
    """Return a uint64 whose bit k says whether array[start + k], of uint16, is `value`."""
    del start, value

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(_ID, MASK_BITS)
        address = builder.gep(_data(context, builder, signature, arguments), [arguments[1]])
        elements = builder.load(builder.bitcast(address, vector.as_pointer()))
        elements.align = 2
        undefined = ir.Constant(vector, ir.Undefined)
        first_lane = builder.insert_element(undefined, arguments[2], ir.IntType(32)(0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), MASK_BITS), [0] * MASK_BITS)
        values = builder.shuffle_vector(first_lane, undefined, lanes)
        return builder.bitcast(builder.icmp_unsigned("==", elements, values), _MASK)

    return types.uint64(array, types.intp, types.uint16), code


def _highest_bit(_: Any, mask: Any) -> Any:
    """Return the number, from 0 to 63, of the highest bit that is set; of 0 it is undefined."""
    del mask

    def code(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.sub(_MASK(MASK_BITS - 1), builder.ctlz(arguments[0], ir.IntType(1)(1)))

    return types.int64(types.uint64), code


def _prefetch(_: Any, array: Any, index: Any) -> Any:
    """Have the processor load array[index], of one dimension or a row of two, which is read soon."""
    del index

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        made = context.make_array(signature.args[0])(context, builder, arguments[0])
        at = arguments[1]
        if signature.args[0].ndim == 2:
            at = builder.mul(at, builder.extract_value(made.shape, 1))
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        address = builder.bitcast(builder.gep(made.data, [at]), byte)
        function = declare_function(
            builder, "llvm.prefetch.p0", ir.VoidType(), [byte, number, number, number]
        )
        builder.call(function, [address, number(0), number(3), number(1)])  # to read, often, data
        return context.get_dummy_value()

    return types.void(array, types.intp), code


_SUMS = 8  # of `dot`


def _dot(_: Any, a: Any, b: Any, count: Any) -> Any:
    """Return the sum of products of a[:count] and b[:count], float32, to the same bit on any processor.

    Eight sums of every eighth product are added in pairs, halves first; then what is left, one by one. The
    count is a constant.
    """
    number = ir.FloatType()
    lanes = ir.VectorType(number, _SUMS)

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        arrays = [
            context.make_array(type_)(context, builder, array).data
            for type_, array in zip(signature.args[:2], arguments[:2], strict=True)
        ]

        def product(i: int, kind: Any) -> Any:
            addresses = [builder.gep(data, [ir.IntType(64)(i)]) for data in arrays]
            loaded = [builder.load(builder.bitcast(address, kind.as_pointer())) for address in addresses]
            for value in loaded:
                value.align = 4
            return builder.fmul(*loaded)

        whole = count.literal_value // _SUMS * _SUMS
        values: Any = ir.Constant(lanes, [0.0] * _SUMS)
        for i in range(0, whole, _SUMS):
            values = builder.fadd(values, product(i, lanes))
        width = _SUMS
        while width > 1:
            width //= 2
            halves = [
                builder.shuffle_vector(values, values, ir.Constant(ir.VectorType(ir.IntType(32), width), n))
                for n in (list(range(width)), list(range(width, 2 * width)))
            ]
            values = builder.fadd(*halves)
        total = builder.extract_element(values, ir.IntType(32)(0))
        for i in range(whole, count.literal_value):
            total = builder.fadd(total, product(i, number))
        return total

    return types.float32(a, b, count), code


equal_mask: Any
highest_bit: Any
prefetch: Any
dot: Any
equal_mask, highest_bit, prefetch = (intrinsic(make) for make in (_equal_mask, _highest_bit, _prefetch))
dot = intrinsic(prefer_literal=True)(_dot)


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
