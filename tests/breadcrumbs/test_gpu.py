"""The Triton kernels: on a GPU where there is one, and in Triton's interpreter on the CPU elsewhere."""

import contextlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from makers_breadcrumbs import Touch, compose_block, raw, slow_mask, write_model
from test_composing import World

from registry.breadcrumbs import changes, kernels, staging
from registry.breadcrumbs import compose as compose_module
from registry.breadcrumbs import diff as diff_module
from registry.breadcrumbs.checkpoint import open_checkpoint
from registry.breadcrumbs.diff import diff
from registry.breadcrumbs.engines import GpuEngine
from registry.breadcrumbs.lanes import Phases
from registry.breadcrumbs.layout import MaskParams
from registry.breadcrumbs.mask import dropped
from registry.breadcrumbs.staging import Step

gpu = pytest.importorskip("registry.breadcrumbs.gpu", reason="Triton is not installed", exc_type=ModuleNotFoundError)

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
BLOCK = 64
mark = gpu.mark


pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")  # the interpreter's numpy


def compose_on_gpu(base: torch.Tensor, touches: list[Touch], indices: bool = False) -> tuple[torch.Tensor, int]:
    """Compose a block as `compose_block` does, by the GPU's kernel."""
    size, blocks = base.numel(), -(-base.numel() // BLOCK)
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
        kernels.block_starts(arena, 0, size, BLOCK, starts[number])
        values = raw(touch.values)
        code = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}[touch.values.dtype]
        padding = [bytes(-len(part) % 64) for part in (mask, values)]
        rows.append((at, at + len(mask) + len(padding[0]), code))
        parts += [mask, padding[0], values, padding[1]]
        at += sum(map(len, parts[-4:]))
    there = torch.frombuffer(bytearray(b"".join(parts) + bytes(64)), dtype=torch.uint8).to(DEVICE)
    out, lost = (
        torch.zeros(base.nbytes, dtype=torch.uint8, device=DEVICE),
        torch.zeros(1, dtype=torch.int64, device=DEVICE),
    )
    name = next(name for name, dtype in DTYPES.items() if dtype == base.dtype)
    table = torch.tensor(rows, dtype=torch.int64, device=DEVICE).reshape(-1, 3)
    scales = torch.tensor([touch.scale for touch in touches], dtype=torch.float64, device=DEVICE)
    octets = base.view(torch.uint8).to(DEVICE)
    gpu.compose_chunk(there, octets, out, name, table, scales, torch.from_numpy(starts).to(DEVICE), lost, block=BLOCK)
    return out.cpu().view(base.dtype), int(lost)


def same(base: torch.Tensor, touches: list[Touch], indices: bool = False) -> torch.Tensor:
    """Compose a block on both devices; see that all agrees, and return it."""
    ours, lost = compose_on_gpu(base, touches, indices)
    theirs, expected = compose_block(base, touches, indices)
    assert lost == expected
    assert raw(ours) == raw(theirs)
    return ours


def touch(size: int, dtype: torch.dtype, density: float, seed: int, scale: float) -> Touch:
    generator = torch.Generator().manual_seed(seed)
    places = torch.nonzero(torch.rand(size, generator=generator) < density).reshape(-1)
    return Touch(places, torch.randn(places.numel(), generator=generator).to(dtype), float(np.float32(scale)))


@pytest.mark.parametrize("value_dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("dtype", list(DTYPES.values()), ids=list(DTYPES))
def test_the_gpu_composes_to_the_cpus_bits(dtype, value_dtype):
    for size in (1, 7, 63, 64, 65, 1000):
        base = torch.randn(size, generator=torch.Generator().manual_seed(size), dtype=torch.float64).to(dtype)
        touches = [touch(size, value_dtype, density, n, 0.3 - n) for n, density in enumerate((0.14, 0, 1, 0.02, 0.5))]
        same(base, touches)
        same(base, touches, indices=True)
        same(base, [])


def test_values_of_several_dtypes_add_up_in_order():
    base = torch.randn(300, generator=torch.Generator().manual_seed(0)).bfloat16()
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float32)
    same(base, [touch(300, dtype, 0.4, n, 1e3 ** (n - 1)) for n, dtype in enumerate(dtypes)])


@pytest.mark.parametrize("dtype", list(DTYPES.values()), ids=list(DTYPES))
def test_what_is_not_finite_or_negative_zero_keeps_its_bits(dtype):
    base = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 0.0, 1.0, -0.0], dtype=dtype)
    base.view(BITS[dtype.itemsize])[0] += 5  # a payload
    found = same(base, [Touch(torch.tensor([0, 1, 2, 3, 5]), torch.tensor([1.0, 1.0, 1.0, -0.0, 1.0]), 1.0)])
    assert raw(found[:4]) == raw(base[:4])
    assert raw(found[6:]) == raw(base[6:])
    assert found[5] == 2.0


@pytest.mark.parametrize("dtype", list(DTYPES.values()), ids=list(DTYPES))
def test_overflows_are_counted(dtype):
    largest = torch.finfo(dtype).max
    base = torch.full((200,), largest, dtype=torch.float64).to(dtype)
    places = torch.arange(0, 200, 2)
    values = torch.full((100,), 2.0**127)
    found, lost = compose_on_gpu(base, [Touch(places, values, 2.0**127)])
    assert lost == compose_block(base, [Touch(places, values, 2.0**127)])[1] == (0 if dtype == torch.float64 else 100)
    assert raw(found[1::2].contiguous()) == raw(base[1::2].contiguous())


