"""Finding what changed by the GPU's kernels, to the CPU's bits."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.breadcrumbs.diffing import changes
from registry.breadcrumbs.diffing import diff as diff_module
from registry.breadcrumbs.diffing.diff import diff
from registry.breadcrumbs.diffing.mask import dropped
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.layout import MaskParams
from tests.support.gpu_kernels import ALL_DTYPES, BLOCK, DEVICE, DTYPES, GUARD, gpu, gpu_masks, nearest
from tests.support.science_makers import (
    raw,
    slow_mask,
    write_model,
)

mark = gpu.mark

pytestmark = [  # the interpreter's numpy: an overflow, a signalling NaN
    pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered in (cast|add):RuntimeWarning"),
]


def marks(delta: torch.Tensor, n_bottom: int, n_top: int) -> list[bool]:
    """Mark on the GPU; see that padding is zero and values are those of the mask, to the bit; return the mask."""
    size = delta.numel()
    mask, values = gpu.mark(delta.to(DEVICE), size - n_bottom, n_top, block=BLOCK)
    found = np.unpackbits(mask.cpu().numpy(), bitorder="little").astype(bool)
    assert len(found) == -(-size // 8) * 8
    assert not found[size:].any()
    assert raw(values.cpu()) == raw(delta[torch.from_numpy(found[:size])])
    return found[:size].tolist()


def test_masks_found_by_the_gpu_make_the_cpus_patch(tmp_path, monkeypatch):
    for name, value in (("READ_ELEMENTS", 64), ("SEGMENT_ELEMENTS", 128), ("RUN_ELEMENTS", 8)):
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
    monkeypatch.setattr(gpu_masks, "find_gpu", lambda memory: (torch.device(DEVICE), 2**20))
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
    assert marks(torch.tensor(delta), *numbers) == slow_mask(delta, None, *share)


@pytest.mark.parametrize(
    ("drop_bottom", "drop_top"),
    [("0.85", "0.007"), ("0.85", "0"), ("0", "0.007"), ("0", "0"), ("0.5", "0.5"), ("0.3", "0.69"), ("0", "0.9999")],
)
def test_ties_across_many_blocks_are_told_apart_by_index(drop_bottom, drop_top):
    delta = (torch.randn(333, generator=torch.Generator().manual_seed(1)) * 2).round() / 2
    for tied in (delta, delta.sign(), delta * 0):
        numbers = [dropped(share, 333) for share in (drop_bottom, drop_top)]
        assert marks(tied, *numbers) == slow_mask(tied.tolist(), None, drop_bottom, drop_top)


def test_marking_writes_nothing_beyond_what_it_returns(monkeypatch):
    made, empty = [], torch.empty

    def guarded(*shape, **options):
        whole = empty(math.prod(shape) + 2 * GUARD, **options).fill_(77)
        made.append(whole)
        return whole[GUARD:-GUARD].reshape(shape)

    delta = torch.randn(1003, generator=torch.Generator().manual_seed(4)).to(DEVICE)
    monkeypatch.setattr(torch, "empty", guarded)
    gpu.mark(delta, 300, 7, block=BLOCK)
    monkeypatch.undo()
    assert len(made) >= 4
    for whole in made:
        assert set(whole[:GUARD].tolist() + whole[-GUARD:].tolist()) == {77}


def test_when_all_are_dropped_nothing_is_marked():
    delta = torch.tensor([3.0, -1.0, 1.0, 0.0] * 40)
    for n_bottom, n_top in ((160, 0), (0, 160), (80, 80)):
        assert not any(marks(delta, n_bottom, n_top))
    assert marks(torch.zeros(0), 0, 0) == []
    assert marks(torch.tensor([-5.0]), 0, 0) == [True]


def test_both_cuts_may_fall_on_one_key_or_share_its_high_bits():
    tied = torch.full((200,), -3.0)
    assert marks(tied, 50, 70) == [70 <= place < 150 for place in range(200)]
    near = torch.from_numpy((np.float32(1).view(np.int32) + np.arange(200) * 37 % 200).astype(np.int32)).view(
        torch.float32
    )
    order = near.argsort(descending=True).tolist()[70:150]
    assert marks(near, 50, 70) == [place in order for place in range(200)]


@ALL_DTYPES
@pytest.mark.parametrize("other", list(DTYPES.values()), ids=list(DTYPES))
def test_the_base_is_rounded_to_the_tuned_dtype_and_subtracted_as_exactly_as_that_is(dtype, other):
    generator = torch.Generator().manual_seed(2)
    drawn = torch.randn(60, generator=generator, dtype=torch.float64).tolist()
    numbers = [1 + 2.0**-40, 1.0, 2.0**-149, -0.0, 2.0**-24, *drawn]
    base, tuned = (torch.tensor(part, dtype=torch.float64) for part in (numbers, numbers[::-1]))
    base, tuned = base.to(dtype), tuned.to(other)
    exact = other == torch.float64
    rounded = [b if exact else nearest(Fraction(nearest(Fraction(b), torch.float32)), other) for b in base.tolist()]
    pairs = list(zip(rounded, tuned.tolist(), strict=True))
    expected = [t - b if exact else Fraction(t) - Fraction(b) for b, t in pairs]  # the one is float64
    expected = [nearest(difference, torch.float32) for difference in expected]
    found = gpu.subtract(base.to(DEVICE), tuned.to(DEVICE))
    assert found.dtype == torch.float32
    assert found.tolist() == expected
