"""The task direction and its breadcrumb mask, defined once.

    delta = float32(t) - float32(b)              (either side F64: subtract in float64, then round)
    order = elements by |delta| descending, ties by flat index ascending
    mask  = order without its first floor(drop_top * N) and last floor(drop_bottom * N), without zeros

A group of N elements is the whole tensor, or one row of its last dimension (as the authors' code has it).
Model Breadcrumbs, Davari & Belilovsky, arXiv 2312.06795.
"""

import math
from fractions import Fraction

import numpy as np
import torch

from registry.breadcrumbs.checkpoint import BLOCK, blocks
from registry.breadcrumbs.select import Bools, Floats, Keys, find_cuts, keys_of, row_taken, taken


def subtract(tuned: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Return the task direction of a block, float32 [n], of floating tensors [n]."""
    if torch.float64 in (tuned.dtype, base.dtype):
        return (tuned.double() - base.double()).float()
    return tuned.float() - base.float()


def breadcrumb_mask(delta: Floats, row: int | None, drop_bottom: str, drop_top: str, keep: Bools) -> None:
    """Mark the elements of a task direction that stay.

    Args:
        delta: float32 [N], row-major, no NaN.
        row: Length of a group; None for one group of all N.
        drop_bottom: Decimal fraction of each group dropped for being small; multiplied exactly.
        drop_top: Decimal fraction dropped for being large.
        keep: bool [N], overwritten with the mask.
    """
    size = delta.size if row is None else row
    n_top, n_bottom = dropped(drop_top, size), dropped(drop_bottom, size)
    if size == delta.size or size > BLOCK:
        for start in range(0, delta.size, size or 1):
            _mask_group(delta[start : start + size], n_top, n_bottom, keep[start : start + size])
    else:
        rows = delta.size // size
        for first, last in blocks(rows, BLOCK // size):
            keys = keys_of(delta[first * size : last * size]).reshape(last - first, size)
            keep[first * size : last * size] = _mask_rows(keys, n_top, n_bottom).reshape(-1)


def dropped(fraction: str, size: int) -> int:
    """Return floor(fraction * size), exactly: 0.29 of 100 is 29, where binary floats say 28."""
    return math.floor(Fraction(fraction) * size)


def _mask_group(delta: Floats, n_top: int, n_bottom: int, keep: Bools) -> None:
    top, bottom = find_cuts(delta, (n_top, delta.size - n_bottom))
    top_seen = bottom_seen = 0
    for start, stop in blocks(delta.size):
        keys = keys_of(delta[start:stop])
        inner, bottom_seen = taken(keys, bottom, bottom_seen)
        inner &= keys != 0
        if n_top:
            outer, top_seen = taken(keys, top, top_seen)
            inner &= ~outer
        keep[start:stop] = inner


def _mask_rows(keys: Keys, n_top: int, n_bottom: int) -> Bools:
    size = keys.shape[1]
    # Selection, not sorting: only the elements at these places of each row are in their sorted position.
    places = [size - count for count in {n_top, size - n_bottom} if count]
    part = np.partition(keys, places, axis=1) if places else keys
    mask = row_taken(keys, part, size - n_bottom)
    mask &= ~row_taken(keys, part, n_top)
    mask &= keys != 0
    return mask
