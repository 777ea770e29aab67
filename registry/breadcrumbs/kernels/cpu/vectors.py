"""Vectors: intrinsics on many elements at once, mostly sixteen, which load, scale, round, compare and pack them.

All are portable LLVM IR except the `compress` ones, which are AVX-512; `WIDE`, in intrinsics.py, says whether this
processor has them.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic

from registry.breadcrumbs.kernels.cpu.intrinsics import (
    DOUBLE,
    HALF,
    HALVES,
    I1,
    I8,
    I16,
    I32,
    I64,
    LANES,
    SINGLE,
    filled,
    lanes,
    pointer,
)


def _load_lanes(context: Any, builder: Any, array_type: Any, array: Any, at: Any, dtype: str) -> Any:
    """Load sixteen elements of a dtype at a byte offset: as float32 lanes, or float64 for F64."""
    kind = {"BF16": I16, "F16": HALF if HALVES else I16, "F32": SINGLE, "F64": DOUBLE}[dtype]
    loaded = builder.load(pointer(context, builder, array_type, array, at, 1, lanes(kind)), align=1)
    if dtype == "BF16":
        wide = builder.shl(builder.zext(loaded, lanes(I32)), filled(I32, 16))
        return builder.bitcast(wide, lanes(SINGLE))
    if dtype == "F16":
        return builder.fpext(loaded, lanes(SINGLE)) if HALVES else _half_to_single(builder, loaded)
    return loaded


def _half_to_single(builder: Any, halves: Any) -> Any:
    """Widen the bits of float16 lanes: shifted into place, normal or subnormal, they still need a factor of 2^112."""
    wide = builder.zext(halves, lanes(I32))
    sign = builder.shl(builder.and_(wide, filled(I32, 0x8000)), filled(I32, 16))
    size = builder.shl(builder.and_(wide, filled(I32, 0x7FFF)), filled(I32, 13))
    factor = ir.Constant(lanes(SINGLE), [2.0**112] * LANES)
    finite = builder.bitcast(builder.fmul(builder.bitcast(size, lanes(SINGLE)), factor), lanes(I32))
    not_finite = builder.icmp_unsigned(">=", size, filled(I32, 0x7C00 << 13))
    bits = builder.select(not_finite, builder.or_(size, filled(I32, 0x7F800000)), finite)
    return builder.bitcast(builder.or_(bits, sign), lanes(SINGLE))


def _single_to_half(builder: Any, values: Any) -> Any:
    """Round float32 lanes to the bits of float16, nearest even; below 2^-14 by adding 0.5, whose last bit is 2^-24."""
    bits = builder.bitcast(values, lanes(I32))
    sign = builder.lshr(builder.and_(bits, filled(I32, 0x80000000)), filled(I32, 16))
    size = builder.and_(bits, filled(I32, 0x7FFFFFFF))
    odd = builder.and_(builder.lshr(size, filled(I32, 13)), filled(I32, 1))
    rounded = builder.add(builder.add(size, filled(I32, 0xFFF)), odd)
    normal = builder.lshr(builder.sub(rounded, filled(I32, 112 << 23)), filled(I32, 13))
    sum_ = builder.fadd(builder.bitcast(size, lanes(SINGLE)), ir.Constant(lanes(SINGLE), [0.5] * LANES))
    small = builder.sub(builder.bitcast(sum_, lanes(I32)), filled(I32, 0x3F000000))
    half = builder.select(builder.icmp_unsigned("<", size, filled(I32, 113 << 23)), small, normal)
    half = builder.select(builder.icmp_unsigned(">=", size, filled(I32, 0x47800000)), filled(I32, 0x7C00), half)
    return builder.trunc(builder.or_(half, sign), lanes(I16))


def _narrow_lanes(builder: Any, values: Any, dtype: str) -> Any:
    """Round float32 lanes, of which none is NaN, to a dtype, nearest even, and return their bits."""
    if dtype == "F32":
        return builder.bitcast(values, lanes(I32))
    if dtype == "F16":
        if not HALVES:
            return _single_to_half(builder, values)
        return builder.bitcast(builder.fptrunc(values, lanes(HALF)), lanes(I16))
    bits = builder.bitcast(values, lanes(I32))
    odd = builder.and_(builder.lshr(bits, filled(I32, 16)), filled(I32, 1))
    rounded = builder.add(builder.add(bits, filled(I32, 0x7FFF)), odd)
    return builder.trunc(builder.lshr(rounded, filled(I32, 16)), lanes(I16))


EXPONENT = {"BF16": (I16, 0x7F80), "F16": (I16, 0x7C00), "F32": (I32, 0x7F800000), "F64": (I64, 0x7FF << 52)}
"""The integer that holds a float of a dtype, and the bits that are all set in NaN and Inf and in nothing else."""


def _scaler(dtype: str) -> Any:
    @intrinsic
    def scale(typing_context: Any, array: Any, at: Any, factor: Any, out: Any, place: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            array, at, factor, out, place = args
            values = _load_lanes(context, builder, signature.args[0], array, at, dtype)
            factors = builder.insert_element(ir.Constant(lanes(DOUBLE), ir.Undefined), factor, ir.Constant(I32, 0))
            factors = builder.shuffle_vector(factors, ir.Constant(lanes(DOUBLE), ir.Undefined), filled(I32, 0))
            products = builder.fmul(builder.fpext(values, lanes(DOUBLE)), factors)
            target = pointer(context, builder, signature.args[3], out, place, 8, lanes(DOUBLE))
            builder.store(products, target, align=1)
            return context.get_dummy_value()

        return types.void(array, types.int64, types.float64, out, types.int64), generate

    return scale


scale_bf16, scale_f16, scale_f32 = (_scaler(dtype) for dtype in ("BF16", "F16", "F32"))
"""Load sixteen elements and store their float64 products: (array, offset, factor, out, element number)."""


def _widener(dtype: str, to: ir.Type) -> Any:
    @intrinsic
    def widen(typing_context: Any, array: Any, at: Any, out: Any, place: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            values = _load_lanes(context, builder, signature.args[0], args[0], args[1], dtype)
            if to is DOUBLE and dtype != "F64":
                values = builder.fpext(values, lanes(DOUBLE))
            target = pointer(
                context, builder, signature.args[2], args[2], args[3], 8 if to is DOUBLE else 4, values.type
            )
            builder.store(values, target, align=1)
            return context.get_dummy_value()

        return types.void(array, types.int64, out, types.int64), generate

    return widen


double_bf16, double_f16, double_f32, double_f64 = (_widener(dtype, DOUBLE) for dtype in EXPONENT)
"""Load sixteen elements at a byte offset and store them as float64: (array, offset, out, element number)."""

single_bf16, single_f16, single_f32 = (_widener(dtype, SINGLE) for dtype in ("BF16", "F16", "F32"))
"""Load sixteen elements at a byte offset and store them as float32: (array, offset, out, element number)."""


def _rounder(dtype: str) -> Any:
    holder, exponent = EXPONENT[dtype]

    @intrinsic
    def finish(typing_context: Any, acc: Any, place: Any, array: Any, at: Any, out: Any, to: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            acc, place, array, at, out, to = args
            source = pointer(context, builder, signature.args[0], acc, place, 8, lanes(DOUBLE))
            sums = builder.load(source, align=1)
            not_finite = filled(I1, 0)
            if dtype == "F64":
                result = builder.bitcast(sums, lanes(I64))
            else:
                single = builder.fptrunc(sums, lanes(SINGLE))
                result = _narrow_lanes(builder, single, dtype)
                all_set = filled(I32, EXPONENT["F32"][1])  # a NaN's payload may carry over when it is rounded
                not_finite = builder.icmp_unsigned(
                    "==", builder.and_(builder.bitcast(single, lanes(I32)), all_set), all_set
                )
            source = pointer(context, builder, signature.args[2], array, at, 1, lanes(holder))
            before, mask = builder.load(source, align=1), filled(holder, exponent)
            sound = builder.icmp_unsigned("!=", builder.and_(before, mask), mask)
            not_finite = builder.or_(not_finite, builder.icmp_unsigned("==", builder.and_(result, mask), mask))
            lost = builder.and_(sound, not_finite)
            target = pointer(context, builder, signature.args[4], out, to, 1, lanes(holder))
            builder.store(builder.select(sound, result, before), target, align=1)
            return builder.zext(builder.bitcast(lost, I16), I64)

        return types.uint64(acc, types.int64, array, types.int64, out, types.int64), generate

    return finish


finish_bf16, finish_f16, finish_f32, finish_f64 = (_rounder(dtype) for dtype in EXPONENT)
"""Round sixteen float64 sums to a dtype, keeping the bits of what was NaN or Inf before.

