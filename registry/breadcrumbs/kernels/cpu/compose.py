"""Composing a chunk of one tensor.

    base bytes --> float64 sums --+--> rounded bytes          2,048 elements at a time, which stay in the L1 cache
    each patch: mask --> places, values x scale ^             while every patch is added in order

With `ties` and `mean` patches are added to masses, 1,024 elements at a time; their means are added to the sums.
"""

import numpy as np

from registry.breadcrumbs.kernels.constants import BF16, F16, F32, MEAN, SPAN, SUM, TIES
from registry.breadcrumbs.kernels.cpu.compiling import exported, kernel
from registry.breadcrumbs.kernels.cpu.intrinsics import WIDE, load32, load64, lowest, on_stack, ones, prefetch
from registry.breadcrumbs.kernels.cpu.vectors import (
    compress_places,
    double_bf16,
    double_f16,
    double_f32,
    double_f64,
    finish_bf16,
    finish_f16,
    finish_f32,
    finish_f64,
    scale_bf16,
    scale_f16,
    scale_f32,
)

AHEAD = 2
"""How many patches ahead of the current one bytes are prefetched."""


doubles_of_span = on_stack(np.float64, SPAN + 16)
"""Make room for the float64 of a span, and of the vector that its last elements are in."""

places_of_span = on_stack(np.uint16, SPAN + 32)
"""Make room for the places of a span."""

_masses_of_span = on_stack(np.float64, SPAN)


