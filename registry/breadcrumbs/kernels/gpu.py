"""The GPU kernels, in Triton: compose a chunk of one tensor, and find what fine-tuning changed, to the CPU's bits.

    compose   one launch: each program converts BLOCK elements to float64, adds every patch in order (or the mean of
              what they vote for), rounds and stores. The value of a set bit is found by a prefix sum of the bits in the
              block, added to the block's `starts`; neighbours read neighbouring values.
    select    key bits are counted by atomics, high part and low part; ties are ordered by counts before each block

Everything that must be exact is float64 or integer arithmetic, except float64 -> float32 -> float16 and back, which
the hardware rounds to nearest even. Subnormals are not flushed, since no option asks for it. With TRITON_INTERPRET=1,
set before Triton is first imported, the same kernels run on CPU tensors.
"""

import torch
import triton
import triton.language as tl

from registry.breadcrumbs.kernels import constants
from registry.breadcrumbs.kernels.constants import HIGH_BINS, LOW_BINS
from registry.breadcrumbs.kernels.select import Counts, Cut, find_cuts

BLOCK = 1024
"""Elements of a program; a power of two, 64 or more."""

CODES = constants.CODES

BF16: tl.constexpr = tl.constexpr(constants.BF16)
F16: tl.constexpr = tl.constexpr(constants.F16)
F32: tl.constexpr = tl.constexpr(constants.F32)
SUM: tl.constexpr = tl.constexpr(constants.SUM)
TIES: tl.constexpr = tl.constexpr(constants.TIES)
LOW: tl.constexpr = tl.constexpr(constants.LOW)
LOW_MASK: tl.constexpr = tl.constexpr(constants.LOW_MASK)

CUTS = ["bottom", "bottom_ties", "top", "top_ties"]
"""Arguments that differ for every tensor: specialised, Triton would compile again for 1 and for multiples of 16."""


# Composing


@triton.jit
def _single(arena, at, places, bits, code):
    """Load the values at `places`, of a dtype, where `bits` are set, as float32."""
    if code == F32:
        values = tl.load((arena + at).to(tl.pointer_type(tl.int32)) + places, mask=bits, other=0)
        values = values.to(tl.float32, bitcast=True)
    else:
        halves = tl.load((arena + at).to(tl.pointer_type(tl.int16)) + places, mask=bits, other=0)
        if code == BF16:
            values = (halves.to(tl.int32) << 16).to(tl.float32, bitcast=True)
        else:
            values = halves.to(tl.float16, bitcast=True).to(tl.float32)
    return values


