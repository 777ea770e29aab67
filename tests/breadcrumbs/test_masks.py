import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from makers_breadcrumbs import slow_mask

from registry.breadcrumbs import checkpoint, mask, select
from registry.breadcrumbs.mask import breadcrumb_mask, dropped, subtract

FEW = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 2.0**-149, -(2.0**-130), 2.0**127, 0.125])
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
FRACTIONS = st.sampled_from(["0", "0.007", "0.1", "0.25", "0.29", "0.333", "0.49"])


def fast_mask(delta: list[float], row: int | None, drop_bottom: str, drop_top: str) -> list[bool]:
    keep = np.ones(len(delta), np.bool_)
    breadcrumb_mask(np.array(delta, np.float32), row, drop_bottom, drop_top, keep)
    return keep.tolist()


@given(st.lists(FEW | FLOATS, max_size=60), FRACTIONS, FRACTIONS)
@settings(max_examples=300, deadline=None)
def test_the_mask_of_a_whole_tensor_is_what_sorting_gives(delta, bottom, top):
    assert fast_mask(delta, None, bottom, top) == slow_mask(delta, None, bottom, top)


@given(st.integers(1, 12), st.integers(0, 6), FRACTIONS, FRACTIONS, st.data())
@settings(max_examples=300, deadline=None)
def test_the_mask_by_rows_is_what_sorting_each_row_gives(row, rows, bottom, top, data):
    delta = data.draw(st.lists(FEW | FLOATS, min_size=row * rows, max_size=row * rows))
    assert fast_mask(delta, row, bottom, top) == slow_mask(delta, row, bottom, top)


@given(st.lists(FEW | FLOATS, min_size=30, max_size=200), FRACTIONS, FRACTIONS, st.sampled_from([None, 1, 10]))
@settings(max_examples=200, deadline=None)
def test_where_blocks_are_cut_changes_no_mask(delta, bottom, top, row):
    """The same law with blocks of 16: ties are split across blocks, and rows are longer than a block."""
    delta = delta[: len(delta) // 10 * 10]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checkpoint.blocks, "__defaults__", (16,))
        patched.setattr(mask, "BLOCK", 16)
        assert fast_mask(delta, row, bottom, top) == slow_mask(delta, row, bottom, top)
        assert fast_mask(delta, len(delta), bottom, top) == slow_mask(delta, None, bottom, top)


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
    keep = np.empty(delta.size, np.bool_)
    breadcrumb_mask(delta, None, "0.85", "0.007", keep)
    assert np.array_equal(keep, expected)


def test_the_cut_is_the_exact_order_statistic():
    delta = np.array([5, -4, 4, 3, -4, 0], np.float32)
    cut = select.find_cuts(delta, [0, 1, 3, 6])
    assert [c.ties for c in cut] == [0, 1, 2, 1]
    assert [c.equal for c in cut] == [0, 1, 3, 1]
    assert select.keys_of(np.array([-4], np.float32))[0] == cut[2].key


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_direction_is_a_float32_difference(dtype):
    tuned, base = torch.tensor([1.0, 3.0], dtype=dtype), torch.tensor([0.1, -2.5], dtype=dtype)
    expected = np.float32(tuned.float().numpy()) - np.float32(base.float().numpy())
    assert subtract(tuned, base).tolist() == expected.tolist()


@pytest.mark.parametrize("other", [torch.float64, torch.float32])
def test_float64_on_either_side_is_subtracted_before_it_is_rounded(other):
    tuned, base = torch.tensor([1 + 2.0**-40], dtype=torch.float64), torch.tensor([1.0], dtype=other)
    assert subtract(tuned, base).tolist() == [2.0**-40]
    assert subtract(base, tuned).tolist() == [-(2.0**-40)]
    assert subtract(tuned, base).dtype == torch.float32
