"""Measures: of a patch, of its base and what is rounding of it, and of how far a model moved."""

import math

import numpy as np

from registry.breadcrumbs.kernels.constants import BF16, F16, F32, SPAN
from registry.breadcrumbs.kernels.cpu.compiling import exported, kernel
from registry.breadcrumbs.kernels.cpu.compose import (
    doubles_of_span,
    load_doubles,
    places_of_bits,
    places_of_indices,
    places_of_span,
)
from registry.breadcrumbs.kernels.cpu.intrinsics import load64, on_stack, ones

SIGNIFICAND, LEAST_STEP = (8, 11, 24), (-133, -24, -149)
"""Bits of the significand, and exponent of the least step between two numbers, by the code of a dtype."""

NEAR = (2.0**-7, 2.0**-10, 2.0**-23)
"""How far a number of each dtype may be from one, as a share of it, that it cannot tell from another."""

FRACTION, BIAS = 52, 1023
"""Bits of the fraction of a float64, and what its exponent is stored with."""

_totals_of_span = on_stack(np.float64, SPAN)
_scratch_of_span = on_stack(np.float64, 2, SPAN)


@exported("int64(uint8[::1], int64)")
def count_bits(octets, size):
    """Count the bits that are set in the first `size` bytes; PAD more may be read."""
    count = 0
    for at in range(0, size - 7, 8):
        count += ones(load64(octets, at))
    if size % 8:
        rest = load64(octets, size - size % 8)
        count += ones(rest & ((np.uint64(1) << np.uint64(8 * (size % 8))) - np.uint64(1)))
    return count


@exported("Tuple((float64, float64, float64, int64))(uint8[::1], int64, int64, int64)")
def measure_values(values, code, width, size):
    """Measure values in float64, in SPAN sums, each of every SPANth value, which are added up at the end.

    Args:
        values: uint8, the values' bytes, and PAD more.
        code, width: Their dtype, and bytes of each.
        size: How many there are.

    Returns:
        The sum of their magnitudes, the sum of their squares, the largest magnitude, and the number of the first value
        that is NaN or Inf, or -1.
    """
    doubles, used = doubles_of_span(), min(SPAN, size)
    totals, squares, largest = _totals_of_span(), _totals_of_span(), _totals_of_span()
    for place in range(used):
        totals[place] = squares[place] = largest[place] = 0.0
    for start in range(0, size, SPAN):
        span = min(SPAN, size - start)
        load_doubles(values, width * start, code, span, doubles)
        wild = False
        for place in range(span):
            value = abs(doubles[place])
            totals[place] += value
            squares[place] += value * value
            largest[place] = max(largest[place], value)
            wild |= not value < math.inf
        if wild:
            for place in range(span):
                if not np.isfinite(doubles[place]):
                    return 0.0, 0.0, 0.0, start + place
    total = square = most = 0.0
    for place in range(used):
        total += totals[place]
        square += squares[place]
        most = max(most, largest[place])
    return total, square, most, -1


@exported("Tuple((float64, int64))(uint8[::1], int64, int64, int64, int64, int64[:, ::1])")
def measure_on_base(arena, base_at, code, size, first, table):
    """Sum the squares of a chunk's base where it is finite, and count the values that rounding explains.

    Those are the values that training need not have made. With a base of 16 bits, such a value is one step of the
    base's dtype: it leads to the next number. With another base, it leads to the base's own weight, rounded to BF16 or
    F16.

    Args:
        arena, base_at, code, size, first: As `compose_chunk` has them.
        table: int64 [P, 5], as it has it; the rows are those of one patch, so there is one or none.
    """
    bases, values, touched = doubles_of_span(), doubles_of_span(), doubles_of_span()
    scratch, places = _scratch_of_span(), places_of_span()
    width = 2 if code <= F16 else 4 if code == F32 else 8
    squares, spent, counted = 0.0, 0, 0
    for start in range(0, size, SPAN):
        span = min(SPAN, size - start)
        load_doubles(arena, base_at + width * start, code, span, bases)
        for number in range(span):
            square = bases[number] * bases[number]
            squares += square if square < math.inf else 0.0
        for row in range(table.shape[0]):
            value_code, index_width = table[row, 2], table[row, 3]
            if index_width == 0:
                count = places_of_bits(arena, table[row, 0] + start // 8, span, places)
            else:
                at, left = table[row, 0] + index_width * spent, table[row, 4] - spent
                count = places_of_indices(arena, at, index_width, left, first + start, first + start + span, places)
            load_doubles(arena, table[row, 1] + spent * (4 if value_code == F32 else 2), value_code, count, values)
            for number in range(count):
                touched[number] = bases[np.int64(places[number])]
            if code <= F16:
                counted += _count_steps(touched, values, count, code)
            else:
                counted += _count_rounded(touched, values, count, value_code, scratch)
            spent += count
    return squares, counted


@kernel
def _count_steps(bases, values, count, code):
    """Count the values that lead from their base to the number before or after it, in the base's dtype."""
    base_bits, value_bits, steps = bases.view(np.int64), values.view(np.int64), 0
    low, least, fraction = SIGNIFICAND[code] - 1, LEAST_STEP[code] + BIAS, (1 << FRACTION) - 1
    for number in range(count):
        base, value = base_bits[number], value_bits[number]
        towards_zero = (base ^ value) < 0 and (base & fraction) == 0  # below a power of two numbers are denser
        exponent = max(((base >> FRACTION) & 0x7FF) - low - towards_zero, least)
        steps += (value & 0x7FFFFFFFFFFFFFFF) == exponent << FRACTION
    return steps


@kernel
def _count_rounded(bases, values, count, value_code, scratch):
    """Count the values that lead from their base to itself rounded to BF16 or F16, as near as their dtype can tell."""
    bits, near, rounded = bases.view(np.int64), NEAR[value_code], 0
    for code in (BF16, F16):
        magic = scratch[code].view(np.int64)
        low, least = SIGNIFICAND[code] - 1, LEAST_STEP[code] + BIAS
        for number in range(count):  # 1.5 * 2^52 steps: a sum with that is a whole number of steps
            exponent = max(((bits[number] >> FRACTION) & 0x7FF) - low, least) + FRACTION
            magic[number] = exponent << FRACTION | 1 << FRACTION - 1
    for number in range(count):
        base, value = bases[number], values[number]
        brain = (base + scratch[BF16, number]) - scratch[BF16, number] - base
        half = (base + scratch[F16, number]) - scratch[F16, number] - base
        reach = near * abs(value)
        rounded += value != 0 and (abs(value - brain) <= reach or abs(value - half) <= reach)
    return rounded


@exported("UniTuple(float64, 2)(uint8[::1], int64, uint8[::1], int64, int64)", any_order=True)
def measure_change(base, base_code, tuned, tuned_code, size):
    """Return the sums of the squares of tuned - base and of base, in float64.

    Args:
        base, tuned: uint8, the bytes of the elements, in memory that has PAD more.
        base_code, tuned_code: Their dtypes.
        size: How many elements.
    """
    before, after = doubles_of_span(), doubles_of_span()
    change = whole = 0.0
    base_width = 2 if base_code <= F16 else 4 if base_code == F32 else 8
    tuned_width = 2 if tuned_code <= F16 else 4 if tuned_code == F32 else 8
    for start in range(0, size, SPAN):
        span = min(SPAN, size - start)
        load_doubles(base, base_width * start, base_code, span, before)
        load_doubles(tuned, tuned_width * start, tuned_code, span, after)
        for place in range(span):
            delta = after[place] - before[place]
            change += delta * delta
            whole += before[place] * before[place]
    return change, whole