@triton.jit(do_not_specialize=["patches", "blocks"])
def _compose(
    arena,
    base,
    out,
    table,
    scales,
    starts,
    lost,
    size,
    patches,
    blocks,
    DTYPE: tl.constexpr,
    METHOD: tl.constexpr,
    B: tl.constexpr,
):
    block = tl.program_id(0).to(tl.int64)
    place = block * B + tl.arange(0, B)
    live = place < size
    if DTYPE == BF16:
        raw = tl.load(base.to(tl.pointer_type(tl.int16)) + place, mask=live, other=0)
        sums = (raw.to(tl.int32) << 16).to(tl.float32, bitcast=True).to(tl.float64)
        sound = (raw & 0x7F80) != 0x7F80
    elif DTYPE == F16:
        raw = tl.load(base.to(tl.pointer_type(tl.int16)) + place, mask=live, other=0)
        sums = raw.to(tl.float16, bitcast=True).to(tl.float32).to(tl.float64)
        sound = (raw & 0x7C00) != 0x7C00
    elif DTYPE == F32:
        raw = tl.load(base.to(tl.pointer_type(tl.int32)) + place, mask=live, other=0)
        sums = raw.to(tl.float32, bitcast=True).to(tl.float64)
        sound = (raw & 0x7F800000) != 0x7F800000
    else:
        raw = tl.load(base.to(tl.pointer_type(tl.int64)) + place, mask=live, other=0)
        sums = raw.to(tl.float64, bitcast=True)
        sound = (raw & 0x7FF0000000000000) != 0x7FF0000000000000
    bytes_at = block * (B // 8) + tl.arange(0, B // 8)
    shifts = tl.arange(0, 8)
    plus, plus_weight = tl.zeros([B], tl.float64), tl.zeros([B], tl.float64)  # not used by SUM
    minus, minus_weight = tl.zeros([B], tl.float64), tl.zeros([B], tl.float64)  # used by TIES only
    for patch in range(patches):
        mask_at, values_at = tl.load(table + 3 * patch), tl.load(table + 3 * patch + 1)
        code, scale = tl.load(table + 3 * patch + 2), tl.load(scales + patch)
        start = tl.load(starts + patch * blocks + block)
        octets = tl.load(arena + mask_at + bytes_at, mask=bytes_at * 8 < size, other=0).to(tl.int32)
        bits = tl.reshape((octets[:, None] >> shifts[None, :]) & 1, [B])
        places = start + tl.cumsum(bits, 0) - bits
        values = _single(arena, values_at, places, bits != 0, code)
        products = scale * values.to(tl.float64)
        if METHOD == SUM:
            sums = tl.where(bits != 0, sums + products, sums)
        elif METHOD == TIES:
            up, down = (bits != 0) & (products > 0), (bits != 0) & (products < 0)
            plus, plus_weight = tl.where(up, plus + products, plus), tl.where(up, plus_weight + scale, plus_weight)
            minus = tl.where(down, minus - products, minus)
            minus_weight = tl.where(down, minus_weight + scale, minus_weight)
        else:
            plus = tl.where(bits != 0, plus + products, plus)
            plus_weight = tl.where(bits != 0, plus_weight + scale, plus_weight)
    if METHOD != SUM:
        elected = plus >= minus if METHOD == TIES else plus_weight != 0
        mass, weight = tl.where(elected, plus, -minus), tl.where(elected, plus_weight, minus_weight)
        touched = weight != 0
        mean = (mass / tl.where(touched, weight, 1.0)).to(tl.float32).to(tl.float64)
        sums = tl.where(touched, sums + tl.load(scales + patches) * mean, sums)
    if DTYPE == BF16:
        single = sums.to(tl.float32).to(tl.int32, bitcast=True)
        rounded = (single + 0x7FFF + ((single >> 16) & 1)) >> 16
        not_finite = ((single & 0x7F800000) == 0x7F800000) | ((rounded & 0x7F80) == 0x7F80)
        tl.store(out.to(tl.pointer_type(tl.int16)) + place, tl.where(sound, rounded.to(tl.int16), raw), mask=live)
    elif DTYPE == F16:
        rounded = sums.to(tl.float32).to(tl.float16).to(tl.int16, bitcast=True)
        not_finite = (rounded & 0x7C00) == 0x7C00
        tl.store(out.to(tl.pointer_type(tl.int16)) + place, tl.where(sound, rounded, raw), mask=live)
    elif DTYPE == F32:
        single = sums.to(tl.float32).to(tl.int32, bitcast=True)
        not_finite = (single & 0x7F800000) == 0x7F800000
        tl.store(out.to(tl.pointer_type(tl.int32)) + place, tl.where(sound, single, raw), mask=live)
    else:
        double = sums.to(tl.int64, bitcast=True)
        not_finite = (double & 0x7FF0000000000000) == 0x7FF0000000000000
        tl.store(out.to(tl.pointer_type(tl.int64)) + place, tl.where(sound, double, raw), mask=live)
    count = tl.sum((not_finite & sound & live).to(tl.int32), 0)
    if count > 0:
        tl.atomic_add(lost, count.to(tl.int64))


def compose_chunk(
    arena: torch.Tensor,
    base: torch.Tensor,
    out: torch.Tensor,
    dtype: str,
    table: torch.Tensor,
    scales: torch.Tensor,
    starts: torch.Tensor,
    lost: torch.Tensor,
    method: int = constants.SUM,
    block: int = BLOCK,
) -> None:
    """Compose a chunk of one tensor.

    Args:
        arena: uint8, the patches' bitmasks, whose padding is 0, and values; offsets into it are multiples of 4.
        base: uint8, the base's bytes.
        out: uint8, as many, filled.
        dtype: The base's dtype: BF16, F16, F32 or F64.
        table: int64 [P, 3], for each patch, ascending by sha256: offset of its bitmask, offset of its values, dtype of
            the values (0 BF16, 1 F16, 2 F32).
        scales: float64 [P + 1], each a float32: as `kernels.compose.compose_chunk` has them, then its alpha.
        starts: int32 [P, ceil(n / block)], how many bits are set before each block.
        lost: int64 [1], increased by how many results are not finite where the base was.
        method: SUM, TIES or MEAN of `kernels.compose`.
        block: Elements of a program.
    """
    size = base.numel() // (2 if dtype in ("BF16", "F16") else 4 if dtype == "F32" else 8)
    blocks = triton.cdiv(size, block)
    ask = arena, base, out, table, scales, starts, lost, size, len(table), blocks
    _compose[(blocks,)](*ask, DTYPE=CODES[dtype], METHOD=method, B=block)


@triton.jit(do_not_specialize=["size", "first"])
def _set_bits(indices, mask, size, first, B: tl.constexpr):
    number = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    index = tl.load(indices + number, mask=number < size, other=0).to(tl.int64) - first
    tl.atomic_or(mask + index // 32, (1 << (index % 32)).to(tl.int32), mask=number < size)


def set_bits(indices: torch.Tensor, mask: torch.Tensor, first: int, block: int = BLOCK) -> None:
    """Set the bits of a sparse patch in a bitmask of zeros.

    Args:
        indices: int32 or int64 [k], increasing.
        mask: int32 [m], whose bits stand for the elements from `first` on.
        first: Subtracted from every index.
        block: Indices of a program.
    """
    if indices.numel():
        _set_bits[(triton.cdiv(indices.numel(), block),)](indices, mask, indices.numel(), first, B=block)


# Finding what changed


def subtract(base: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
    """Return the task direction, float32 [n], of floating tensors [n]: base is rounded to the dtype of tuned first."""
    if tuned.dtype == torch.float64:
        return (tuned - base.double()).float()
    return tuned.float() - base.float().to(tuned.dtype).float()


@triton.jit
def _load_keys(delta, place, size):
    return tl.load(delta.to(tl.pointer_type(tl.int32)) + place, mask=place < size, other=0) & 0x7FFFFFFF


@triton.jit
def _count_high(delta, high, size, B: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    keys = _load_keys(delta, place, size)
    ones = tl.full([B], 1, tl.int64)
    tl.atomic_add(high + (keys >> LOW), ones, mask=keys != 0)


@triton.jit(do_not_specialize=["wanted"])
def _count_low(delta, low, wanted, size, B: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    keys = _load_keys(delta, place, size)
    ones = tl.full([B], 1, tl.int64)
    tl.atomic_add(low + (keys & LOW_MASK), ones, mask=(keys >> LOW) == wanted)


@triton.jit(do_not_specialize=CUTS)
def _count_ties(delta, ties, size, bottom, top, B: tl.constexpr):
    block = tl.program_id(0).to(tl.int64)
    place = block * B + tl.arange(0, B)
    keys = _load_keys(delta, place, size)
    tl.store(ties + 2 * block, tl.sum((keys == bottom).to(tl.int32), 0).to(tl.int64))
    tl.store(ties + 2 * block + 1, tl.sum((keys == top).to(tl.int32), 0).to(tl.int64))


@triton.jit
def _stays(keys, before, block, bottom, bottom_ties, top, top_ties):
    """Return which keys stay, given how many keys equal to either cut come before the block; a key of 0 never stays."""
    at_bottom, at_top = (keys == bottom).to(tl.int32), (keys == top).to(tl.int32)
    low_rank = tl.load(before + 2 * block) + tl.cumsum(at_bottom, 0)  # from 1 on
    high_rank = tl.load(before + 2 * block + 1) + tl.cumsum(at_top, 0)
    above = (keys > bottom) | ((at_bottom != 0) & (low_rank <= bottom_ties))
    beyond = (keys > top) | ((at_top != 0) & (high_rank <= top_ties))
    return (above & (beyond == 0)).to(tl.int32)


@triton.jit(do_not_specialize=CUTS)
def _mark(delta, before, mask, counts, size, bottom, bottom_ties, top, top_ties, B: tl.constexpr):
    block = tl.program_id(0).to(tl.int64)
    place = block * B + tl.arange(0, B)
    stays = _stays(_load_keys(delta, place, size), before, block, bottom, bottom_ties, top, top_ties)
    octets = tl.sum(tl.reshape(stays, [B // 8, 8]) << tl.arange(0, 8)[None, :], 1)
    bytes_at = block * (B // 8) + tl.arange(0, B // 8)
    tl.store(mask + bytes_at, octets.to(tl.uint8), mask=bytes_at * 8 < size)
    tl.store(counts + block, tl.sum(stays, 0).to(tl.int64))


@triton.jit(do_not_specialize=CUTS)
def _gather(delta, before, starts, values, size, bottom, bottom_ties, top, top_ties, B: tl.constexpr):
    block = tl.program_id(0).to(tl.int64)
    place = block * B + tl.arange(0, B)
    stays = _stays(_load_keys(delta, place, size), before, block, bottom, bottom_ties, top, top_ties)
    to = tl.load(starts + block) + tl.cumsum(stays, 0) - stays
    kept = tl.load(delta + place, mask=stays != 0, other=0.0)
    tl.store(values + to, kept, mask=stays != 0)


def cut(delta: torch.Tensor, n_first: int, n_top: int, block: int = BLOCK) -> tuple[Cut, Cut]:
    """Find where the first `n_first` and the first `n_top` elements end in the order |delta| descending.

    Args:
        delta: float32 [n], finite.
        n_first, n_top: How many; each 0 or more.
        block: Elements of a program.

    Returns:
        The bottom cut and the top cut.
    """
    grid = (triton.cdiv(delta.numel(), block),)

    def count_low(bins: Counts) -> Counts:
        low = torch.zeros(len(bins), LOW_BINS, dtype=torch.int64, device=delta.device)
        for row, wanted in zip(low, bins.tolist(), strict=True):
            _count_low[grid](delta, row, wanted, delta.numel(), B=block)
        counts: Counts = low.cpu().numpy()
        return counts

    high = torch.zeros(HIGH_BINS, dtype=torch.int64, device=delta.device)
    _count_high[grid](delta, high, delta.numel(), B=block)
    return find_cuts(high.cpu().numpy(), count_low, n_first, n_top)


def mark(delta: torch.Tensor, n_first: int, n_top: int, block: int = BLOCK) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the breadcrumb mask of one group, and the values it keeps.

    Args:
        delta: float32 [n], finite.
        n_first: How many elements are not dropped for being small.
        n_top: How many are dropped for being large.
        block: Elements of a program.

    Returns:
        uint8 [ceil(n / 8)] a bitmask, lowest bit first, and float32 [nnz] in the order of the elements.
    """
    size, device = delta.numel(), delta.device
    bottom, top = cut(delta, n_first, n_top, block)
    blocks = triton.cdiv(size, block)
    cuts = (size, bottom.key, bottom.ties, top.key, top.ties)
    ties = torch.empty(blocks, 2, dtype=torch.int64, device=device)
    _count_ties[(blocks,)](delta, ties, size, bottom.key, top.key, B=block)
    before = (ties.cumsum(0) - ties).contiguous()
    mask = torch.empty((size + 7) // 8, dtype=torch.uint8, device=device)
    counts = torch.empty(blocks, dtype=torch.int64, device=device)
    _mark[(blocks,)](delta, before, mask, counts, *cuts, B=block)
    ends = counts.cumsum(0)
    values = torch.empty(int(ends[-1]) if blocks else 0, dtype=torch.float32, device=device)
    _gather[(blocks,)](delta, before, ends - counts, values, *cuts, B=block)
    return mask, values
