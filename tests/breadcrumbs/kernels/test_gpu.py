"""Composing by the GPU's kernels, to the CPU's bits."""

import contextlib
import math

import numpy as np
import pytest
import torch

from registry.breadcrumbs.composing import compose as compose_module
from registry.breadcrumbs.composing import staging
from registry.breadcrumbs.composing.engines import Rule
from registry.breadcrumbs.composing.staging import Step
from registry.breadcrumbs.kernels import constants
from registry.breadcrumbs.kernels.staging import block_starts
from tests.support.gpu_kernels import (
    ALL_DTYPES,
    BITS,
    BLOCK,
    CUDA,
    DEVICE,
    FORMS,
    GUARD,
    LEAST,
    NAMES,
    GpuEngine,
    gpu,
    nearest,
)
from tests.support.science_makers import (
    PatchedBase,
    Touch,
    compose_block,
    raw,
    slow_combine,
)

pytestmark = [  # the interpreter's numpy: an overflow, a signalling NaN
    pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered in (cast|add):RuntimeWarning"),
]


def compose_slowly(
    base: torch.Tensor, touches: list[Touch], method: str = "sum", alpha: float = 1.0
) -> tuple[torch.Tensor, int]:
    """Compose a block as the specification says, in Python; return it and how many are lost."""
    before: list[float] = base.double().tolist()
    votes: dict[int, list[tuple[float, float]]] = {}
    for touch in touches:
        for place, value in zip(touch.places.tolist(), touch.values.double().tolist(), strict=True):
            if method != "ties" or value:
                votes.setdefault(place, []).append((touch.scale, value))
    places = [place for place in sorted(votes) if torch.isfinite(base[place])]
    results = [slow_combine(before[place], votes[place], method, alpha) for place in places]
    if base.dtype != torch.float64:
        results = [nearest(nearest(value, torch.float32), base.dtype) for value in results]
    found = base.clone()
    found[torch.tensor(places, dtype=torch.int64)] = torch.tensor(results, dtype=torch.float64).to(base.dtype)
    return found, sum(math.isinf(result) for result in results)


