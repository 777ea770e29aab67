"""Composing by the CUDA kernel, on lanes that the CPU stands in for, to the CPU kernel's bits."""

import contextlib
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.breadcrumbs.composing.staging import Arena
from registry.breadcrumbs.kernels import compose as kernels
from registry.breadcrumbs.kernels import constants
from registry.breadcrumbs.kernels.cuda.compose import BLOCKS, MIXED, compose_chunk, kind_of
from registry.breadcrumbs.kernels.cuda.counting import set_bits
from registry.breadcrumbs.kernels.dtypes import TORCH_DTYPES
from tests.support.host_lanes import DEVICE, fenced
from tests.support.science_makers import put

WIDTHS = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8}
EXPONENTS = {"BF16": (7, 8), "F16": (10, 5), "F32": (23, 8), "F64": (52, 11)}
"""Of each dtype: bits of the fraction and of the exponent."""

GUARD = 64


class Made(NamedTuple):
    """A chunk in an arena: arguments of the CPU's kernel, by which the CUDA kernel's are known."""

    arena: Arena
    base_at: int
    dtype: str
    size: int
    first: int
    table: np.ndarray
    scales: np.ndarray
    method: str
    alpha: float


def draw_bits(random: np.random.Generator, dtype: str, size: int, finite: bool) -> np.ndarray:
    """Draw numbers of a dtype by their bits: a third near 1, a third tiny or subnormal, a third of any size."""
    fraction, exponent = EXPONENTS[dtype]
    whole, most = WIDTHS[dtype] * 8, (1 << exponent) - 1
    kind = random.integers(0, 3, size)
    near = random.integers(most // 2 - 6, most // 2 + 2, size)
    anything = random.integers(0, most + (not finite), size)
    exponents = np.where(kind == 0, near, np.where(kind == 1, random.integers(0, 3, size), anything)).astype(np.uint64)
    bits = exponents << np.uint64(fraction) | random.integers(0, 1 << fraction, size).astype(np.uint64)
    bits |= random.integers(0, 2, size).astype(np.uint64) << np.uint64(whole - 1)
    bits[random.random(size) < 0.05] &= np.uint64(1 << (whole - 1))  # zeros of both signs
    return bits.astype(f"<u{WIDTHS[dtype]}")


def make(
    seed: int,
    size: int,
    patches: int,
    dtype: str = "BF16",
    method: str = "sum",
    value_dtypes: tuple[str, ...] = ("BF16", "F16", "F32"),
    widths: tuple[int, ...] = (0, 4, 8),
    densities: tuple[float, ...] = (0.0, 0.02, 0.14, 0.5, 1.0),
    finite: bool = True,
) -> Made:
    """Make a chunk by chance; widths are the bytes of an index, 0 for a bitmask."""
    random = np.random.default_rng(seed)
    arena, rows, scales = Arena(64), [], []
    first = int(random.integers(0, 2**20)) * 64
    base_at = put(arena, draw_bits(random, dtype, size, finite=False).tobytes())
    for _ in range(patches):
        value_dtype, width, density = (random.choice(options) for options in (value_dtypes, widths, densities))
        bits = random.random(size) < float(density)
        places = np.flatnonzero(bits) + first
        mask = places.astype(f"<i{width}") if width else np.packbits(bits, bitorder="little")
        mask_at = put(arena, mask.tobytes() + bytes([255] * 8))  # nothing may depend on what follows
        values_at = put(arena, draw_bits(random, str(value_dtype), len(places), finite).tobytes())
        rows.append((mask_at, values_at, constants.CODES[str(value_dtype)], width, len(places)))
        scales.append(float(draw_bits(random, "F32", 1, finite=True).view("<f4")[0]))
    if method != "sum":
        scales = [abs(scale) or 1.0 for scale in scales]
    table, alpha = np.array(rows, np.int64).reshape(-1, 5), float(np.float32(random.normal()))
    return Made(arena, base_at, dtype, size, first, table, np.array(scales, np.float64), method, alpha)


def compose_by_cpu(made: Made) -> tuple[bytes, int]:
    """Compose by the CPU's kernel, whose masks end with zeros; return the bytes and how many are lost."""
    arena = made.arena.bytes.copy()
    for mask_at, _, _, width, _ in made.table.tolist():
        if not width:
            end = mask_at + -(-made.size // 8)
            arena[end : end + 8] = 0
    out = np.empty(made.size * WIDTHS[made.dtype] + constants.PAD, np.uint8)
    ask = arena, made.base_at, constants.CODES[made.dtype], made.size, made.first, made.table, made.scales, out
    lost = kernels.compose_chunk(*ask, constants.METHODS[made.method], made.alpha)
    return out[: -constants.PAD].tobytes(), lost


def count_before(made: Made, block: int) -> torch.Tensor:
    """Count each patch's values before every block, and all of them."""
    starts = np.zeros((len(made.table), -(-made.size // block) + 1), np.int32)
    for number, (mask_at, _, _, width, count) in enumerate(made.table.tolist()):
        if width:
            indices = np.frombuffer(made.arena.view, f"<i{width}", count, mask_at)
            places = indices.astype(np.int64) - made.first
        else:
            octets = made.arena.bytes[mask_at : mask_at + -(-made.size // 8)]
            places = np.flatnonzero(np.unpackbits(octets, bitorder="little", count=made.size))
        starts[number, :-1] = np.searchsorted(places, np.arange(starts.shape[1] - 1) * block)
        starts[number, -1] = count
    return torch.from_numpy(starts)


def compose_by_lanes(made: Made, in_place: bool = False) -> tuple[bytes, int]:
    """Compose by the CUDA kernel; see that nothing is written but what is asked for."""
    arena = torch.from_numpy(made.arena.bytes.copy()).to(DEVICE)
    length = made.size * WIDTHS[made.dtype]
    guarded = torch.full((length + 3 * GUARD,), 0xA5, dtype=torch.uint8, device=DEVICE)
    begin = -guarded.data_ptr() % GUARD + GUARD
    out = guarded[begin : begin + length]
    base = arena[made.base_at : made.base_at + length]
    if in_place:
        base = out.copy_(base)
    lost = torch.full((1,), 7, dtype=torch.int64, device=DEVICE)
    scales = torch.from_numpy(np.append(made.scales, made.alpha)).to(DEVICE)
    method = constants.METHODS[made.method]
    table = torch.from_numpy(made.table).to(DEVICE)
    starts = count_before(made, BLOCKS[method]).to(DEVICE)
    before = arena.clone()
    kind = kind_of(map(tuple, made.table[:, 2:4].tolist()), method)
    compose_chunk(arena, base, out, made.dtype, table, scales, starts, lost, method, made.first, kind)
    assert torch.equal(arena, before)
    assert set(guarded[:begin].tolist() + guarded[begin + length :].tolist()) == {0xA5}
    return out.cpu().numpy().tobytes(), int(lost) - 7


ASKED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DTYPES = st.sampled_from(list(WIDTHS))
METHODS = st.sampled_from(list(constants.METHODS))
SEEDS = st.integers(0, 2**32 - 1)


@ASKED
@given(seed=SEEDS, size=st.integers(0, 6000), patches=st.integers(0, 6), dtype=DTYPES, method=METHODS)
def test_lanes_compose_to_the_cpus_bits(lanes, seed, size, patches, dtype, method):
    made = make(seed, size, patches, dtype, method)
    assert compose_by_lanes(made) == compose_by_cpu(made)


@settings(ASKED, max_examples=15)
@given(seed=SEEDS, size=st.integers(1, 1500), patches=st.integers(7, 64), dtype=DTYPES, method=METHODS)
def test_lanes_add_many_patches_in_order(lanes, seed, size, patches, dtype, method):
    made = make(seed, size, patches, dtype, method)
    assert compose_by_lanes(made) == compose_by_cpu(made)


@settings(ASKED, max_examples=40)
@given(
    seed=SEEDS,
    size=st.integers(1, 5000),
    patches=st.integers(1, 9),
    dtype=DTYPES,
    value_dtype=st.sampled_from(["BF16", "F16", "F32"]),
)
def test_bitmasks_of_one_dtype_have_a_kernel_of_their_own(lanes, seed, size, patches, dtype, value_dtype):
    made = make(seed, size, patches, dtype, value_dtypes=(value_dtype,), widths=(0,))
    assert compose_by_lanes(made) == compose_by_cpu(made)
    assert f"compose<{constants.CODES[dtype]}, 0, {constants.CODES[value_dtype]}>" in lanes.launched


def test_the_kind_of_patches_is_their_one_dtype_or_mixed():
    assert kind_of([(constants.F16, 0), (constants.F16, 0)]) == constants.F16
    assert kind_of([(constants.F16, 0), (constants.BF16, 0)]) == MIXED
    assert kind_of([(constants.F16, 0), (constants.F16, 4)]) == MIXED
    assert kind_of([(constants.F16, 0)], constants.TIES) == MIXED
    assert kind_of([]) == MIXED


@pytest.mark.parametrize("method", list(constants.METHODS))
@pytest.mark.parametrize("dtype", list(WIDTHS))
def test_a_base_may_be_composed_in_place(lanes, dtype, method):
    made = make(5, 4500, 5, dtype, method)
    assert compose_by_lanes(made, in_place=True) == compose_by_cpu(made)


@settings(ASKED, max_examples=20)
@given(seed=SEEDS, dtype=DTYPES, method=METHODS)
def test_values_that_are_not_finite_are_lost_and_change_nothing_else(lanes, seed, dtype, method):
    made = make(seed, 1300, 4, dtype, method, finite=False, densities=(0.5, 1.0))
    (ours, lost), (theirs, expected) = compose_by_lanes(made), compose_by_cpu(made)
    assert lost == expected
    one, other = (torch.frombuffer(bytearray(part), dtype=TORCH_DTYPES[dtype]) for part in (ours, theirs))
    assert torch.equal(one[one.isfinite()], other[one.isfinite()])
    before = made.arena.bytes[made.base_at : made.base_at + len(ours)].tobytes()
    base = torch.frombuffer(bytearray(before), dtype=TORCH_DTYPES[dtype])
    assert int((base.isfinite() & ~one.isfinite()).sum()) == lost


@pytest.mark.skipif(DEVICE.type == "cuda", reason="compute-sanitizer looks for this on a GPU")
@pytest.mark.parametrize("method", list(constants.METHODS))
@pytest.mark.parametrize("dtype", list(WIDTHS))
def test_nothing_is_read_or_written_beyond_the_ends(lanes, dtype, method):
    """Whatever lies last in the arena: the values, or the mask and the 4 bytes after it."""
    for size, kind in ((48, "F32"), (4416, "F32"), (1091, "BF16"), (33, "F16")):
        made = make(size, size, 2, dtype, method, (kind,), widths=(0,), densities=(1.0,))
        for last in ("mask", "values"):
            parts = [made.arena.bytes[row[0] : row[0] + -(-size // 8)].tobytes() for row in made.table]
            values = [made.arena.bytes[row[1] :][: size * WIDTHS[kind]].tobytes() for row in made.table]
            order = [*values, *parts] if last == "mask" else [*parts, *values]
            arena, at, places = bytearray(), 0, []
            for part in order:
                arena += part + bytes([255]) * (-len(part) % 64)
                places.append(at)
                at = len(arena)
            if last == "mask" and len(arena) - places[-1] < len(parts[-1]) + 4:
                arena += bytes(64)
            there, base, out = (fenced(-(-count // 64) * 64) for count in (len(arena), *2 * [size * WIDTHS[dtype]]))
            there[: len(arena)] = torch.frombuffer(arena, dtype=torch.uint8)
            length = size * WIDTHS[dtype]
            base, out = base[-(-length // 16) * -16 :][:length], out[-(-length // 16) * -16 :][:length]
            base[:] = torch.from_numpy(made.arena.bytes)[made.base_at : made.base_at + length]
            masks, kept = (places[2:], places[:2]) if last == "mask" else (places[:2], places[2:])
            table = torch.tensor([[masks[row], kept[row], constants.CODES[kind], 0, size] for row in (0, 1)])
            number, scales = constants.METHODS[method], torch.from_numpy(np.append(made.scales, made.alpha))
            starts, lost = count_before(made, BLOCKS[number]), torch.zeros(1, dtype=torch.int64)
            compose_chunk(there, base, out, dtype, table, scales, starts, lost, number)
            assert out.numpy().tobytes() == compose_by_cpu(made)[0]


@pytest.mark.parametrize("method", list(constants.METHODS))
@pytest.mark.parametrize("edge", [-1, 0, 1])
def test_ragged_ends_of_lanes_warps_and_blocks_are_composed(lanes, method, edge):
    block = BLOCKS[constants.METHODS[method]]
    for size in (1, 8, 16, 32, block, 4 * block, 5 * block, 9 * block):
        if size + edge > 0:
            made = make(size, size + edge, 3, method=method, densities=(0.14, 1.0))
            assert compose_by_lanes(made) == compose_by_cpu(made)


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_every_16_bit_number_is_read_and_rounded_alike(lanes, dtype):
    made = make(1, 2**16, 1, dtype, widths=(0,), densities=(1.0,), value_dtypes=("F32",))
    every = np.arange(2**16, dtype=np.uint16).view(np.uint8)
    made.arena.bytes[made.base_at : made.base_at + 2**17] = every
    assert compose_by_lanes(made) == compose_by_cpu(made)
    made = make(1, 2**16, 1, "F32", widths=(0,), densities=(1.0,), value_dtypes=(dtype,))
    values_at = int(made.table[0, 1])
    fraction, exponent = EXPONENTS[dtype]
    high = ((1 << exponent) - 1) << fraction
    finite = np.where(np.arange(2**16) & high == high, 0, np.arange(2**16)).astype(np.uint16)
    made.arena.bytes[values_at : values_at + 2**17] = finite.view(np.uint8)
    assert compose_by_lanes(made) == compose_by_cpu(made)


def test_overflow_is_counted_once_for_each_element(lanes):
    made = make(2, 3000, 0, "BF16")
    largest = np.full(3000, 0x7F7F, np.uint16)
    largest[::5] = 0x7F80  # infinite before
    made.arena.bytes[made.base_at : made.base_at + 6000] = largest.view(np.uint8)
    bits = np.full(375, 255, np.uint8)
    values = np.full(3000, 2.0**120, "<f4")
    mask_at, values_at = put(made.arena, bits.tobytes() + bytes(8)), put(made.arena, values.tobytes())
    table = np.array([[mask_at, values_at, constants.F32, 0, 3000]], np.int64)
    made = made._replace(table=table, scales=np.array([float(np.float32(2.0**7))]))
    ours, lost = compose_by_lanes(made)
    assert lost == 2400
    assert (ours, lost) == compose_by_cpu(made)
    assert math.isinf(torch.frombuffer(bytearray(ours), dtype=torch.bfloat16)[1])


@pytest.mark.parametrize("dtype", list(WIDTHS))
def test_equal_masses_elect_the_positive_sign(lanes, dtype):
    made, rows = make(3, 300, 0, dtype, "ties"), []
    random = np.random.default_rng(3)
    value = random.integers(1, 4, 300).astype("<f4")
    for values in (value, -value, value * (random.random(300) < 0.5)):
        mask_at = put(made.arena, np.full(38, 255, np.uint8).tobytes() + bytes(8))
        rows.append((mask_at, put(made.arena, values.tobytes()), constants.F32, 0, 300))
    for count in (2, 3):
        voted = made._replace(table=np.array(rows[:count], np.int64), scales=np.ones(count))
        assert compose_by_lanes(voted) == compose_by_cpu(voted)


def test_a_kernel_that_is_not_compiled_is_not_launched(lanes):
    with pytest.raises(AssertionError, match="not among those"):
        lanes.launch("compose.cu", "compose<9, 9, 9>", 1, 32)


def test_launches_by_several_threads_are_all_counted(lanes):
    both = threading.Barrier(2)

    class Meeting(dict):
        """Has threads that read at the same time meet."""

        def get(self, *asked):
            found = super().get(*asked)
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(0.3)
            return found

    lanes.launched = Meeting()

    def launch(number):
        set_bits(torch.tensor([number], device=DEVICE), torch.zeros(2, dtype=torch.int32, device=DEVICE), 0)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(launch, range(2)))
    assert lanes.launched["set_bits"] == 2
