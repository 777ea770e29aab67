"""Alpha from the patches alone."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from registry.breadcrumbs.comparing.alpha import SPARSEST, USUAL, AlphaPart, choose_alpha, kept_share, rule_of
from registry.errors import InvalidRecipe

WEIGHTS = st.sampled_from(["1", "0.5", "2", "-1", "0"])
VALUES = st.lists(st.floats(-4, 4, width=16), min_size=6, max_size=6)


METHODS = st.sampled_from(["sum", "ties", "mean"])
BASE = 50.0


def chosen(
    patches: list[list[float]],
    weights: list[str],
    method: str = "sum",
    bases: list[float | None] | None = None,
    kept: list[float] | None = None,
) -> str:
    values = np.array(patches, np.float64)
    count = len(patches)
    dots = {(i, j): float(values[i] @ values[j]) for i in range(count) for j in range(i + 1, count)}
    squares = [float(row @ row) for row in values]
    parts = map(AlphaPart, weights, kept or [kept_share()] * count, squares, bases or [BASE] * count)
    return choose_alpha(method, list(parts), dots)


@given(st.lists(st.tuples(VALUES, WEIGHTS), min_size=2, max_size=5), METHODS)
def test_alpha_is_by_the_rule(given, method):
    patches, weights = [patch for patch, _ in given], [weight for _, weight in given]
    by, values = np.array([float(weight) for weight in weights]), np.array(patches)
    assume(np.count_nonzero(by) > 1)
    if method != "sum":
        by = (by != 0).astype(float)
    mean = (np.abs(by) * np.linalg.norm(values, axis=1)).sum() / np.abs(by).sum()
    whole = np.linalg.norm(by @ values)
    assume(whole > 0.01 * mean * np.abs(by).mean() > 0)
    sizes = np.minimum(BASE, np.linalg.norm(values, axis=1) / 0.002)
    base = (np.abs(by) * sizes).sum() / np.abs(by).sum()
    due = math.sqrt(base / (np.abs(by).sum() * whole)) if method == "sum" else math.sqrt(base * mean) / whole
    assume(whole > 0.01 * mean)
    assert float(chosen(patches, weights, method)) == pytest.approx(0.3 * due, rel=0.01)


@pytest.mark.parametrize(("method", "apart"), [("sum", 0.75), ("ties", 0.5), ("mean", 0.5)])
def test_it_falls_with_the_number_of_patches(method, apart):
    def at(patches: list[list[float]]) -> float:
        return float(chosen(patches, ["1"] * len(patches), method))

    assert at([[1.0, 2.0]] * 8) == pytest.approx(at([[1.0, 2.0]] * 2) / 4, rel=0.01)
    assert at(np.eye(8).tolist()) == pytest.approx(at(np.eye(8)[:2].tolist()) * 4**-apart, rel=0.01)


@pytest.mark.parametrize("method", ["sum", "ties", "mean"])
def test_larger_changes_have_a_smaller_alpha(method):
    small, large = [[1.0, 2.0], [2.0, -1.0]], [[9.0, 18.0], [18.0, -9.0]]
    one, two = (float(chosen(patches, ["1", "1"], method)) for patches in (small, large))
    assert one == pytest.approx(3 * two, rel=0.01)


def test_changes_smaller_than_were_tried_have_no_larger_alpha():
    patches, weights = [[3.0, 4.0], [4.0, -3.0]], ["1", "1"]
    assert chosen(patches, weights, bases=[1e9, 1e7]) == chosen(patches, weights, bases=[2500.0, 2500.0])


def test_a_base_that_was_not_measured_is_of_the_usual_size():
    patches, weights = [[3.0, 4.0], [4.0, -3.0]], ["1", "1"]
    assert chosen(patches, weights, bases=[None, None]) == chosen(patches, weights, bases=[5 / USUAL, None])


def test_weights_say_proportions_only():
    patches = [[1.0, 2.0, 0.0], [0.5, -1.0, 3.0]]
    one, two = (float(chosen(patches, weights)) for weights in (["1", "0.5"], ["2", "1"]))
    assert one == pytest.approx(2 * two, rel=0.01)
    assert (
        chosen(patches, ["1", "0.5"], "ties")
        == chosen(patches, ["2", "1"], "ties")
        == chosen(patches, ["1", "1"], "ties")
    )


@pytest.mark.parametrize("method", ["sum", "ties", "mean"])
def test_what_a_mask_leaves_out_is_made_up_for(method):
    patches, weights = [[3.0, 4.0], [4.0, -3.0]], ["1", "1"]

    def at(*kept: float) -> float:
        return float(chosen(patches, weights, method, kept=list(kept)))

    due = at(kept_share(), kept_share())
    assert due == float(chosen(patches, weights, method)), "the default cuts have the constant itself"
    whole, sparse = kept_share("0", "0"), kept_share("0.95")
    assert at(whole, whole) == pytest.approx(due * 0.143**0.4, rel=0.01)
    assert at(sparse, sparse) == pytest.approx(due * (0.143 / 0.043) ** 0.4, rel=0.01)
    assert at(whole, sparse) == pytest.approx((at(whole, whole) + at(sparse, sparse)) / 2, rel=0.01)
    assert at(1e-9, 1e-9) == at(SPARSEST, SPARSEST)


def test_the_rule_names_the_constant_of_the_patches_masks():
    def named(method: str, *parts: tuple[str, float]) -> str:
        return rule_of(method, [AlphaPart(weight, kept, 1.0, BASE) for weight, kept in parts]).split(" x ")[0]

    assert named("sum", ("1", kept_share()), ("1", kept_share())) == "0.3"
    assert named("sum", ("1", kept_share()), ("-3", 1.0)) == "0.178"
    assert named("ties", ("1", kept_share()), ("3", 1.0)) == "0.219"


def test_a_patch_by_itself_has_alpha_1():
    assert chosen([[3.0, 4.0]], ["1"]) == "1"
    assert chosen([[3.0, 4.0], [1.0, 1.0]], ["0", "2"]) == "1"
    assert choose_alpha("sum", [], {}) == "1"


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