def compose_on_gpu(
    base: torch.Tensor,
    touches: list[Touch],
    indices: bool = False,
    block: int = BLOCK,
    method: str = "sum",
    alpha: float = 1.0,
) -> tuple[torch.Tensor, int]:
    """Compose a block as `compose_block` does, by the GPU's kernel."""
    size, blocks = base.numel(), -(-base.numel() // block)
    parts, rows, starts, at = [], [], np.zeros((len(touches), blocks), np.int32), 0
    for number, touch in enumerate(touches):
        bits = np.zeros(-(-size // 64) * 64, np.bool_)
        bits[touch.places.numpy()] = True
        mask = np.packbits(bits, bitorder="little").tobytes()
        if indices:
            words = torch.zeros(len(mask) // 4, dtype=torch.int32, device=DEVICE)
            gpu.set_bits((touch.places + 1000).to(DEVICE), words, 1000, block=BLOCK)
            assert words.cpu().numpy().tobytes() == mask
        arena = np.frombuffer(mask + bytes(8), np.uint8).copy()
        block_starts(arena, 0, size, block, starts[number])
        values = raw(touch.values)
        padding = [bytes(-len(part) % 64) for part in (mask, values)]
        rows.append((at, at + len(mask) + len(padding[0]), constants.CODES[NAMES[touch.values.dtype]]))
        parts += [mask, padding[0], values, padding[1]]
        at += sum(map(len, parts[-4:]))
    there = torch.frombuffer(bytearray(b"".join(parts) + bytes(64)), dtype=torch.uint8).to(DEVICE)
    guarded = torch.full((base.nbytes + 2 * GUARD,), 0xA5, dtype=torch.uint8, device=DEVICE)
    out, lost = guarded[GUARD : GUARD + base.nbytes], torch.full((1,), 5, dtype=torch.int64, device=DEVICE)
    table = torch.tensor(rows, dtype=torch.int64, device=DEVICE).reshape(-1, 3)
    scales = torch.tensor([*(touch.scale for touch in touches), alpha], dtype=torch.float64, device=DEVICE)
    before = torch.from_numpy(starts).to(DEVICE)
    octets = base.view(torch.uint8).to(DEVICE)
    ask = there, octets, out, NAMES[base.dtype], table, scales, before, lost
    gpu.compose_chunk(*ask, constants.METHODS[method], block=block)
    assert set(guarded[:GUARD].tolist() + guarded[GUARD + base.nbytes :].tolist()) == {0xA5}
    return out.cpu().view(base.dtype), int(lost) - 5


def same(
    base: torch.Tensor,
    touches: list[Touch],
    indices: bool = False,
    block: int = BLOCK,
    method: str = "sum",
    alpha: float = 1.0,
) -> tuple[torch.Tensor, int]:
    """Compose a block on the GPU, on the CPU and slowly; see that all agree, and return it and how many are lost."""
    ours, lost = compose_on_gpu(base, touches, indices, block, method, alpha)
    others = compose_block(base, touches, indices, method, alpha), compose_slowly(base, touches, method, alpha)
    for theirs, expected in others:
        assert raw(ours) == raw(theirs)
        assert lost == expected
    return ours, lost


DENSITIES = (0.14, 0, 1, 0.02, 0.5)


def touch(size: int, dtype: torch.dtype, density: float, seed: int, scale: float) -> Touch:
    """Touch a share of the elements, by chance."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.nonzero(torch.rand(size, generator=generator) < density).reshape(-1)
    return Touch(places, torch.randn(places.numel(), generator=generator).to(dtype), float(np.float32(scale)))


def everywhere(values: list[float] | torch.Tensor, scale: float = 1.0) -> Touch:
    """Touch every element."""
    values = torch.as_tensor(values)
    return Touch(torch.arange(values.numel()), values, scale)


@pytest.mark.parametrize("value_dtype", [torch.bfloat16, torch.float16, torch.float32], ids=NAMES.get)
@ALL_DTYPES
def test_the_gpu_composes_to_the_cpus_bits(dtype, value_dtype):
    for size in (1, 7, 63, 64, 65, 210):
        base = torch.randn(size, generator=torch.Generator().manual_seed(size), dtype=torch.float64).to(dtype)
        touches = [touch(size, value_dtype, density, n, 0.3 - n) for n, density in enumerate(DENSITIES)]
        same(base, touches)
        same(base, touches, indices=True)
        same(base, [])


@pytest.mark.parametrize("method", ["ties", "mean"])
@ALL_DTYPES
def test_the_gpu_votes_to_the_cpus_bits(dtype, method):
    base = torch.randn(210, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    kinds = [torch.bfloat16, torch.float16, torch.float32, torch.float32, torch.bfloat16]
    pairs = zip(kinds, DENSITIES, strict=True)
    touches = [touch(210, kind, density, n, 0.3 + n) for n, (kind, density) in enumerate(pairs)]
    touches[2].values[::3] = 0.0
    touches[4] = touches[4]._replace(values=-touches[4].values)
    voted, _ = same(base, touches, method=method, alpha=-1.7)
    same(base, touches, indices=True, method=method, alpha=0.25)
    assert not torch.equal(voted, same(base, touches)[0])
    same(base, [], method=method)


def test_a_chunk_without_elements_is_composed_to_nothing():
    empty = torch.zeros(0)
    found, lost = compose_on_gpu(empty, [Touch(torch.zeros(0, dtype=torch.int64), empty, 1.0)])
    assert (found.numel(), lost) == (0, 0)


@ALL_DTYPES
def test_values_of_several_dtypes_add_up_in_order(dtype):
    base = torch.randn(300, generator=torch.Generator().manual_seed(0)).to(dtype)
    large = touch(300, torch.bfloat16, 0.6, 1, 2.0**90)
    touches = [large, touch(300, torch.float16, 0.6, 2, 1.5), large._replace(scale=-large.scale)]
    touches += [touch(300, torch.float32, 0.6, 3, 1e-9)]
    forwards, _ = same(base.double(), touches)
    backwards, _ = same(base.double(), touches[::-1])
    assert not torch.equal(forwards, backwards)
    same(base, touches)


@ALL_DTYPES
def test_what_is_not_finite_or_negative_zero_keeps_its_bits(dtype):
    base = torch.tensor([math.nan, -math.nan, math.nan, math.inf, -math.inf, -0.0, -0.0, 0.0, -0.0, 1.0], dtype=dtype)
    bits = base.view(BITS[dtype.itemsize])
    bits[0] += 5  # a payload
    bits[1] += 3
    bits[2] = bits[3] + 1  # a signalling NaN
    places = torch.tensor([0, 1, 2, 3, 4, 5, 8, 9])
    values = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, -0.0, 0.0, 1.0])
    found, lost = same(base, [Touch(places, values, 1.0)])
    assert lost == 0
    assert raw(found[:8]) == raw(base[:8])
    assert raw(found[8:]) == raw(torch.tensor([0.0, 2.0], dtype=dtype))


@pytest.mark.parametrize("dtype", list(FORMS), ids=NAMES.get)
def test_what_overflows_becomes_infinite_and_is_counted(dtype):
    digits, _, most = FORMS[dtype]
    half = 2.0 ** (most - digits - 1)  # of the last digit of the largest number
    values = torch.tensor([half, half * (1 - 2.0**-10), -half, -half * (1 - 2.0**-10), half * 1.5, 2.0**127, 0.0] * 20)
    largest = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0, 1.0, 1.0] * 20, dtype=torch.float64) * torch.finfo(dtype).max
    found, lost = same(largest.to(dtype), [everywhere(values)])
    assert found.isinf().tolist() == [True, False, True, False, True, True, False] * 20
    assert lost == 80
    assert same(largest.to(dtype), [Touch(torch.arange(139), values[:139], 2.0**127)])[1] == 120


def test_what_is_too_large_for_float32_is_kept_in_float64():
    found, lost = same(torch.ones(3, dtype=torch.float64), [everywhere([2.0**127, 2.0**100, -(2.0**127)], 2.0**127)])
    assert (found.tolist(), lost) == ([2.0**254, 2.0**227, -(2.0**254)], 0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=NAMES.get)
def test_every_16_bit_number_is_read_and_rounded_alike(dtype):
    every = torch.arange(2**16).to(torch.uint16).view(dtype)
    same(every, [everywhere(torch.full((2**16,), 2.0**-20), float(np.float32(1 / 3)))], block=1024)
    finite = every[every.isfinite()]
    same(torch.full((finite.numel(),), 2.0**-3), [everywhere(finite, 0.75)], block=1024)


@pytest.mark.parametrize("value_dtype", [torch.bfloat16, torch.float16, torch.float32], ids=NAMES.get)
@ALL_DTYPES
def test_subnormal_bases_values_scales_and_results_are_not_flushed(dtype, value_dtype):
    least, equal = LEAST[dtype], LEAST[dtype] / LEAST[value_dtype]
    normal = torch.finfo(dtype).tiny / least
    base = torch.tensor([0, 1, 3, -1, 5, normal, 7], dtype=torch.float64) * least
    values = torch.tensor([1, 3, -1, 1, 5, -1, 0], dtype=torch.float64) * LEAST[value_dtype]
    for scale in (1.0, 2.0**-149, *(max(2.0**-149, part * equal) for part in (0.5, 1, 1.5))):
        found, _ = same(base.to(dtype), [everywhere(values.to(value_dtype), scale)])
        assert found[6] == 7 * least
        if scale == equal:
            assert (found.double() / least).tolist() == [1, 4, 2, 0, 10, normal - 1, 7]


@pytest.mark.parametrize(("dtype", "half"), [(torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11)], ids=["BF16", "F16"])
def test_16_bits_are_rounded_by_way_of_float32(dtype, half):
    """Just above the tie in float64, float32 puts it on the tie, and ties go to even."""
    base = torch.tensor([1.0, 1.0, 1 + 2 * half, 1 + 2 * half], dtype=dtype)
    close, clear = half + half * 2.0**-23, half + half * 2.0**-10
    found, _ = same(base, [everywhere([close, clear, 2 * half - close, 2 * half - clear])])
    assert found.tolist() == [1.0, 1 + 2 * half, 1 + 4 * half, 1 + 2 * half]


VOTING = {"weights": ("1", "0.5", "2"), "where": ((), (("*loat*", "0.25"), ("scalar", "0")), ())}


@pytest.mark.parametrize(
    ("memory", "how"),
    [(2**26, {}), (2**20, {}), (2**26, {"method": "ties", **VOTING}), (2**26, {"method": "mean", **VOTING})],
)
def test_a_model_is_composed_to_the_cpus_bytes_in_chunks(tmp_path, monkeypatch, memory, how):
    """Through the pipeline, sparse patches and all; with too little memory for a chunk, the CPU helps out."""
    monkeypatch.setattr(staging, "MIN_CHUNK_ELEMENTS", 128)
    monkeypatch.setattr(gpu, "BLOCK", BLOCK)
    monkeypatch.setattr(gpu.compose_chunk, "__defaults__", (constants.SUM, BLOCK))
    world = PatchedBase(tmp_path)
    expected = world.compose("cpu", file_digests=True, **how)

    class Small(GpuEngine):
        CHUNKS = 3 if CUDA else 1  # the interpreter runs one kernel at a time

    made = []

    @contextlib.contextmanager
    def opened(device, device_memory, phases, recipe, base_size, patches):
        ask = phases, Rule.of(recipe), recipe.base, base_size, patches
        made.append(Small(torch.device(DEVICE), memory, *ask))
        made[0].step = Step(2000, 256)
        yield made[0]

    monkeypatch.setattr(compose_module, "open_engine", opened)
    if memory == 2**20:
        monkeypatch.setattr(Small, "_working", lambda self: pytest.fail("the GPU has no room"))
        monkeypatch.setattr(GpuEngine, "ARENA_BYTES", 64)
    found = world.compose("gpu", file_digests=True, **how)
    assert made
    assert (found.weights_digest, found.files) == (expected.weights_digest, expected.files)


@pytest.mark.parametrize(("kind", "first"), [(torch.int32, 0), (torch.int32, 2**31 - 500), (torch.int64, 2**33 + 32)])
def test_bits_are_set_where_the_indices_say_and_nowhere_else(kind, first):
    places = torch.tensor([0, 1, 31, 32, 63, 64, 65, *range(96, 160), 300, 319])
    words = torch.zeros(12, dtype=torch.int32, device=DEVICE)
    gpu.set_bits((places + first).to(kind).to(DEVICE), words[1:11], first, block=BLOCK)
    bits = np.unpackbits(words.cpu().numpy().view(np.uint8), bitorder="little")
    assert (np.flatnonzero(bits) - 32).tolist() == places.tolist()
    gpu.set_bits(torch.zeros(0, dtype=kind, device=DEVICE), words, first)
    assert int(words[0]) == 0
