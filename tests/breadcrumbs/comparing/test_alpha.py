"""Alpha from the patches alone."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from registry.breadcrumbs.comparing.alpha import FACTORS, choose_alpha
from registry.errors import InvalidRecipe

WEIGHTS = st.sampled_from(["1", "0.5", "2", "-1", "0"])
VALUES = st.lists(st.floats(-4, 4, width=16), min_size=6, max_size=6)


def chosen(patches: list[list[float]], weights: list[str], method: str = "sum") -> str:
    values = np.array(patches, np.float64)
    count = len(patches)
    dots = {(i, j): float(values[i] @ values[j]) for i in range(count) for j in range(i + 1, count)}
    return choose_alpha(method, weights, [float(row @ row) for row in values], dots)


@given(st.lists(st.tuples(VALUES, WEIGHTS), min_size=2, max_size=5), st.sampled_from(sorted(FACTORS)))
def test_the_sum_of_all_is_as_large_as_one_times_the_factor(given, method):
    patches, weights = [patch for patch, _ in given], [weight for _, weight in given]
    by, values = np.array([float(weight) for weight in weights]), np.array(patches)
    assume(np.count_nonzero(by) > 1)
    mean = (np.abs(by) * np.linalg.norm(values, axis=1)).sum() / np.abs(by).sum()
    whole = np.linalg.norm(by @ values)
    assume(whole > 0.01 * mean > 0)
    assert float(chosen(patches, weights, method)) == pytest.approx(FACTORS[method] * mean / whole, rel=0.01)


def test_equal_patches_give_one_nth_and_those_at_right_angles_one_by_the_root_of_n():
    equal, apart = [[1.0, 2.0, 0.0, 0.0]] * 4, np.eye(4).tolist()
    assert float(chosen(equal, ["1"] * 4)) == pytest.approx(FACTORS["sum"] / 4, rel=0.01)
    assert float(chosen(apart, ["1"] * 4)) == pytest.approx(FACTORS["sum"] / 2, rel=0.01)


def test_weights_say_proportions_only():
    patches = [[1.0, 2.0, 0.0], [0.5, -1.0, 3.0]]
    one, two = (float(chosen(patches, weights)) for weights in (["1", "0.5"], ["2", "1"]))
    assert one == pytest.approx(2 * two, rel=0.01)


def test_a_patch_by_itself_has_alpha_1():
    assert chosen([[3.0, 4.0]], ["1"]) == "1"
    assert chosen([[3.0, 4.0], [1.0, 1.0]], ["0", "2"]) == "1"
    assert choose_alpha("sum", [], [], {}) == "1"


def test_alpha_is_a_plain_decimal_of_three_digits():
    for size in (1e-8, 1.0, 1e8):
        alpha = chosen([[size, 0.0], [0.0, 1.0], [0.3, 0.7]], ["1", "1", "1"])
        digits = alpha.replace("0.", "").lstrip("0").replace(".", "")
        assert len(digits.rstrip("0")) <= 3 and Fraction(alpha) > 0 and math.isfinite(float(alpha))


def test_patches_that_cancel_have_none():
    with pytest.raises(InvalidRecipe, match="cancel each other"):
        chosen([[1.0, 2.0], [-1.0, -2.0]], ["1", "1"])
    with pytest.raises(InvalidRecipe, match="cancel each other"):
        chosen([[1.0, 2.0], [1.0, 2.0]], ["1", "-1"])