(sums, element number, bytes before, offset, bytes after, offset) -> uint64, a bit for each lane that overflowed.
"""


def _narrower(dtype: str) -> Any:
    holder, exponent = EXPONENT[dtype]

    @intrinsic
    def narrow(typing_context: Any, values: Any, place: Any, out: Any, to: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            values, place, out, to = args
            source = pointer(context, builder, signature.args[0], values, place, 4, lanes(SINGLE))
            result = _narrow_lanes(builder, builder.load(source, align=1), dtype)
            builder.store(result, pointer(context, builder, signature.args[2], out, to, 1, lanes(holder)), align=1)
            mask = filled(holder, exponent)
            infinite = builder.icmp_unsigned("==", builder.and_(result, mask), mask)
            return builder.zext(builder.bitcast(infinite, I16), I64)

        return types.uint64(values, types.int64, out, types.int64), generate

    return narrow


narrow_bf16, narrow_f16, narrow_f32 = (_narrower(dtype) for dtype in ("BF16", "F16", "F32"))
"""Round sixteen float32 to a dtype: (values, element number, out, offset) -> uint64, a bit for each Inf."""


def _compressor(kind: ir.Type, count: int, name: str) -> Callable[..., Any]:
    def compress(builder: Any, values: Any, mask: Any) -> Any:
        wide, bits = lanes(kind, count), lanes(I1, count)
        signature = ir.FunctionType(wide, [wide, wide, bits])
        function = get_or_insert_function(builder.module, signature, f"llvm.x86.avx512.mask.compress.{name}")
        return builder.call(function, [values, ir.Constant(wide, ir.Undefined), mask])

    return compress


_compress_places = _compressor(I16, 32, "v32i16")
_compress_floats = _compressor(SINGLE, LANES, "v16f32")


@intrinsic
def compress_places(typing_context: Any, word: Any, first: Any, places: Any, at: Any) -> Any:
    """Store `first` + the place of each bit that is set in a uint32, in order, as uint16 from places[at] on.

    32 places are written, whatever the bits: (word, first, places, at).
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word, first, places, at = args
        wide = lanes(I16, 32)
        start = builder.insert_element(ir.Constant(wide, ir.Undefined), builder.trunc(first, I16), ir.Constant(I32, 0))
        start = builder.shuffle_vector(start, ir.Constant(wide, ir.Undefined), filled(I32, 0, 32))
        every = builder.add(start, ir.Constant(wide, list(range(32))))
        packed = _compress_places(builder, every, builder.bitcast(word, lanes(I1, 32)))
        builder.store(packed, pointer(context, builder, signature.args[2], places, at, 2, wide), align=1)
        return context.get_dummy_value()

    return types.void(types.uint32, types.int64, places, types.int64), generate


