"""Hints: when each is given, and that its remedy ends it."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from registry.breadcrumbs.comparing import hints
from registry.breadcrumbs.comparing.hints import HintPart, hints_of_patch, hints_of_recipe

ANY = st.floats(0, 1e40, allow_nan=False)


def part(name, weight="1", norm=1.0, rounding=0.0):
    return HintPart(name, weight, norm, rounding)


def recipe(*parts, dots=None, alpha="1", auto="1"):
    return hints_of_recipe("alice/tiny", parts, dots or {}, alpha, auto)


def typed(sentence):
    """Return the weights that a sentence says to type, by patch."""
    return dict(re.findall(r"\b([0-9]+(?:\.[0-9]+)?):(-?[0-9.]*[0-9])", sentence))


def test_a_patch_of_more_than_twice_the_median_is_to_weigh_less():
    assert hints_of_patch("12", 2.0, [1.0, 0.5, 3.0], None) == []
    (hint,) = hints_of_patch("12", 2.63, [1.0, 0.5, 3.0], None)
    assert hint.kind == "norm"
    assert "The norm of #12 is 2.6 times the median of the other accepted patches" in hint.sentence
    assert typed(hint.sentence) == {"12": "0.38"}
    assert hints_of_patch("12", 2.63, [], None) == hints_of_patch("12", 2.63, [0.0], None) == []


def test_a_recipe_goes_by_norm_times_weight_and_the_remedy_ends_the_hint():
    assert recipe(part("1"), part("2"), part("3", "-2")) == []
    parts = [part("1"), part("2", norm=2.0), part("3.2", "-2", norm=3.5)]
    (hint,) = recipe(*parts)
    assert "#3.2 does 4.7 times as much as the median of the other patches" in hint.sentence
    (weight,) = typed(hint.sentence).values()
    assert weight == "-0.429"
    assert recipe(*parts[:2], parts[2]._replace(weight=weight)) == []
    assert recipe(part("3", norm=9.0)) == recipe(part("1", "0", norm=9.0), part("3")) == []
    assert [hint.kind for hint in recipe(part("1"), part("2", norm=2.1))] == ["norm"]


def test_at_most_three_of_a_kind_are_told_the_worst_first():
    small = [part(str(number)) for number in range(1, 10)]
    large = [part(str(number), norm=float(number), rounding=number / 20) for number in range(11, 16)]
    found = recipe(*small, *large)
    assert [next(iter(typed(hint.sentence))) for hint in found if hint.kind == "norm"] == ["15", "14", "13"]
    assert [hint.sentence[:16] for hint in found if hint.kind == "rounding"] == [
        "75% of what #15 ", "70% of what #14 ", "65% of what #13 ",
    ]  # fmt: skip


def test_patches_that_undo_each_other_are_named_with_the_command_that_shows_where():
    parts = [part("3"), part("7", norm=2.0)]
    assert recipe(*parts, dots={(0, 1): -0.58}) == []
    (hint,) = recipe(*parts, dots={(0, 1): -0.62})
    assert hint.kind == "cancelling"
    assert "#3 and #7 undo each other (cosine -0.31)" in hint.sentence
    assert "`crumb conflicts alice/tiny 3 7`" in hint.sentence
    assert recipe(parts[0], part("7", "-1", norm=2.0), dots={(0, 1): -0.62}) == [], "one is taken away"
    (hint,) = recipe(parts[0], part("7", "-1", norm=2.0), dots={(0, 1): 0.62})
    assert "cosine -0.31" in hint.sentence
    assert recipe(parts[0], part("7", "0", norm=2.0), dots={(0, 1): -0.62}) == []


def test_many_patches_that_undo_each_other_a_little_are_told_of_as_a_whole():
    parts = [part(str(number)) for number in range(5)]
    dots = {(i, j): -0.2 for i in range(5) for j in range(i + 1, 5)}
    (hint,) = recipe(*parts, dots=dots)
    assert "45% is left" in hint.sentence and "`crumb conflicts alice/tiny 0 1 2 3 4`" in hint.sentence
    del dots[0, 1]
    assert recipe(*parts, dots=dots) == [], "not while a pair is unknown"


@pytest.mark.parametrize(
    ("alpha", "auto", "told"),
    [
        ("0.3", "0.97", "Alpha 0.3 is 0.31 times the 0.97 that auto gives"),
        ("2.1", "1", "Alpha 2.1 is 2.1 times the 1 that auto gives"),
        ("2", "1", None), ("0.5", "1", None), ("0.3", None, None), (None, "1", None), ("-1", "9", None),
        ("0", "1", None), ("1", "0", None),
    ],
)  # fmt: skip
def test_an_alpha_far_from_auto_is_told_of(alpha, auto, told):
    found = recipe(part("1"), alpha=alpha, auto=auto)
    assert [hint.kind for hint in found] == (["alpha"] if told else [])
    assert told is None or (told in found[0].sentence and "use alpha auto" in found[0].sentence)


def test_a_patch_of_which_more_than_half_is_rounding_is_told_of():
    for found in (hints_of_patch("5", 1.0, [], 0.61), recipe(part("5", rounding=0.61))):
        (hint,) = found
        assert hint.kind == "rounding"
        assert "61% of what #5 changes is a single step of rounding" in hint.sentence
        assert "`crumb diff`" in hint.sentence
    assert hints_of_patch("5", 1.0, [], 0.5) == hints_of_patch("5", 1.0, [], None) == []
    assert recipe(part("5", "0", rounding=0.61), part("6")) == []


@example([(6.5e25, "1"), (6.5e-194, "1")], 0.0)
@given(st.lists(st.tuples(ANY, st.sampled_from(["1", "0", "-0.5", "9" * 20, "0." + 19 * "0" + "1"])), max_size=6), ANY)
def test_no_numbers_are_too_odd_for_a_hint(given, other):
    parts = [part(str(number), weight, norm) for number, (norm, weight) in enumerate(given)]
    dots = {(i, j): -parts[i].norm * parts[j].norm for i in range(len(parts)) for j in range(i + 1, len(parts))}
    for hint in [*recipe(*parts, dots=dots, alpha="9", auto="1"), *hints_of_patch("1", other, [1e-30], 1.0)]:
        assert isinstance(hint, hints.Hint) and len(hint.sentence) < 400
