"""Finding what fine-tuning changed by CUDA, to the CPU's bits: select.cu has the kernels."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from registry.breadcrumbs.kernels.constants import CODES
from registry.breadcrumbs.kernels.cuda import launching
from registry.breadcrumbs.kernels.select import ALL, NONE, Counts, Cut, nth_bin

BLOCK, WARPS = 1024, 8
"""Elements of a warp, and warps of a block, as in select.cu."""

HIGH_BINS, PART_BINS, PART = 2048, 1024, 10
"""How many high parts of a key there are, and middle and low parts, which have so many bits."""

NOT_FINITE = 255 << 3
"""The high part of a key of an infinity, and the least of a NaN: 8 bits of the exponent, 3 of the fraction."""

MAX_GRID = 1056
"""Most blocks that count: eight for each of 132 multiprocessors; each keeps counts of its own."""

CountParts = Callable[[int, Sequence[int]], Counts]


def _launch(name: str, grid: int, *arguments: torch.Tensor | int) -> None:
    launching.launch("select.cu", name, grid, 32 * WARPS, *arguments)


def _grid(size: int) -> int:
    """Return how many blocks count `size` elements, several in each lane."""
    return max(1, min(MAX_GRID, -(-size // (32 * WARPS * 8))))


def subtract(base: torch.Tensor, tuned: torch.Tensor, dtypes: tuple[str, str], delta: torch.Tensor) -> torch.Tensor:
    """Find the task direction of a tensor's elements, or of some of them; base is rounded to the dtype of tuned first.

    Args:
        base, tuned: uint8, the elements' bytes.
        dtypes: Of base and of tuned.
        delta: float32 [n], filled.

    Returns:
        int64 [2048], how many keys have each high part; elements that did not change are not counted.
    """
    counts = torch.zeros(HIGH_BINS, dtype=torch.int64, device=delta.device)
    if delta.numel():
        name = f"subtract<{CODES[dtypes[0]]}, {CODES[dtypes[1]]}>"
        _launch(name, _grid(delta.numel()), base, tuned, delta, counts, delta.numel())
    return counts


def find_cuts(high: Counts, count_parts: CountParts, first: int, second: int) -> tuple[Cut, Cut]:
    """Find where the first m elements end in the order |delta| descending, index ascending, for two values of m.

    Args:
        high: int64 [2048], how many keys have each high part; elements that did not change are not counted.
        count_parts: Called with a shift and one or two numbers, the bits of keys above that part: counts the parts of
            10 bits from that shift on, int64 [B, 1024].
        first, second: The values of m, each 0 or more.

    Returns:
        The cuts for `first` and `second`.
    """
    total = int(high.sum())
    found = {m: nth_bin(high, m) for m in {first, second} if 0 < m < total}
    for shift in (PART, 0):
        prefixes = sorted({int(prefix) for prefix, _ in found.values()})
        counts = dict(zip(prefixes, count_parts(shift, prefixes), strict=True)) if prefixes else {}
        for m, (prefix, wanted) in found.items():
            part, rest = nth_bin(counts[int(prefix)], wanted)
            found[m] = int(prefix) << PART | int(part), int(rest)

    def cut(m: int) -> Cut:
        return Cut(*map(int, found[m])) if m in found else ALL if m else NONE

    return cut(first), cut(second)


def cut(delta: torch.Tensor, high: Counts, n_first: int, n_top: int) -> tuple[Cut, Cut]:
    """Return the bottom cut and the top cut of a group; arguments as of `mark`."""

    def count_parts(shift: int, prefixes: Sequence[int]) -> Counts:
        counts = torch.zeros(2, PART_BINS, dtype=torch.int64, device=delta.device)
        one, two = prefixes[0], prefixes[-1]
        _launch("count", _grid(delta.numel()), delta, counts, delta.numel(), shift, one, two)
        found: Counts = counts[: len(prefixes)].cpu().numpy()
        return found

    return find_cuts(high, count_parts, n_first, n_top)


def mark(delta: torch.Tensor, high: Counts, n_first: int, n_top: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the breadcrumb mask of one group, and the values it keeps.

    Args:
        delta: float32 [n], finite.
        high: int64 [2048], how many keys have each high part, as `subtract` counts them.
        n_first: How many elements are not dropped for being small.
        n_top: How many are dropped for being large.

    Returns:
        uint8 [ceil(n / 8)] a bitmask, lowest bit first, and float32 [nnz] in the order of the elements.
    """
    size, device, total = delta.numel(), delta.device, int(high.sum())
    blocks = -(-size // BLOCK)
    mask = torch.empty(blocks * BLOCK // 8, dtype=torch.uint8, device=device)
    values = torch.empty(max(0, min(n_first, total) - min(n_top, total)), dtype=torch.float32, device=device)
    if blocks:
        bottom, top = cut(delta, high, n_first, n_top)
        grid, counts = -(-blocks // WARPS), torch.empty(blocks, 4, dtype=torch.int64, device=device)
        _launch("rank", grid, delta, counts, size, bottom.key, top.key)
        before = (counts.cumsum(0) - counts).contiguous()
        _launch("mark", grid, delta, before, mask, values, size, bottom.key, bottom.ties, top.key, top.ties)
    return mask[: (size + 7) // 8], values


def count_not_finite(high: Counts) -> int:
    """Return how many of the counted keys are of a NaN or an infinity."""
    return int(high[NOT_FINITE:].sum())


def totals(counts: Sequence[torch.Tensor]) -> Counts:
    """Return the counts of several parts of a tensor, added up: int64 [2048]."""
    total: Counts = torch.stack(list(counts)).sum(0).cpu().numpy() if counts else np.zeros(HIGH_BINS, np.int64)
    return total