@intrinsic
def compress_large(typing_context: Any, delta: Any, place: Any, floor: Any, values: Any, at: Any) -> Any:
    """Store those of sixteen float32 whose magnitude's bits are `floor` or more, in order, from values[at] on.

    16 values are written, however many are stored: (delta, element number, floor, values, at) -> uint64, the mask in
    the low 16 bits, and above it a mask of the lanes that are NaN or Inf.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        delta, place, floor, values, at = args
        loaded = builder.load(pointer(context, builder, signature.args[0], delta, place, 4, lanes(SINGLE)), align=1)
        keys = builder.and_(builder.bitcast(loaded, lanes(I32)), filled(I32, 0x7FFFFFFF))
        least = builder.insert_element(ir.Constant(lanes(I32), ir.Undefined), floor, ir.Constant(I32, 0))
        least = builder.shuffle_vector(least, ir.Constant(lanes(I32), ir.Undefined), filled(I32, 0))
        large = builder.icmp_unsigned(">=", keys, least)
        packed = _compress_floats(builder, loaded, large)
        builder.store(packed, pointer(context, builder, signature.args[3], values, at, 4, lanes(SINGLE)), align=1)
        not_finite = builder.icmp_unsigned(">=", keys, filled(I32, 0x7F800000))
        masks = [builder.zext(builder.bitcast(mask, I16), I64) for mask in (large, not_finite)]
        return builder.or_(masks[0], builder.shl(masks[1], ir.Constant(I64, LANES)))

    return types.uint64(delta, types.int64, types.uint32, values, types.int64), generate


def _keys(builder: Any, values: Any) -> Any:
    return builder.and_(builder.bitcast(values, lanes(I32)), filled(I32, 0x7FFFFFFF))


def _spread(builder: Any, value: Any, kind: ir.Type) -> Any:
    """Return sixteen lanes with one value."""
    one = builder.insert_element(ir.Constant(lanes(kind), ir.Undefined), value, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, ir.Constant(lanes(kind), ir.Undefined), filled(I32, 0))


def _mask_bits(builder: Any, mask: Any) -> Any:
    return builder.zext(builder.bitcast(mask, I16), I64)


@intrinsic
def compare_keys(typing_context: Any, values: Any, place: Any, bottom: Any, top: Any) -> Any:
    """Compare the keys of sixteen float32 with two others: (values, element number, bottom, top) -> uint64.

    From the lowest bits up, sixteen each: above bottom, equal to bottom, above top, equal to top.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values, place, bottom, top = args
        loaded = builder.load(pointer(context, builder, signature.args[0], values, place, 4, lanes(SINGLE)), align=1)
        keys, result = _keys(builder, loaded), ir.Constant(I64, 0)
        for number, (operator, other) in enumerate(((">", bottom), ("==", bottom), (">", top), ("==", top))):
            mask = _mask_bits(builder, builder.icmp_unsigned(operator, keys, _spread(builder, other, I32)))
            result = builder.or_(result, builder.shl(mask, ir.Constant(I64, LANES * number)))
        return result

    return types.uint64(values, types.int64, types.uint32, types.uint32), generate


