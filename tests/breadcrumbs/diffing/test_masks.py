import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.breadcrumbs.diffing import changes
from registry.breadcrumbs.diffing.mask import dropped, groups_of
from registry.breadcrumbs.formats.header import TensorSpec
from registry.breadcrumbs.formats.layout import MaskParams
from tests.support.science_makers import CODES, raw, slow_mask

FEW = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 2.0**-149, -(2.0**-130), 2.0**127, 0.125])
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
FRACTIONS = st.sampled_from(["0", "0.007", "0.1", "0.25", "0.29", "0.333", "0.49"])


class InMemory:
    """Two tensors that are compared; the base is 0 unless it is given, so that the tuned one is the direction."""

    def __init__(self, tuned: torch.Tensor, base: torch.Tensor | None = None) -> None:
        self.base, self.tuned = torch.zeros_like(tuned) if base is None else base, tuned
        self.numel, self.dtypes = tuned.numel(), (CODES[self.base.dtype], CODES[tuned.dtype])

    def read(self, start: int, base: memoryview, tuned: memoryview) -> None:
        for view, tensor in ((base, self.base), (tuned, self.tuned)):
            view[:] = raw(tensor[start : start + len(view) // tensor.element_size()])


def masked(pair: InMemory, row: int | None, drop_bottom: str, drop_top: str) -> tuple[list[bool], list[float]]:
    """Return which elements stay, and the values of those."""
    if not pair.numel:
        return [], []
    spec = TensorSpec("F32", (pair.numel // (row or pair.numel), row or pair.numel))
    params = MaskParams(drop_bottom, drop_top, "row" if row else "tensor", "F32")
    mask, values, seen = bytearray(), bytearray(), bytearray()
    with tempfile.TemporaryDirectory() as folder, changes.Workspace(Path(folder)) as workspace:
        found = workspace.find(pair, groups_of(spec, params), seen.extend)
        if found.nnz:
            assert workspace.write(found, 0, "F32", mask.extend, values.extend) == 0
    assert bytes(seen) == raw(pair.base)
    assert found.total <= int((pair.tuned.double() != pair.base.double()).sum())
    assert found.nnz <= groups_of(spec, params).most
    bits = np.unpackbits(np.frombuffer(mask or bytes(-(-pair.numel // 8)), np.uint8), bitorder="little")
    assert not bits[pair.numel :].any()
    return bits[: pair.numel].astype(bool).tolist(), np.frombuffer(values, np.float32).tolist()


def fast_mask(delta: list[float], row: int | None, drop_bottom: str, drop_top: str) -> list[bool]:
    keep, values = masked(InMemory(torch.tensor(delta, dtype=torch.float32)), row, drop_bottom, drop_top)
    assert values == [value for value, stays in zip(delta, keep, strict=True) if stays]
    return keep


@given(st.lists(FEW | FLOATS, max_size=60), FRACTIONS, FRACTIONS)
@settings(max_examples=300, deadline=None)
def test_the_mask_of_a_whole_tensor_is_what_sorting_gives(delta, bottom, top):
    assert fast_mask(delta, None, bottom, top) == slow_mask(delta, None, bottom, top)


@given(st.integers(1, 12), st.integers(0, 6), FRACTIONS, FRACTIONS, st.data())
@settings(max_examples=300, deadline=None)
def test_the_mask_by_rows_is_what_sorting_each_row_gives(row, rows, bottom, top, data):
    delta = data.draw(st.lists(FEW | FLOATS, min_size=row * rows, max_size=row * rows))
    assert fast_mask(delta, row, bottom, top) == slow_mask(delta, row, bottom, top)


@given(st.lists(FEW | FLOATS, min_size=30, max_size=400), FRACTIONS, FRACTIONS, st.sampled_from([None, 1, 10]))
@settings(max_examples=200, deadline=None)
def test_where_blocks_and_segments_are_cut_changes_no_mask(delta, bottom, top, row):
    """The same law with tiny blocks: ties are split across them, floors are guessed, and files hold candidates."""
    delta = delta[: len(delta) // 10 * 10]
    with pytest.MonkeyPatch.context() as patched:
        for name, value in (("READ_ELEMENTS", 64), ("SEGMENT_ELEMENTS", 128), ("SAMPLE_RUNS", 2), ("RUN_ELEMENTS", 8)):
            patched.setattr(changes, name, value)
        assert fast_mask(delta, row, bottom, top) == slow_mask(delta, row, bottom, top)
        assert fast_mask(delta, len(delta), bottom, top) == slow_mask(delta, None, bottom, top)


@pytest.mark.parametrize("floor", [1, 2**30, 2**31 - 1])
def test_a_floor_that_was_guessed_wrong_changes_no_mask(monkeypatch, floor):
    torch.manual_seed(2)
    delta = torch.randn(1000).tolist()
    for name, value in (("READ_ELEMENTS", 64), ("SEGMENT_ELEMENTS", 128)):
        monkeypatch.setattr(changes, name, value)
    monkeypatch.setattr(changes.Workspace, "_guess_floor", lambda self, pair, wanted: floor)
    assert fast_mask(delta, None, "0.85", "0.007") == slow_mask(delta, None, "0.85", "0.007")


def test_one_workspace_serves_one_tensor_after_another(tmp_path, monkeypatch):
    for name, value in (("READ_ELEMENTS", 64), ("SEGMENT_ELEMENTS", 128), ("RUN_ELEMENTS", 8)):
        monkeypatch.setattr(changes, name, value)
    torch.manual_seed(4)
    with changes.Workspace(tmp_path) as workspace:
        for size, row in ((1000, None), (10, None), (300, None), (640, 80), (700, None), (2000, 1000)):
            delta = torch.randn(size)
            spec = TensorSpec("F32", (size // (row or size), row or size))
            params = MaskParams("0.6", "0.01", "row" if row else "tensor", "F32")
            mask = bytearray()
            found = workspace.find(InMemory(delta), groups_of(spec, params))
            workspace.write(found, 0, "F32", mask.extend, lambda view: None)
            bits = np.unpackbits(np.frombuffer(mask, np.uint8), count=size, bitorder="little").astype(bool).tolist()
            assert bits == slow_mask(delta.tolist(), row, "0.6", "0.01")


def test_among_equals_the_lower_index_counts_as_larger():
    assert fast_mask([1.0] * 10, None, "0.3", "0.2") == [False] * 2 + [True] * 5 + [False] * 3
    assert fast_mask([1.0, -1.0] * 5, 5, "0.2", "0.2") == [False, True, True, True, False] * 2


@pytest.mark.parametrize("row", [None, 1])
def test_a_single_element_is_kept(row):
    assert fast_mask([0.5], row, "0.85", "0.007") == [True]
    assert fast_mask([0.5], row, "0.99", "0") == [True]


def test_zeros_and_empty_tensors_have_no_mask():
    assert fast_mask([0.0, -0.0, 0.0], None, "0", "0") == [False] * 3
    assert fast_mask([], None, "0.85", "0.007") == []


def test_fractions_are_multiplied_exactly():
    assert math.floor(0.29 * 100) == 28  # what binary floats would say
    assert dropped("0.29", 100) == 29
    assert dropped("0.007", 1000) == 7
    assert dropped("0.1", 10**17 + 10) == 10**16 + 1


def test_the_mask_agrees_with_the_authors_code_by_rows():
    """Their code: per row, the k largest |.| are set to 0, then all but the largest of what is left."""
    torch.manual_seed(0)
    delta = torch.randn(7, 50)
    top, keep = 0.02, 0.14
    ours = torch.tensor(fast_mask(delta.reshape(-1).tolist(), 50, "0.84", "0.02")).reshape(7, 50)
    n_top, n_keep = int(50 * top), int(50 * keep + 0.5)
    for number in range(7):
        order = delta[number].abs().argsort(descending=True)
        assert set(ours[number].nonzero().reshape(-1).tolist()) == set(order[n_top : n_top + n_keep].tolist())


def test_a_large_tensor_with_many_ties_is_masked_like_a_stable_sort():
    torch.manual_seed(1)
    delta = (torch.randn(300_007) * 16).round().numpy() / 16
    order = np.argsort(-np.abs(delta), kind="stable")
    expected = np.zeros(delta.size, np.bool_)
    expected[order[dropped("0.007", delta.size) : delta.size - dropped("0.85", delta.size)]] = True
    expected &= delta != 0
    keep, values = masked(InMemory(torch.from_numpy(delta)), None, "0.85", "0.007")
    assert np.array_equal(keep, expected)
    assert np.array_equal(values, delta[expected])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_direction_is_a_float32_difference(dtype):
    tuned, base = torch.tensor([1.0, 3.0, -7.0], dtype=dtype), torch.tensor([0.1, -2.5, -7.0], dtype=dtype)
    expected = np.float32(tuned.float().numpy()) - np.float32(base.float().numpy())
    assert masked(InMemory(tuned, base), None, "0", "0") == ([True, True, False], expected[:2].tolist())


@pytest.mark.parametrize("other", [torch.float64, torch.float32, torch.bfloat16])
def test_a_float64_tuned_tensor_is_subtracted_before_it_is_rounded(other):
    fine, coarse = torch.tensor([1 + 2.0**-40], dtype=torch.float64), torch.tensor([1.0], dtype=other)
    assert masked(InMemory(fine, coarse), None, "0", "0") == ([True], [2.0**-40])
    keep = other == torch.float64
    assert masked(InMemory(coarse, fine), None, "0", "0") == ([keep], [-(2.0**-40)] if keep else [])


PRECISE = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("row", [None, 50])
@pytest.mark.parametrize("before", PRECISE)
@pytest.mark.parametrize("after", PRECISE)
def test_rounding_to_the_tuned_dtype_is_no_change(before, after, row):
    random = torch.Generator().manual_seed(0)
    base = torch.randn(5000, generator=random, dtype=torch.float64).mul(0.02)
    base[:4] = torch.tensor([0.0, -0.0, 2.0**-140, 6.1e-5])
    base = base.to(before)
    untrained = (base if after == torch.float64 else base.float()).to(after)  # by way of float32
    assert masked(InMemory(untrained, base), row, "0", "0") == ([False] * 5000, [])
    tuned = torch.where(torch.arange(5000) % 50 == 0, untrained.double() + 0.5, untrained.double()).to(after)
    expected = (tuned.double() - untrained.double()).float()
    keep, values = masked(InMemory(tuned, base), row, "0", "0")
    assert keep == (expected != 0).tolist()
    assert values == expected[expected != 0].tolist()


@pytest.mark.parametrize("after", PRECISE)
@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0x7FC00000, -1, 0x7F800001, 0x7F800000])
def test_no_rounding_hides_what_is_not_finite_in_the_base(tmp_path, bits, after):
    base = torch.tensor([bits, 0], dtype=torch.int32).view(torch.float32)
    with changes.Workspace(tmp_path) as workspace:
        pair = InMemory(torch.zeros(2, dtype=after), base)
        assert workspace.find(pair, groups_of(TensorSpec("F32", (2,)), MaskParams("0", "0"))).not_finite == 1