def test_every_16_bit_number_rounds_alike():
    every = torch.arange(2**16).to(torch.uint16)
    third = Touch(torch.arange(2**16), torch.full((2**16,), 2.0**-20), 1.0 / 3)
    for dtype in (torch.bfloat16, torch.float16):
        small = every.view(dtype)[:4096]  # zero, the subnormals and what follows
        same(small.contiguous(), [Touch(third.places[:4096], third.values[:4096], float(np.float32(third.scale)))])


def test_bfloat16_is_rounded_by_way_of_float32():
    base = torch.tensor([1.0, 1.0], dtype=torch.bfloat16)
    values = torch.tensor([2.0**-8 + 2.0**-31, 2.0**-8 + 2.0**-22])
    assert same(base, [Touch(torch.tensor([0, 1]), values, 1.0)]).tolist() == [1.0, 1 + 2.0**-7]


@pytest.mark.parametrize("memory", [2**26, 2**20])
def test_a_model_is_composed_to_the_cpus_bytes_in_chunks(tmp_path, monkeypatch, memory):
    """Through the pipeline, sparse patches and all; with too little memory for a chunk, the CPU helps out."""
    monkeypatch.setattr(staging, "SMALLEST", 128)
    monkeypatch.setattr(gpu, "BLOCK", BLOCK)
    monkeypatch.setattr(gpu.compose_chunk, "__defaults__", (BLOCK,))
    world = World(tmp_path)
    expected = world.compose("cpu", file_digests=True)

    class Small(GpuEngine):
        DEPTH = 3 if CUDA else 1  # the interpreter runs one kernel at a time

    made = []

    @contextlib.contextmanager
    def opened(*given):
        made.append(Small(torch.device(DEVICE), memory, Phases()))
        made[0].step = Step(2000, 256)
        yield made[0]

    monkeypatch.setattr(compose_module, "open_engine", opened)
    if memory == 2**20:
        monkeypatch.setattr(Small, "_work", lambda self: pytest.fail("the GPU has no room"))
        monkeypatch.setattr(GpuEngine, "ROOM", 64)
    found = world.compose("gpu", file_digests=True)
    assert made
    assert (found.weights_digest, found.files) == (expected.weights_digest, expected.files)


def test_masks_found_by_the_gpu_make_the_cpus_patch(tmp_path, monkeypatch):
    for name, value in (("BLOCK", 64), ("SEGMENT", 128), ("RUN", 8)):
        monkeypatch.setattr(changes, name, value)
    monkeypatch.setattr(gpu.mark, "__defaults__", (BLOCK,))
    torch.manual_seed(5)
    base = {name: torch.randn(30, 11, dtype=torch.float64).to(dtype) for name, dtype in DTYPES.items()}
    tuned = {name: (tensor + torch.randn(30, 11)).to(tensor.dtype) for name, tensor in base.items()}
    write_model(tmp_path / "base", base)
    write_model(tmp_path / "tuned", tuned)
    asked = []
    monkeypatch.setattr(gpu, "mark", lambda *given: asked.append(1) or mark(*given))
    monkeypatch.setattr(diff_module, "pick_device", lambda device: device)
    monkeypatch.setattr(diff_module, "find_gpu", lambda memory: (torch.device(DEVICE), 2**20))
    with open_checkpoint(tmp_path / "base") as b, open_checkpoint(tmp_path / "tuned") as t:
        for device in ("cpu", "cuda"):
            diff(b, t, tmp_path / device, MaskParams("0.6", "0.01"), device=device, threads=1)
    assert len(asked) == len(DTYPES)
    assert (tmp_path / "cpu").read_bytes() == (tmp_path / "cuda").read_bytes()


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
FEW = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 2.0**-149, -(2.0**-130), 2.0**127, 0.125])


@given(st.lists(FEW | FLOATS, min_size=1, max_size=150), st.integers(0, 150), st.integers(0, 150))
@settings(max_examples=25, deadline=None)
def test_the_gpu_marks_what_sorting_gives(delta, n_bottom, n_top):
    n_bottom = min(n_bottom, len(delta) - 1)
    n_top = min(n_top, len(delta) - 1 - n_bottom)
    share = [f"{count / len(delta):.17f}" for count in (n_bottom, n_top)]
    numbers = [dropped(text, len(delta)) for text in share]
    expected = slow_mask(delta, None, *share)
    mask, values = gpu.mark(torch.tensor(delta, device=DEVICE), len(delta) - numbers[0], numbers[1], block=BLOCK)
    found = np.unpackbits(mask.cpu().numpy(), bitorder="little")
    assert found[: len(delta)].astype(bool).tolist() == expected
    assert not found[len(delta) :].any()
    assert values.cpu().tolist() == [value for value, stays in zip(delta, expected, strict=True) if stays]


def test_ties_across_many_blocks_are_told_apart_by_index():
    torch.manual_seed(1)
    delta = (torch.randn(5000) * 2).round() / 2
    mask, values = gpu.mark(delta.to(DEVICE), 5000 - 4250, 35, block=BLOCK)
    expected = slow_mask(delta.tolist(), None, "0.85", "0.007")
    assert np.unpackbits(mask.cpu().numpy(), bitorder="little")[:5000].astype(bool).tolist() == expected
    assert values.cpu().tolist() == delta[torch.tensor(expected)].tolist()


@pytest.mark.parametrize("other", [torch.float64, torch.float32, torch.bfloat16])
def test_the_direction_is_subtracted_in_float64_when_either_side_is(other):
    fine, coarse = torch.tensor([1 + 2.0**-40], dtype=torch.float64), torch.tensor([1.0], dtype=other)
    assert gpu.subtract(coarse.to(DEVICE), fine.to(DEVICE)).tolist() == [2.0**-40]
    assert gpu.subtract(fine.to(DEVICE), coarse.to(DEVICE)).tolist() == [-(2.0**-40)]