@intrinsic
def compress_values(typing_context: Any, values: Any, place: Any, mask: Any, out: Any, at: Any) -> Any:
    """Store those of sixteen float32 whose bit in a mask is set, in order, from out[at] on; sixteen are written.

    (values, element number, mask in the low bits of a uint64, out, at)
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values, place, mask, out, at = args
        loaded = builder.load(pointer(context, builder, signature.args[0], values, place, 4, lanes(SINGLE)), align=1)
        packed = _compress_floats(builder, loaded, builder.bitcast(builder.trunc(mask, I16), lanes(I1)))
        builder.store(packed, pointer(context, builder, signature.args[3], out, at, 4, lanes(SINGLE)), align=1)
        return context.get_dummy_value()

    return types.void(values, types.int64, types.uint64, out, types.int64), generate


@intrinsic
def in_bins(typing_context: Any, values: Any, place: Any, shift: Any, one: Any, other: Any) -> Any:
    """Return which of sixteen float32 have a key whose bits from `shift` on are `one` or `other`.

    (values, element number, shift, one, other) -> uint64, a bit for each.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values, place, shift, one, other = args
        loaded = builder.load(pointer(context, builder, signature.args[0], values, place, 4, lanes(SINGLE)), align=1)
        high = builder.lshr(_keys(builder, loaded), _spread(builder, shift, I32))
        first = builder.icmp_unsigned("==", high, _spread(builder, one, I32))
        second = builder.icmp_unsigned("==", high, _spread(builder, other, I32))
        return _mask_bits(builder, builder.or_(first, second))

    return types.uint64(values, types.int64, types.uint32, types.uint32, types.uint32), generate


@intrinsic
def pack_flags(typing_context: Any, flags: Any, at: Any) -> Any:
    """Pack 64 bytes into 64 bits, each set where its byte is not 0: (flags, element number) -> uint64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        loaded = builder.load(pointer(context, builder, signature.args[0], args[0], args[1], 1, lanes(I8, 64)), align=1)
        return builder.bitcast(builder.icmp_unsigned("!=", loaded, filled(I8, 0, 64)), I64)

    return types.uint64(flags, types.int64), generate
