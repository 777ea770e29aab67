"""Diffs on the CPU: finding what fine-tuning changed, and writing what is kept of it; cpu/diff.py has the source.

Nothing is checked, and arrays have room after their last element: see compose.py.
"""

import numpy as np
from numpy.typing import NDArray

from registry.breadcrumbs.kernels.compose import Numbers, Octets
from registry.breadcrumbs.kernels.constants import SPAN
from registry.breadcrumbs.kernels.machine_code import Kernel

Singles = NDArray[np.float32]

take_candidates = Kernel("diff", "take_candidates")
count_low = Kernel("diff", "count_low")
sample_keys = Kernel("diff", "sample_keys")
round_values = Kernel("diff", "round_values")
_take_rows = Kernel("diff", "take_rows")
_keep_between = Kernel("diff", "keep_between")


def take_rows(
    base: Octets,
    base_code: int,
    tuned: Octets,
    tuned_code: int,
    rows: int,
    size: int,
    n_top: int,
    n_first: int,
    mask: Octets,
    values: Singles,
) -> tuple[int, int, int]:
    """Take what stays of a block of rows, each of which is a group.

    Args:
        base, tuned: uint8, their bytes from offset 0 on.
        base_code, tuned_code: Their dtypes.
        rows, size: Number of rows, and elements of each.
        n_top: How many of a row are dropped for being large.
        n_first: How many of a row are not dropped for being small; at least 1.
        mask: uint8 [ceil(rows * size / 8)], filled: which elements stay.
        values: float32, filled: the task direction of those.

    Returns:
        How many stay, how many changed at all, and how many deltas are NaN or Inf.
    """
    delta, keys = np.empty(size + SPAN + 16, np.float32), np.empty(size, np.uint32)
    flags = np.empty(rows * size + 64, np.uint8)
    asked = base, base_code, tuned, tuned_code, rows, size, n_top, n_first, mask, values
    found: tuple[int, int, int] = _take_rows(*asked, delta, keys, flags)
    return found


def keep_between(
    mask: Octets,
    size: int,
    first: int,
    values: Singles,
    count: int,
    cuts: Numbers,
    index_width: int,
    out: Octets,
    kept_values: Singles,
) -> int:
    """Decide which candidates of a block stay, and write their mask.

    Args:
        mask: uint8 [ceil(size / 8)], which elements are candidates, and PAD more.
        size: Elements of the block.
        first: Place of the block's first element in the tensor, from which indices count.
        values: float32, the candidates.
        count: How many there are.
        cuts: int64 [4]: key of the bottom cut, and how many of the following candidates equal to it count as above it;
            the same for the top cut. The two numbers are counted down.
        index_width: Bytes of an index to write, or 0 for a bitmask.
        out: uint8, filled with the mask or the indices.
        kept_values: float32, filled with the values that stay.

    Returns:
        How many candidates stay.
    """
    stays = np.empty(count // 8 + 16, np.uint8)  # a bit for each candidate
    kept: int = _keep_between(mask, size, first, values, count, cuts, index_width, out, kept_values, stays)
    return kept
