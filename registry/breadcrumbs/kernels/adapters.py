"""The CPU kernels of adapters: add to a weight the product of two factors, or two products multiplied by each other."""

from typing import Any

import numpy as np
import numpy.typing as npt

from registry.breadcrumbs.kernels.compose import F16, F32, SPAN, kernel, load_doubles


@kernel
def sum_products(
    left: npt.NDArray[Any], right: npt.NDArray[Any], row: int, column: int, run: int, sums: npt.NDArray[np.float64]
) -> None:
    """Compute elements column..column + run - 1 of a row of left @ right, in float64, in the order of the rank.

    Args:
        left: float32 or float64 [rows, rank].
        right: float32 or float64 [rank, columns].
        row, column, run: The elements.
        sums: float64 [run or more]; its first `run` are filled.
    """
    sums[:run] = 0
    for number in range(right.shape[0]):
        factor, factors = np.float64(left[row, number]), right[number, column : column + run]
        for place in range(run):
            sums[place] += factor * np.float64(factors[place])


@kernel
def add_product(
    weights: npt.NDArray[np.uint8],
    code: int,
    first: int,
    size: int,
    left: npt.NDArray[Any],
    right: npt.NDArray[Any],
    scale: float,
    out: npt.NDArray[Any],
) -> None:
    """Compute elements first..first + size - 1 of weight + scale * (left @ right), in row-major order.

    All in float64: the sum in the order of the rank, times scale, plus the weight; then rounded once to out's dtype.

    Args:
        weights: uint8, the weight's bytes from element `first` on, and PAD more.
        code: The weight's dtype.
        first, size: The elements.
        left: float32 or float64 [rows, rank].
        right: float32 or float64 [rank, columns].
        scale: The factor of the product.
        out: float32 or float64 [size], filled.
    """
    columns = right.shape[1]
    width = 2 if code <= F16 else 4 if code == F32 else 8
    doubles, sums = np.empty(SPAN + 16, np.float64), np.empty(SPAN, np.float64)
    for start in range(0, size, SPAN):
        span = min(SPAN, size - start)
        load_doubles(weights, width * start, code, span, doubles)
        done = 0
        while done < span:
            row = (first + start + done) // columns
            column = (first + start + done) % columns
            run = min(span - done, columns - column)
            sum_products(left, right, row, column, run, sums)
            before, after = doubles[done : done + run], out[start + done : start + done + run]
            for place in range(run):
                after[place] = before[place] + scale * sums[place]
            done += run


@kernel
def add_hadamard(
    weights: npt.NDArray[np.uint8],
    code: int,
    first: int,
    size: int,
    left: npt.NDArray[Any],
    right: npt.NDArray[Any],
    other_left: npt.NDArray[Any],
    other_right: npt.NDArray[Any],
    scale: float,
    out: npt.NDArray[Any],
) -> None:
    """Compute elements of weight + scale * ((left @ right) * (other_left @ other_right)), in row-major order.

    All in float64: both sums in the order of the rank, times each other, times scale, plus the weight; then rounded
    once to out's dtype.

    Args:
        weights, code, first, size, scale, out: As of `add_product`.
        left, other_left: float64 [rows, rank].
        right, other_right: float64 [rank, columns].
    """
    columns = right.shape[1]
    width = 2 if code <= F16 else 4 if code == F32 else 8
    doubles = np.empty(SPAN + 16, np.float64)
    sums, others = np.empty(SPAN, np.float64), np.empty(SPAN, np.float64)
    for start in range(0, size, SPAN):
        span = min(SPAN, size - start)
        load_doubles(weights, width * start, code, span, doubles)
        done = 0
        while done < span:
            row = (first + start + done) // columns
            column = (first + start + done) % columns
            run = min(span - done, columns - column)
            sum_products(left, right, row, column, run, sums)
            sum_products(other_left, other_right, row, column, run, others)
            before, after = doubles[done : done + run], out[start + done : start + done + run]
            for place in range(run):
                after[place] = before[place] + scale * (sums[place] * others[place])
            done += run


@kernel
def add_kronecker(
    weights: npt.NDArray[np.uint8],
    code: int,
    first: int,
    size: int,
    outer: npt.NDArray[Any],
    inner: npt.NDArray[Any],
    scale: float,
    out: npt.NDArray[Any],
) -> None:
    """Compute elements of weight + scale * (the Kronecker product of outer and inner), in row-major order.

    All in float64: the product, times scale, plus the weight; then rounded once to out's dtype.

    Args:
        weights, code, first, size, scale, out: As of `add_product`.
        outer: float64 [rows of blocks, blocks of a row].
        inner: float64 [rows of a block, columns of a block].
    """
    height, block = inner.shape
    columns = outer.shape[1] * block
    width = 2 if code <= F16 else 4 if code == F32 else 8
    doubles = np.empty(SPAN + 16, np.float64)
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
