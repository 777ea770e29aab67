"""Finding what changed by the CUDA kernels, on lanes that the CPU stands in for, to the CPU's bits."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.breadcrumbs.diffing import changes, gpu_masks
from registry.breadcrumbs.diffing import diff as diff_module
from registry.breadcrumbs.diffing.diff import diff
from registry.breadcrumbs.diffing.mask import dropped
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.layout import MaskParams
from registry.breadcrumbs.kernels import select as cpu
from registry.breadcrumbs.kernels.constants import HIGH_BINS, LOW_BINS
from registry.breadcrumbs.kernels.cuda import launching, select
from tests.support.host_lanes import DEVICE
from tests.support.science_makers import raw, slow_mask, write_model

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
GUARD = 64
ASKED = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def marks(delta: torch.Tensor, n_bottom: int, n_top: int) -> list[bool]:
    """Mark float32 delta; see that padding is zero and values are those of the mask, to the bit; return the mask."""
    size, found = delta.numel(), torch.empty(delta.numel(), dtype=torch.float32, device=DEVICE)
    octets = (part.to(DEVICE).view(torch.uint8) for part in (torch.zeros(size), delta))
    high = select.totals([select.subtract(*octets, ("F32", "F32"), found)])
    assert torch.equal(found.cpu(), delta)
    mask, values = (part.cpu() for part in select.mark(found, high, size - n_bottom, n_top))
    bits = np.unpackbits(mask.numpy(), bitorder="little").astype(bool)
    assert len(bits) == -(-size // 8) * 8
    assert not bits[size:].any()
    assert raw(values) == raw(delta[torch.from_numpy(bits[:size])])
    return bits[:size].tolist()


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
FEW = st.sampled_from([0.0, 1.0, -1.0, 2.0, 2.0**-149, -(2.0**-130), 2.0**127, 0.125])


@ASKED
@given(st.lists(FEW | FLOATS, min_size=1, max_size=150), st.integers(0, 150), st.integers(0, 150))
def test_lanes_mark_what_sorting_gives(lanes, delta, n_bottom, n_top):
    n_bottom = min(n_bottom, len(delta) - 1)
    n_top = min(n_top, len(delta) - 1 - n_bottom)
    share = [f"{count / len(delta):.17f}" for count in (n_bottom, n_top)]
    numbers = [dropped(text, len(delta)) for text in share]
    assert marks(torch.tensor(delta) + 0.0, *numbers) == slow_mask(delta, None, *share)


@pytest.mark.parametrize(
    ("drop_bottom", "drop_top"),
    [("0.85", "0.007"), ("0.85", "0"), ("0", "0.007"), ("0", "0"), ("0.5", "0.5"), ("0.3", "0.69"), ("0", "0.9999")],
)
def test_ties_across_many_warps_are_told_apart_by_index(lanes, drop_bottom, drop_top):
    delta = (torch.randn(9001, generator=torch.Generator().manual_seed(1)) * 2).round() / 2 + 0.0
    for tied in (delta, delta.sign(), torch.zeros(9001)):
        numbers = [dropped(share, 9001) for share in (drop_bottom, drop_top)]
        assert marks(tied, *numbers) == slow_mask(tied.tolist(), None, drop_bottom, drop_top)


def test_both_cuts_may_fall_on_one_key_or_share_its_high_bits(lanes):
    tied = torch.full((200,), -3.0)
    assert marks(tied, 50, 70) == [70 <= place < 150 for place in range(200)]
    near = (np.float32(1).view(np.int32) + np.arange(200) * 37 % 200).astype(np.int32)
    delta = torch.from_numpy(near).view(torch.float32)
    order = delta.argsort(descending=True).tolist()[70:150]
    assert marks(delta, 50, 70) == [place in order for place in range(200)]


def test_when_all_are_dropped_nothing_is_marked(lanes):
    delta = torch.tensor([3.0, -1.0, 1.0, 0.0] * 400)
    for n_bottom, n_top in ((1600, 0), (0, 1600), (800, 800)):
        assert not any(marks(delta, n_bottom, n_top))
    assert marks(torch.zeros(0), 0, 0) == []
    assert marks(torch.tensor([-5.0]), 0, 0) == [True]


@ASKED
@given(st.integers(0, 2**32 - 1), st.integers(1, 5000), st.integers(0, 5000), st.integers(0, 5000))
def test_cuts_are_those_of_the_cpu(lanes, seed, size, n_first, n_top):
    random = np.random.default_rng(seed)
    keys = random.integers(0, 0x7F800000, size) >> int(random.integers(0, 31)) << int(random.integers(0, 20))
    delta = (keys % 0x7F800000).astype(np.int32).view(np.float32)
    keys = delta.view(np.uint32)

    def count_low(bins):
        return np.stack([np.bincount(keys[keys >> 15 == one] & 0x7FFF, minlength=LOW_BINS) for one in bins])

    high = np.bincount(keys[keys != 0] >> 15, minlength=HIGH_BINS)
    parts = np.bincount(keys[keys != 0] >> 20, minlength=select.HIGH_BINS)
    expected = cpu.find_cuts(high, count_low, n_first, n_top)
    assert select.cut(torch.from_numpy(delta).to(DEVICE), parts, n_first, n_top) == expected


@pytest.mark.parametrize("tuned_dtype", list(DTYPES))
@pytest.mark.parametrize("base_dtype", list(DTYPES))
def test_the_direction_is_that_of_torch_to_the_bit(lanes, base_dtype, tuned_dtype):
    random = np.random.default_rng(3)
    base, tuned = (
        torch.from_numpy(random.integers(0, 256, 5000 * DTYPES[dtype].itemsize).astype(np.uint8)).view(DTYPES[dtype])
        for dtype in (base_dtype, tuned_dtype)
    )
    if tuned_dtype == "F64":
        expected = (tuned - base.double()).float()
    else:
        expected = tuned.float() - base.float().to(tuned.dtype).float()
    there = torch.empty(5000, dtype=torch.float32, device=DEVICE)
    octets = (part.to(DEVICE).view(torch.uint8) for part in (base, tuned))
    high, found = select.totals([select.subtract(*octets, (base_dtype, tuned_dtype), there)]), there.cpu()
    assert select.count_not_finite(high) == int((~expected.isfinite()).sum())
    assert int(high.sum()) == int((expected != 0).sum())  # NaN is not 0
    whole = ~expected.isnan()
    assert torch.equal(found.isnan(), expected.isnan())
    assert raw(found[whole]) == raw(expected[whole])


def test_marking_writes_nothing_beyond_what_it_returns(lanes, monkeypatch):
    made, empty = [], torch.empty

    def guarded(*shape, **options):
        whole = empty(math.prod(shape) + 2 * GUARD, **options).fill_(77)
        made.append(whole)
        return whole[GUARD:-GUARD].reshape(shape)

    delta = torch.randn(2003, generator=torch.Generator().manual_seed(4))
    high = np.bincount(delta.view(torch.int32).numpy().view(np.uint32) << 1 >> 21, minlength=2048)
    there = delta.to(DEVICE)
    monkeypatch.setattr(torch, "empty", guarded)
    select.mark(there, high, 300, 7)
    monkeypatch.undo()
    assert len(made) == 3
    for whole in made:
        assert set(whole[:GUARD].tolist() + whole[-GUARD:].tolist()) == {77}


def test_masks_found_by_lanes_make_the_cpus_patch(lanes, tmp_path, monkeypatch):
    for name, value in (("READ_ELEMENTS", 64), ("SEGMENT_ELEMENTS", 128), ("RUN_ELEMENTS", 8)):
        monkeypatch.setattr(changes, name, value)
    torch.manual_seed(5)
    base = {name: torch.randn(30, 11, dtype=torch.float64).to(dtype) for name, dtype in DTYPES.items()}
    tuned = {name: (tensor + torch.randn(30, 11)).to(tensor.dtype) for name, tensor in base.items()}
    write_model(tmp_path / "base", base)
    write_model(tmp_path / "tuned", tuned)
    monkeypatch.setattr(launching, "can_launch", lambda device: True)
    monkeypatch.setattr(diff_module, "pick_device", lambda device: device)
    monkeypatch.setattr(gpu_masks, "find_gpu", lambda memory: (DEVICE, 2**20))
    with open_checkpoint(tmp_path / "base") as b, open_checkpoint(tmp_path / "tuned") as t:
        for device in ("cpu", "cuda"):
            diff(b, t, tmp_path / device, MaskParams("0.6", "0.01"), device=device, threads=1)
    assert lanes.launched["mark"] == len(DTYPES)
    assert (tmp_path / "cpu").read_bytes() == (tmp_path / "cuda").read_bytes()