@kernel
def _places_of_bits_wide(arena, at, size, places):
    count = 0
    for start in range(0, size, 32):
        word = load32(arena, at + start // 8)
        compress_places(word, start, places, count)
        count += ones(np.uint64(word))
    return count


@kernel
def _places_of_bits_plain(arena, at, size, places):
    count = 0
    for start in range(0, size, 64):
        word = load64(arena, at + start // 8)
        while word != np.uint64(0):
            places[count] = start + lowest(word)
            count += 1
            word &= word - np.uint64(1)
    return count


places_of_bits = _places_of_bits_wide if WIDE else _places_of_bits_plain
"""List the places of the bits that are set in a mask, in order, as uint16: (arena, offset, size, places) -> how many
are set; `places` has room for 32 more."""


@kernel
def places_of_indices(arena, at, width, count, first, stop, places):
    """List the indices below `stop`, which increase, less `first`, as uint16; return how many there are."""
    listed = 0
    while listed < count:
        index = np.int64(load32(arena, at + 4 * listed)) if width == 4 else np.int64(load64(arena, at + 8 * listed))
        if index >= stop:
            break
        places[listed] = index - first
        listed += 1
    return listed


@kernel
def _scaled(arena, at, code, count, scale, products):
    """Multiply values of a dtype by a float32 scale, exactly, into float64 products."""
    if code == BF16:
        for place in range(0, count, 16):
            scale_bf16(arena, at + 2 * place, scale, products, place)
    elif code == F16:
        for place in range(0, count, 16):
            scale_f16(arena, at + 2 * place, scale, products, place)
    else:
        for place in range(0, count, 16):
            scale_f32(arena, at + 4 * place, scale, products, place)


@kernel
def load_doubles(arena, at, code, size, sums):
    """Load `size` elements of a dtype from a byte offset on into float64 sums."""
    if code == BF16:
        for place in range(0, size, 16):
            double_bf16(arena, at + 2 * place, sums, place)
    elif code == F16:
        for place in range(0, size, 16):
            double_f16(arena, at + 2 * place, sums, place)
    elif code == F32:
        for place in range(0, size, 16):
            double_f32(arena, at + 4 * place, sums, place)
    else:
        for place in range(0, size, 16):
            double_f64(arena, at + 8 * place, sums, place)


@kernel
def _finish(sums, arena, at, code, size, out, to):
    """Round sums to the base's dtype; return how many overflow."""
    lost = 0
    for place in range(0, size, 16):
        if code == BF16:
            bad = finish_bf16(sums, place, arena, at + 2 * place, out, to + 2 * place)
        elif code == F16:
            bad = finish_f16(sums, place, arena, at + 2 * place, out, to + 2 * place)
        elif code == F32:
            bad = finish_f32(sums, place, arena, at + 4 * place, out, to + 4 * place)
        else:
            bad = finish_f64(sums, place, arena, at + 8 * place, out, to + 8 * place)
        if size - place < 16:
            bad &= np.uint64((1 << (size - place)) - 1)
        lost += ones(bad)
    return lost


@kernel
def _prefetch_next(arena, row, start, spent):
    """Prefetch a patch's next bytes: with many patches, no processor predicts them."""
    mask = row[0] + (start // 8 if row[3] == 0 else row[3] * spent)
    for line in range(0, SPAN // 8, 64):
        prefetch(arena, mask + line)
    values = row[1] + spent * (4 if row[2] == F32 else 2)
    for line in range(0, SPAN // 4, 64):
        prefetch(arena, values + line)


@kernel
def _vote_by_sign(masses, weights, reach, places, products, count, weight):
    """Add products to the masses of their signs, [2 * reach]: plus, then minus; and what voted to the weights."""
    for number in range(count):
        product = products[number]
        at = np.int64(places[number]) + reach * np.int64(product < 0)
        masses[at] += abs(product)
        weights[at] += weight * np.float64(product != 0)


@kernel
def _elect(masses, weights, reach, size, alpha, sums):
    """Add alpha times the mean of the sign with more mass to every sum that has votes; equal masses elect plus."""
    pluses, minuses, plus_weights, minus_weights = masses[:reach], masses[reach:], weights[:reach], weights[reach:]
    for place in range(size):
        plus, minus, plus_weight, minus_weight = (
            pluses[place],
            minuses[place],
            plus_weights[place],
            minus_weights[place],
        )
        elected = plus >= minus
        weight = plus_weight if elected else minus_weight
        total = sums[place] + alpha * np.float64(np.float32((plus if elected else -minus) / weight))
        sums[place] = total if weight != 0 else sums[place]


@kernel
def _vote(masses, weights, places, products, count, weight):
    """Add products, and the weight for each."""
    for number in range(count):
        at = np.int64(places[number])
        masses[at] += products[number]
        weights[at] += weight


@kernel
def _average(masses, weights, size, alpha, sums):
    """Add alpha times the mean of the products to every sum that has votes."""
    for place in range(size):
        weight = weights[place]
        total = sums[place] + alpha * np.float64(np.float32(masses[place] / weight))
        sums[place] = total if weight != 0 else sums[place]


@exported(
    "int64(uint8[::1], int64, int64, int64, int64, int64[:, ::1], float64[::1], uint8[::1], int64, float64, int64[::1])"
)
def compose_chunk(arena, base_at, code, size, first, table, scales, out, method, alpha, used):
    """Compose a chunk as kernels/compose.py describes; `used`, int64 [P], is scratch."""
    reach = SPAN if method == SUM else SPAN // 2
    sums, products, places = doubles_of_span(), doubles_of_span(), places_of_span()
    masses, weights = _masses_of_span(), _masses_of_span()
    used[:] = 0
    width = 2 if code <= F16 else 4 if code == F32 else 8
    lost = 0
    for start in range(0, size, reach):
        span = min(reach, size - start)
        load_doubles(arena, base_at + width * start, code, span, sums)
        if method != SUM:
            masses[:] = 0.0
            weights[:] = 0.0
        for patch in range(table.shape[0]):
            mask_at, values_at, value_code = table[patch, 0], table[patch, 1], table[patch, 2]
            index_width, total = table[patch, 3], table[patch, 4]
            spent = used[patch]
            if patch + AHEAD < table.shape[0]:
                _prefetch_next(arena, table[patch + AHEAD], start, used[patch + AHEAD])
            if index_width == 0:
                count = places_of_bits(arena, mask_at + start // 8, span, places)
            else:
                at, left = mask_at + index_width * spent, total - spent
                count = places_of_indices(arena, at, index_width, left, first + start, first + start + span, places)
            values_at += spent * (4 if value_code == F32 else 2)
            _scaled(arena, values_at, value_code, count, scales[patch], products)
            if method == SUM:
                for number in range(count):
                    sums[np.int64(places[number])] += products[number]
            elif method == TIES:
                _vote_by_sign(masses, weights, reach, places, products, count, scales[patch])
            else:
                _vote(masses, weights, places, products, count, scales[patch])
            used[patch] = spent + count
        if method == TIES:
            _elect(masses, weights, reach, span, alpha, sums)
        elif method == MEAN:
            _average(masses, weights, span, alpha, sums)
        lost += _finish(sums, arena, base_at + width * start, code, span, out, width * start)
    return lost
