"""Adapters: adding to a weight the product of two factors, or two products multiplied by each other."""

import numpy as np

from registry.breadcrumbs.kernels.constants import F16, F32, SPAN
from registry.breadcrumbs.kernels.cpu.compiling import exported, kernel
from registry.breadcrumbs.kernels.cpu.compose import doubles_of_span, load_doubles


@kernel
def _sum_products(left, right, row, column, run, sums):
    """Compute elements column..column + run - 1 of a row of left @ right, in float64, in the order of the rank.

    Args:
        left: float64 [rows, rank].
        right: float64 [rank, columns].
        row, column, run: The elements.
        sums: float64 [run or more]; its first `run` are filled.
    """
    sums[:run] = 0
    for number in range(right.shape[0]):
        factor, factors = np.float64(left[row, number]), right[number, column : column + run]
        for place in range(run):
            sums[place] += factor * np.float64(factors[place])


@exported("void(uint8[::1], int64, int64, int64, float64[:, ::1], float64[:, ::1], float64, float64[::1])")
def add_product(weights, code, first, size, left, right, scale, out):
    """Compute elements first..first + size - 1 of weight + scale * (left @ right), in row-major order.

    The sum is made in the order of the rank, then multiplied by scale, and the weight is added.

    Args:
        weights: uint8, the weight's bytes from element `first` on, and PAD more.
        code: The weight's dtype.
        first, size: The elements.
        left: float64 [rows, rank].
        right: float64 [rank, columns].
        scale: The factor of the product.
        out: float64 [size], filled.
    """
    columns = right.shape[1]
    width = 2 if code <= F16 else 4 if code == F32 else 8
    doubles, sums = doubles_of_span(), doubles_of_span()
    for start in range(0, size, SPAN):
        span = min(SPAN, size - start)
        load_doubles(weights, width * start, code, span, doubles)
        done = 0
        while done < span:
            row = (first + start + done) // columns
            column = (first + start + done) % columns
            run = min(span - done, columns - column)
            _sum_products(left, right, row, column, run, sums)
            before, after = doubles[done : done + run], out[start + done : start + done + run]
            for place in range(run):
                after[place] = before[place] + scale * sums[place]
            done += run


@exported(
    "void(uint8[::1], int64, int64, int64, float64[:, ::1], float64[:, ::1], float64[:, ::1], float64[:, ::1], "
    "float64, float64[::1])"
)
def add_hadamard(weights, code, first, size, left, right, other_left, other_right, scale, out):
    """Compute elements of weight + scale * ((left @ right) * (other_left @ other_right)), in row-major order.

    Both sums are made in the order of the rank, then multiplied by each other and by scale, and the weight is added.

    Args:
        weights, code, first, size, scale, out: As of `add_product`.
        left, other_left: float64 [rows, rank].
        right, other_right: float64 [rank, columns].
    """
    columns = right.shape[1]
    width = 2 if code <= F16 else 4 if code == F32 else 8
    doubles, sums, others = doubles_of_span(), doubles_of_span(), doubles_of_span()
    for start in range(0, size, SPAN):
        span = min(SPAN, size - start)
        load_doubles(weights, width * start, code, span, doubles)
        done = 0
        while done < span:
            row = (first + start + done) // columns
            column = (first + start + done) % columns
            run = min(span - done, columns - column)
            _sum_products(left, right, row, column, run, sums)
            _sum_products(other_left, other_right, row, column, run, others)
            before, after = doubles[done : done + run], out[start + done : start + done + run]
            for place in range(run):
                after[place] = before[place] + scale * (sums[place] * others[place])
            done += run


@exported("void(uint8[::1], int64, int64, int64, float64[:, ::1], float64[:, ::1], float64, float64[::1])")
def add_kronecker(weights, code, first, size, outer, inner, scale, out):
    """Compute elements of weight + scale * (the Kronecker product of outer and inner), in row-major order.

    The product is multiplied by scale, and the weight is added.

    Args:
        weights, code, first, size, scale, out: As of `add_product`.
        outer: float64 [rows of blocks, blocks of a row].
        inner: float64 [rows of a block, columns of a block].
    """
    height, block = inner.shape
    columns = outer.shape[1] * block
    width = 2 if code <= F16 else 4 if code == F32 else 8
    doubles = doubles_of_span()
    for start in range(0, size, SPAN):
        span = min(SPAN, size - start)
        load_doubles(weights, width * start, code, span, doubles)
        done = 0
        while done < span:
            row = (first + start + done) // columns
            column = (first + start + done) % columns
            run = min(span - done, block - column % block)
            factor = outer[row // height, column // block]
            factors = inner[row % height, column % block : column % block + run]
            before, after = doubles[done : done + run], out[start + done : start + done + run]
            for place in range(run):
                after[place] = before[place] + scale * (factor * factors[place])
            done += run
