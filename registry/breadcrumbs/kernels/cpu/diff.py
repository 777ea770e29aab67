"""Diffs: finding what fine-tuning changed, and writing what is kept of it.

    base, tuned bytes --> delta --> candidates: |delta| >= floor       one pass over the weights
    candidates --> counts of key bits --> cuts --> mask and values     passes over the candidates only

The key of a delta is its bits without the sign: as integers they order as the magnitudes do.
"""

import numpy as np

from registry.breadcrumbs.kernels.constants import BF16, F16, F32, F64, LOW, LOW_MASK, SPAN
from registry.breadcrumbs.kernels.cpu.compiling import exported, kernel
from registry.breadcrumbs.kernels.cpu.compose import load_doubles
from registry.breadcrumbs.kernels.cpu.intrinsics import (
    WIDE,
    bits_of,
    deposit,
    load64,
    lowest,
    on_stack,
    ones,
    store32,
    store64,
)
from registry.breadcrumbs.kernels.cpu.select import nth_largest
from registry.breadcrumbs.kernels.cpu.vectors import (
    compare_keys,
    compress_large,
    compress_values,
    in_bins,
    narrow_bf16,
    narrow_f16,
    narrow_f32,
    pack_flags,
    single_bf16,
    single_f16,
    single_f32,
)

_delta_of_span = on_stack(np.float32, SPAN + 16)
_work_of_span = on_stack(np.float64, 2, SPAN + 16)
_counts_of_bits = on_stack(np.int64, 2048)

# Finding what changed


@kernel
def _subtract(base, base_at, base_code, tuned, tuned_at, tuned_code, size, work, delta):
    """Fill float32 delta [size]: tuned - base, where base is first rounded to the dtype of tuned, as tuned was."""
    if tuned_code == F64:
        before, after = work[0], work[1]
        load_doubles(base, base_at, base_code, size, before)
        load_doubles(tuned, tuned_at, tuned_code, size, after)
        for place in range(size):
            delta[place] = np.float32(after[place] - before[place])
        return
    singles = work[0].view(np.float32)
    half = SPAN + 16
    if base_code == F64:
        doubles = work[1]
        load_doubles(base, base_at, base_code, size, doubles)
        for place in range(size):
            singles[place] = np.float32(doubles[place])
    else:
        _load_single(base, base_at, base_code, size, singles[:half])
    if tuned_code != F32 and tuned_code != base_code:
        _round_single(singles[:half], tuned_code, size, work[1].view(np.uint8))
    _load_single(tuned, tuned_at, tuned_code, size, singles[half:])
    for place in range(size):
        delta[place] = singles[half + place] - singles[place]


@kernel
def _round_single(singles, code, size, rounded):
    """Round float32 [size] to BF16 or F16, nearest even; NaN stays NaN."""
    for place in range(0, size, 16):
        if code == BF16:
            narrow_bf16(singles, place, rounded, 2 * place)
        else:
            narrow_f16(singles, place, rounded, 2 * place)
    for place in range(size):
        if singles[place] != singles[place]:
            rounded[2 * place], rounded[2 * place + 1] = 0xFF, 0x7F
    _load_single(rounded, 0, code, size, singles)


@kernel
def _load_single(array, at, code, size, out):
    if code == BF16:
        for place in range(0, size, 16):
            single_bf16(array, at + 2 * place, out, place)
    elif code == F16:
        for place in range(0, size, 16):
            single_f16(array, at + 2 * place, out, place)
    else:
        for place in range(0, size, 16):
            single_f32(array, at + 4 * place, out, place)


