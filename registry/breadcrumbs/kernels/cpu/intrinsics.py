"""Intrinsics: LLVM operations that numba does not offer, such as unaligned loads and bit counts; vectors.py has more.

Each takes a contiguous array and a byte offset or an element number, and checks neither: the kernels do. All are
portable LLVM IR, except some of vectors.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import from_dtype, types
from numba.core.cgutils import alloca_once, get_or_insert_function
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

from registry.breadcrumbs.kernels.cpu.target import features, is_x86

LANES = 16
"""Elements of a vector; arrays need room for a whole last vector."""

WIDE = "+avx512vbmi2" in features()
"""Whether the processor that code is generated for packs 16-bit lanes by a mask (VPCOMPRESSW)."""

HALVES = "+f16c" in features() or not is_x86()
"""Whether it converts float16; without such an instruction LLVM would call a function that numba does not link."""

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
HALF, SINGLE, DOUBLE = ir.HalfType(), ir.FloatType(), ir.DoubleType()


def lanes(kind: ir.Type, count: int = LANES) -> ir.VectorType:
    """Return the vector type of `count` lanes."""
    return ir.VectorType(kind, count)


def filled(kind: ir.Type, value: int, count: int = LANES) -> ir.Constant:
    """Return a vector of one value."""
    return ir.Constant(lanes(kind, count), [value] * count)


def pointer(context: Any, builder: Any, array_type: Any, array: Any, at: Any, width: int, kind: ir.Type) -> Any:
    """Return a pointer to `kind` at element `at` of `width` bytes."""
    data = builder.bitcast(context.make_array(array_type)(context, builder, array).data, I8.as_pointer())
    return builder.bitcast(builder.gep(data, [builder.mul(at, ir.Constant(I64, width))]), kind.as_pointer())


def _loader(kind: ir.Type, result: Any) -> Any:
    @intrinsic
    def load(typing_context: Any, array: Any, at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.load(pointer(context, builder, signature.args[0], args[0], args[1], 1, kind), align=1)

        return result(array, types.int64), generate

    return load


load32, load64 = (_loader(kind, result) for kind, result in ((I32, types.uint32), (I64, types.uint64)))
"""Load a little-endian word at a byte offset: (array, offset) -> unsigned integer."""


def _storer(kind: ir.Type, value_type: Any) -> Any:
    @intrinsic
    def store(typing_context: Any, array: Any, at: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.store(args[2], pointer(context, builder, signature.args[0], args[0], args[1], 1, kind), align=1)
            return context.get_dummy_value()

        return types.void(array, types.int64, value_type), generate

    return store


store32, store64 = (_storer(kind, value) for kind, value in ((I32, types.uint32), (I64, types.uint64)))
"""Store a little-endian word at a byte offset: (array, offset, value)."""


@intrinsic
def bits_of(typing_context: Any, value: Any) -> Any:
    """Return the bits of a float32 as uint32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], I32)

    return types.uint32(types.float32), generate


@intrinsic
def ones(typing_context: Any, word: Any) -> Any:
    """Count the bits that are set in a uint64, as int64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), generate


@intrinsic
def lowest(typing_context: Any, word: Any) -> Any:
    """Return the place of the lowest bit that is set in a uint64 that is not 0, as int64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(I1, 1))

    return types.int64(types.uint64), generate


@intrinsic
def deposit(typing_context: Any, bits: Any, mask: Any) -> Any:
    """Move the lowest bits, one after another, to where a mask has ones (PDEP): (bits, mask) -> uint64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(I64, [I64, I64])
        return builder.call(get_or_insert_function(builder.module, kind, "llvm.x86.bmi.pdep.64"), args)

    return types.uint64(types.uint64, types.uint64), generate


@intrinsic
def prefetch(typing_context: Any, array: Any, at: Any) -> Any:
    """Prefetch the cache line of a byte that will be read: (array, offset)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = pointer(context, builder, signature.args[0], args[0], args[1], 1, I8)
        kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
        function = get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [address, ir.Constant(I32, 0), ir.Constant(I32, 3), ir.Constant(I32, 1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


pread = types.ExternalFunction("pread", types.intp(types.int32, types.voidptr, types.uintp, types.int64))
"""POSIX pread(file, address, bytes, offset) -> bytes read, or -1."""


@intrinsic
def address_of(typing_context: Any, array: Any, at: Any) -> Any:
    """Return the address of a byte of an array: (array, offset)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return pointer(context, builder, signature.args[0], args[0], args[1], 1, I8)

    return types.voidptr(array, types.int64), generate


def array_of(context: Any, builder: Any, array_type: Any, memory: Any, sizes: list[Any]) -> Any:
    """Return a contiguous array of memory that numba does not own."""
    item = ir.Constant(I64, context.get_abi_sizeof(context.get_data_type(array_type.dtype)))
    strides = [item]
    for size in reversed(sizes[1:]):
        strides.insert(0, builder.mul(strides[0], size))
    array = make_array(array_type)(context, builder)
    populate_array(array, memory, sizes, strides, item, None)
    return array._getvalue()


def on_stack(dtype: type, *shape: int) -> Any:
    """Return an intrinsic, () -> array, whose memory stays until the kernel returns; nothing fills it."""
    array_type = types.Array(from_dtype(np.dtype(dtype)), len(shape), "C")

    @intrinsic
    def make(typing_context: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind, sizes = context.get_data_type(array_type.dtype), [ir.Constant(I64, size) for size in shape]
            memory = alloca_once(builder, kind, size=ir.Constant(I64, int(np.prod(shape))))
            return array_of(context, builder, array_type, memory, sizes)

        return array_type(), generate

    return make
