"""Conflicts: measuring what patches do to the same weights.

    each patch: mask --> bits, places; values --> float32 where the bits are, and sums over all of them
    all masks:  bits, added up plane by plane --> how many weights are touched by 1, 2, ... patches
    each pair:  bits AND bits --> places --> both values --> counts and sums over the overlap

As in compose.py, 2,048 elements are processed at a time.
"""

from functools import partial

import numpy as np

from registry.breadcrumbs.kernels.constants import (
    DOT,
    F32,
    FIRST_SQUARES,
    L1,
    OPPOSED,
    OPPOSED_MASS,
    OVERLAP,
    OVERLAP_MASS,
    SECOND_SQUARES,
    SPAN,
    SQUARES,
    WORDS,
)
from registry.breadcrumbs.kernels.cpu.compiling import exported, kernel
from registry.breadcrumbs.kernels.cpu.compose import (
    doubles_of_span,
    load_doubles,
    places_of_bits,
    places_of_indices,
    places_of_span,
)
from registry.breadcrumbs.kernels.cpu.intrinsics import load64, on_stack, ones

_words_of_span = on_stack(np.uint64, WORDS)

summing = partial(kernel, any_order=True)


@exported(
    "void(uint8[::1], int64, int64, int64[:, ::1], int64[::1], int64[:, ::1], float64[:, ::1], int64[::1], int64[:, "
    "::1], float64[:, ::1], int64[::1], int64[::1], uint64[::1], uint64[:, ::1], float32[:, ::1])"
)
def measure_chunk(
    arena, size, first, table, numbers, pairs, own, census, counts, sums, row_of, used, words, planes, values
):
    """Measure a chunk as kernels/conflicts.py describes.

    The rest is scratch: int64 [P] and [R]; uint64 [(R + 1) * WORDS] and [N, WORDS], where R < 2^N; float32 [R, SPAN].
    """
    rows = table.shape[0]
    row_of[:] = -1
    for row in range(rows):
        row_of[numbers[row]] = row
        used[row] = 0
    octets, both = words.view(np.uint8), rows * WORDS
    doubles, places, carried = doubles_of_span(), places_of_span(), _words_of_span()
    for start in range(0, size, SPAN):
        span = min(SPAN, size - start)
        for row in range(rows):
            spent, code = used[row], table[row, 2]
            count = _take_mask(arena, table[row], start, span, spent, first, octets, words, row * WORDS, places)
            load_doubles(arena, table[row, 1] + spent * (4 if code == F32 else 2), code, count, doubles)
            for number in range(count):
                values[row, np.int64(places[number])] = doubles[number]
            _add_own(doubles, count, own[numbers[row]])
            used[row] = spent + count
        _take_census(words, rows, planes, carried, census)
        for pair in range(pairs.shape[0]):
            one, two = row_of[pairs[pair, 0]], row_of[pairs[pair, 1]]
            if one < 0 or two < 0:
                continue
            for word in range(WORDS):
                words[both + word] = words[one * WORDS + word] & words[two * WORDS + word]
            count = places_of_bits(octets, 8 * both, SPAN, places)
            _add_pair(values[one], values[two], places, count, counts[pair], sums[pair])


@kernel
def _length(number):
    """Return how many bits a number has."""
    bits = 0
    while number >> bits:
        bits += 1
    return bits


@kernel
def _take_mask(arena, row, start, span, spent, first, octets, words, at, places):
    """Copy the mask of a span to the words from `at` on, and list its places; return how many there are."""
    for word in range(at, at + WORDS):
        words[word] = 0
    if row[3] == 0:
        mask = row[0] + start // 8
        for word in range((span + 63) // 64):
            words[at + word] = load64(arena, mask + 8 * word)
        return places_of_bits(octets, 8 * at, SPAN, places)
    mask, left = row[0] + row[3] * spent, row[4] - spent
    count = places_of_indices(arena, mask, row[3], left, first + start, first + start + span, places)
    for number in range(count):
        place = np.int64(places[number])
        words[at + place // 64] |= np.uint64(1) << np.uint64(place % 64)
    return count


@kernel
def _take_census(words, rows, planes, carried, census):
    """Count how many weights of a span exactly 1, 2, ... patches touch.

    Args:
        words: uint64 [rows * WORDS], the mask of each patch.
        rows: How many patches.
        planes: uint64 [n, WORDS], scratch: plane p has bit p of how many patches touch each weight; rows < 2^n.
        carried: uint64 [WORDS], scratch.
        census: int64 [rows + 1], added to from element 1 on.
    """
    planes[:, :] = 0
    for row in range(rows):
        for word in range(WORDS):
            carried[word] = words[row * WORDS + word]
        for plane in range(_length(row + 1)):
            for word in range(WORDS):
                old = planes[plane, word]
                planes[plane, word] = old ^ carried[word]
                carried[word] &= old
    for number in range(1, rows + 1):
        for word in range(WORDS):
            carried[word] = ~np.uint64(0)
        for plane in range(planes.shape[0]):
            flip = np.uint64(0) if number >> plane & 1 else ~np.uint64(0)
            for word in range(WORDS):
                carried[word] &= planes[plane, word] ^ flip
        count = 0
        for word in range(WORDS):
            count += ones(carried[word])
        census[number] += count


@summing
def _add_own(doubles, count, own):
    """Add up values: float64 [count], into float64 [2]."""
    l1 = squares = 0.0
    for place in range(count):
        value = doubles[place]
        l1 += abs(value)
        squares += value * value
    own[L1] += l1
    own[SQUARES] += squares


@summing
def _add_pair(first, second, places, count, counts, sums):
    """Add up what a pair does to the weights that both touch.

    Args:
        first, second: float32 [SPAN], the values of each where its mask is set.
        places, count: uint16, the places where both masks are set, and how many there are.
        counts, sums: int64 [2] and float64 [5], added to.
    """
    opposed = 0
    overlap_mass = opposed_mass = dot = first_squares = second_squares = 0.0
    for number in range(count):
        place = np.int64(places[number])
        a, b = np.float64(first[place]), np.float64(second[place])
        product, less = a * b, min(abs(a), abs(b))
        against = product < 0.0  # exact: the least product is 2^-298
        opposed += against
        overlap_mass += less
        opposed_mass += less if against else 0.0
        dot += product
        first_squares += a * a
        second_squares += b * b
    counts[OVERLAP] += count
    counts[OPPOSED] += opposed
    sums[OVERLAP_MASS] += overlap_mass
    sums[OPPOSED_MASS] += opposed_mass
    sums[DOT] += dot
    sums[FIRST_SQUARES] += first_squares
    sums[SECOND_SQUARES] += second_squares