@kernel
def _take_large_wide(delta, size, floor, mask, mask_at, values, kept):
    not_finite = 0
    for place in range(0, size, 16):
        lanes = compress_large(delta, place, floor, values, kept)
        if size - place < 16:
            rest = np.uint64((1 << (size - place)) - 1)
            lanes &= rest | rest << np.uint64(16)
        large = lanes & np.uint64(0xFFFF)
        mask[mask_at + place // 8] = large & np.uint64(0xFF)
        mask[mask_at + place // 8 + 1] = large >> np.uint64(8)
        kept += ones(large)
        not_finite += ones(lanes >> np.uint64(16))
    return kept, not_finite


@kernel
def _take_large_plain(delta, size, floor, mask, mask_at, values, kept):
    not_finite = 0
    for start in range(0, size, 8):
        byte = 0
        for place in range(start, min(start + 8, size)):
            key = bits_of(delta[place]) & np.uint32(0x7FFFFFFF)
            large = key >= floor
            values[kept] = delta[place]
            kept += large
            byte |= large << (place - start)
            not_finite += key >= np.uint32(0x7F800000)
        mask[mask_at + start // 8] = byte
    return kept, not_finite


_take_large = _take_large_wide if WIDE else _take_large_plain


@exported(
    "UniTuple(int64, 2)(uint8[::1], int64, uint8[::1], int64, int64, uint32, uint8[::1], float32[::1], int64[::1])"
)
def take_candidates(base, base_code, tuned, tuned_code, size, floor, mask, values, high):
    """Take the elements of a block whose key is `floor` or more.

    Args:
        base, tuned: uint8, their bytes from offset 0 on.
        base_code, tuned_code: Their dtypes.
        size: Elements of the block.
        floor: uint32, at least 1, so that elements that did not change are not taken.
        mask: uint8 [ceil(size / 8)], filled: which elements are taken.
        values: float32, filled: the task direction of those.
        high: int64 [2^16], added to: how many keys have each high part.

    Returns:
        How many are taken, and how many deltas are NaN or Inf.
    """
    delta, work = _delta_of_span(), _work_of_span()
    base_width = 2 if base_code <= F16 else 4 if base_code == F32 else 8
    tuned_width = 2 if tuned_code <= F16 else 4 if tuned_code == F32 else 8
    kept = not_finite = 0
    for start in range(0, size, SPAN):
        span = min(SPAN, size - start)
        at, theirs = base_width * start, tuned_width * start
        _subtract(base, at, base_code, tuned, theirs, tuned_code, span, work, delta)
        before = kept
        kept, more = _take_large(delta, span, floor, mask, start // 8, values, kept)
        not_finite += more
        for number in range(before, kept):
            high[(bits_of(values[number]) & np.uint32(0x7FFFFFFF)) >> np.uint32(LOW)] += 1
    return kept, not_finite


@exported("void(float32[::1], int64, int64[::1], int64[:, ::1])")
def count_low(values, size, bins, low):
    """Count the low bits of the keys in one or two bins of high bits.

    Args:
        values: float32, the candidates.
        size: How many of them are counted.
        bins: int64 [B], the high bits, B = 1 or 2.
        low: int64 [B, 2^15], added to.
    """
    one, other = np.uint32(bins[0]), np.uint32(bins[-1])
    for start in range(0, size, 16):
        lanes = in_bins(values, start, np.uint32(LOW), one, other)
        if size - start < 16:
            lanes &= np.uint64((1 << (size - start)) - 1)
        while lanes != np.uint64(0):
            key = np.int64(bits_of(values[start + lowest(lanes)]) & np.uint32(0x7FFFFFFF))
            low[0 if key >> LOW == bins[0] else 1, key & LOW_MASK] += 1
            lanes &= lanes - np.uint64(1)


@exported("void(uint8[::1], int64, uint8[::1], int64, int64, uint32[::1])")
def sample_keys(base, base_code, tuned, tuned_code, size, keys):
    """Fill uint32 keys [size] of a block; arguments as of `take_candidates`."""
    delta, work = _delta_of_span(), _work_of_span()
    base_width = 2 if base_code <= F16 else 4 if base_code == F32 else 8
    tuned_width = 2 if tuned_code <= F16 else 4 if tuned_code == F32 else 8
    for start in range(0, size, SPAN):
        span = min(SPAN, size - start)
        at, theirs = base_width * start, tuned_width * start
        _subtract(base, at, base_code, tuned, theirs, tuned_code, span, work, delta)
        for place in range(span):
            keys[start + place] = bits_of(delta[place]) & np.uint32(0x7FFFFFFF)


@exported(
    "UniTuple(int64, 3)(uint8[::1], int64, uint8[::1], int64, int64, int64, int64, int64, uint8[::1], float32[::1], "
    "float32[::1], uint32[::1], uint8[::1])"
)
def take_rows(base, base_code, tuned, tuned_code, rows, size, n_top, n_first, mask, values, delta, keys, flags):
    """Take what stays of a block of rows as kernels/diff.py describes.

    The rest is scratch: float32 [size + SPAN + 16], uint32 [size], uint8 [rows * size + 64].
    """
    span = min(size, SPAN)
    work, counts = _work_of_span(), _counts_of_bits()
    flags[:] = 0
    base_width = 2 if base_code <= F16 else 4 if base_code == F32 else 8
    tuned_width = 2 if tuned_code <= F16 else 4 if tuned_code == F32 else 8
    kept = changed = not_finite = 0
    for row in range(rows):
        for start in range(0, size, span):
            at = row * size + start
            length = min(span, size - start)
            _subtract(
                base, base_width * at, base_code, tuned, tuned_width * at, tuned_code, length, work, delta[start:]
            )
        for place in range(size):
            keys[place] = bits_of(delta[place]) & np.uint32(0x7FFFFFFF)
            changed += keys[place] != 0
            not_finite += keys[place] >= np.uint32(0x7F800000)
        bottom, bottom_ties = -1, 0
        if n_first < size:
            bottom, bottom_ties = nth_largest(keys, size, n_first, counts)
        top, top_ties = 1 << 31, 0
        if n_top > 0:
            top, top_ties = nth_largest(keys, size, n_top, counts)
        for place in range(size):
            key = np.int64(keys[place])
            above, beyond = key > bottom, key > top
            if key == bottom:
                above = bottom_ties > 0
                bottom_ties -= 1
            if key == top:
                beyond = top_ties > 0
                top_ties -= 1
            stays = above and not beyond and key != 0
            flags[row * size + place] = stays
            values[kept] = delta[place]
            kept += stays
    for place in range(0, rows * size, 64):
        store64(mask, place // 8, pack_flags(flags, place))
    return kept, changed, not_finite


# Writing what is kept


@kernel
def _keep_scalar(values, first, size, cuts, stays, kept_values, kept):
    """Decide about candidates one by one: set their bits in `stays`, from bit `first` on, and append their values."""
    for number in range(first, first + size):
        value = values[number]
        key = np.int64(bits_of(value) & np.uint32(0x7FFFFFFF))
        above, beyond = key > cuts[0], key > cuts[2]
        if key == cuts[0]:
            above = cuts[1] > 0
            cuts[1] -= 1
        if key == cuts[2]:
            beyond = cuts[3] > 0
            cuts[3] -= 1
        if above and not beyond:
            stays[number >> 3] |= np.uint8(1 << (number & 7))
            kept_values[kept] = value
            kept += 1
    return kept


@kernel
def _keep_wide(values, size, cuts, stays, kept_values, kept):
    bottom, top = np.uint32(cuts[0]), np.uint32(cuts[2])
    lane = np.uint64(0xFFFF)
    for start in range(0, size, 16):
        rest = min(16, size - start)
        lanes = compare_keys(values, start, bottom, top)
        live = np.uint64((1 << rest) - 1)
        at_bottom, at_top = lanes >> np.uint64(16) & live, lanes >> np.uint64(48) & live
        low, high = ones(at_bottom), ones(at_top)
        if 0 < cuts[1] < low or 0 < cuts[3] < high:  # the ties end among these
            stays[start >> 3] = stays[(start >> 3) + 1] = 0
            kept = _keep_scalar(values, start, rest, cuts, stays, kept_values, kept)
            continue
        above = lanes & live | (at_bottom if cuts[1] > 0 else np.uint64(0))
        beyond = lanes >> np.uint64(32) & lane | (at_top if cuts[3] > 0 else np.uint64(0))
        cuts[1] -= low
        cuts[3] -= high
        keep = above & ~beyond
        compress_values(values, start, keep, kept_values, kept)
        stays[start >> 3] = keep & np.uint64(0xFF)
        stays[(start >> 3) + 1] = keep >> np.uint64(8)
        kept += ones(keep)
    return kept


@kernel
def _keep_plain(values, size, cuts, stays, kept_values, kept):
    stays[: (size + 7) // 8] = 0
    return _keep_scalar(values, 0, size, cuts, stays, kept_values, kept)


@kernel
def _deposit_plain(bits, mask):
    deposited = np.uint64(0)
    while mask != np.uint64(0):
        lowest_bit = mask & (~mask + np.uint64(1))
        if bits & np.uint64(1) != np.uint64(0):
            deposited |= lowest_bit
        bits >>= np.uint64(1)
        mask ^= lowest_bit
    return deposited


_keep, _deposit = (_keep_wide, deposit) if WIDE else (_keep_plain, _deposit_plain)


@exported(
    "int64(uint8[::1], int64, int64, float32[::1], int64, int64[::1], int64, uint8[::1], float32[::1], uint8[::1])"
)
def keep_between(mask, size, first, values, count, cuts, index_width, out, kept_values, stays):
    """Decide which candidates of a block stay as kernels/diff.py describes.

    `stays`, uint8 [count / 8 + 16], is scratch.
    """
    kept = _keep(values, count, cuts, stays, kept_values, 0)
    used = written = 0
    for place in range(0, size, 64):
        word = load64(mask, place // 8)
        shift = np.uint64(used & 7)
        bits = load64(stays, used >> 3) >> shift
        if shift != np.uint64(0):
            bits |= np.uint64(stays[(used >> 3) + 8]) << (np.uint64(64) - shift)
        used += ones(word)
        word = _deposit(bits, word)
        if index_width == 0:
            store64(out, place // 8, word)
            continue
        while word != np.uint64(0):
            index = first + place + lowest(word)
            if index_width == 4:
                store32(out, 4 * written, np.uint32(index))
            else:
                store64(out, 8 * written, np.uint64(index))
            written += 1
            word &= word - np.uint64(1)
    return kept


@exported("int64(float32[::1], int64, int64, uint8[::1])")
def round_values(values, size, code, out):
    """Round float32 values [size] to a dtype, nearest even, into bytes `out`; return how many become infinite."""
    lost = 0
    for place in range(0, size, 16):
        if code == BF16:
            bad = narrow_bf16(values, place, out, 2 * place)
        elif code == F16:
            bad = narrow_f16(values, place, out, 2 * place)
        else:
            bad = narrow_f32(values, place, out, 4 * place)
        if size - place < 16:
            bad &= np.uint64((1 << (size - place)) - 1)
        lost += ones(bad)
    return lost
