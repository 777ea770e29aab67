import hashlib
import json
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.breadcrumbs.formats.globs import check_glob, matches
from registry.breadcrumbs.formats.recipe import Item, make_recipe, normalise_decimal, scale
from registry.errors import InvalidRecipe, InvalidRequest

BASE = "sha256:" + "0" * 64
A, B = "a" * 64, "b" * 64
DECIMALS = st.builds(
    lambda sign, whole, part: f"{sign}{whole}.{part}",
    st.sampled_from(["", "-"]),
    st.integers(0, 999),
    st.text("0123456789", min_size=1, max_size=20),
)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("0.30", "0.3"), ("1", "1"), ("1.0", "1"), ("-0.250", "-0.25"), ("-0", "0"), ("-0.00", "0"), ("007", "7"),
        ("00.5", "0.5"), ("10", "10"), ("100.010", "100.01"), ("9" * 20 + "." + "9" * 20, "9" * 20 + "." + "9" * 20),
    ],
)  # fmt: skip
def test_a_decimal_has_one_normal_form(text, normal):
    assert normalise_decimal(text, "alpha") == normal
    assert normalise_decimal(normal, "alpha") == normal


@pytest.mark.parametrize(
    "text",
    ["", "1e-3", ".5", "5.", "+1", " 1", "1 ", "1\n", "0x1", "NaN", "inf", "1,5", "--1", "٣", "1_0", "1" * 21, 0.5],
)
def test_other_ways_to_write_a_number_are_refused(text):
    with pytest.raises(InvalidRequest, match="alpha") as caught:
        normalise_decimal(text, "alpha")
    assert caught.value.field == "alpha"


@given(DECIMALS)
def test_normalising_keeps_the_number(text):
    assert Fraction(normalise_decimal(text, "alpha")) == Fraction(text)


@given(DECIMALS, DECIMALS)
@settings(max_examples=500)
def test_a_scale_is_the_float32_nearest_to_the_exact_product(alpha, weight):
    exact, found = Fraction(alpha) * Fraction(weight), np.float32(scale(alpha, weight))
    assert float(found) == scale(alpha, weight)
    error = abs(Fraction(float(found)) - exact)
    for neighbour in (np.nextafter(found, np.float32(np.inf)), np.nextafter(found, np.float32(-np.inf))):
        other = abs(Fraction(float(neighbour)) - exact)
        assert error <= other
        if error == other:
            assert int(found.view(np.uint32)) % 2 == 0


@pytest.mark.parametrize("up", [True, False])
def test_a_scale_is_rounded_once_and_not_through_float64(up):
    """1 + 2^-24 is halfway between two float32; a hair beside it is invisible in float64."""
    tie = Fraction(1) + Fraction(1, 2**24)
    text = "1.00000005960464477540" if up else "1.00000005960464477538"
    assert Fraction(text) > tie if up else Fraction(text) < tie
    assert float(text) == float(tie)
    twice = float(np.float32(float(text)))
    assert twice == 1.0
    assert scale(text, "1") == (1 + 2.0**-23 if up else 1.0)


def test_scales_near_the_ends_of_float32():
    assert scale("0", "5") == 0.0
    assert scale("0." + "0" * 19 + "1", "0." + "0" * 19 + "1") == float(np.float32(1e-40))
    assert scale("-0.1", "3") == -float(np.float32(0.3))
    with pytest.raises(InvalidRecipe, match="too large"):
        scale("9" * 20, "9" * 20)


def test_the_canonical_form_and_its_digest_are_fixed():
    recipe = make_recipe(BASE, "0.30", [(B, "-0.50"), (A, "1")])
    text = (
        f'{{"alpha":"0.3","base":"{BASE}","method":"sum","patches":'
        f'[{{"sha256":"{A}","weight":"1"}},{{"sha256":"{B}","weight":"-0.5"}}],"version":1}}'
    )
    assert recipe.canonical() == text.encode()
    assert recipe.digest == hashlib.sha256(text.encode()).hexdigest()
    assert recipe.digest == "cfebdc79852597c3869b88cf0b205e14b57d324fef8ee1a801210b7122ac9a2c"
    assert json.loads(text)["version"] == 1


def test_the_same_set_of_patches_is_the_same_recipe():
    one = make_recipe(BASE, "1", [(A, "1.0"), (B, "2")])
    two = make_recipe(BASE, "1.00", iter([Item(B, "02"), Item(A)]))
    assert one == two
    assert one.digest != make_recipe(BASE, "1", [(A, "1")]).digest
    assert make_recipe(BASE, "1", []).items == ()


@pytest.mark.parametrize(
    ("base", "items", "rule"),
    [
        (BASE, [(A, "1"), (A, "2")], "twice"),
        (BASE, [("A" * 64, "1")], "lowercase hex"),
        ("0" * 64, [], "weights digest"),
        (BASE + "\n", [], "weights digest"),
        (BASE, [(A, "9" * 20), (B, "1")], "too large"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(base, items, rule):
    with pytest.raises(InvalidRecipe, match=rule):
        make_recipe(base, "9" * 20, items)


def test_methods_and_weights_by_tensor_are_part_of_the_recipe():
    plain = make_recipe(BASE, "1", [(A, "1")])
    assert make_recipe(BASE, "1", [Item(A, "1", ())]) == plain
    recipe = make_recipe(BASE, "1", [Item(B, "2", (("layers.0.*", "0.50"), ("*", "0"))), (A, "1")], "ties")
    assert (
        recipe.canonical()
        == (
            f'{{"alpha":"1","base":"{BASE}","method":"ties","patches":[{{"sha256":"{A}","weight":"1"}},'
            f'{{"sha256":"{B}","weight":"2","where":[["layers.0.*","0.5"],["*","0"]]}}],"version":1}}'
        ).encode()
    )
    swapped = make_recipe(BASE, "1", [Item(B, "2", (("*", "0"), ("layers.0.*", "0.5"))), (A, "1")], "ties")
    assert swapped.digest != recipe.digest
    first, second = recipe.items
    assert [recipe.scale_in(second, name) for name in ("layers.0.w", "layers.1.w")] == [1.0, None]
    assert recipe.scale_in(first, "layers.0.w") == 1.0


def test_with_sum_alpha_is_part_of_the_scale_and_elsewhere_not():
    items = [Item(A, "0.1", (("w", "0.7"),))]
    for method, alpha in (("sum", "0.3"), ("mean", "1")):
        recipe = make_recipe(BASE, "0.3", items, method)
        assert recipe.scale_in(recipe.items[0], "w") == scale(alpha, "0.1", "0.7")
    exact = Fraction("0.3") * Fraction("0.1") * Fraction("0.7")
    assert scale("0.3", "0.1", "0.7") == float(np.float32(float(exact)))


@pytest.mark.parametrize(
    ("item", "method", "field", "rule"),
    [
        (Item(A, "1"), "slerp", "method", "'slerp' is not a method.*sum, ties, mean"),
        (Item(A, "0"), "ties", "weight", "above 0"),
        (Item(A, "-1"), "mean", "weight", "above 0"),
        (Item(A, "1", (("w", "-0.5"),)), "ties", "weight", "1 times -0.5"),
        (
            Item(A, "0." + "0" * 19 + "1", (("w", "0." + "0" * 19 + "1"), ("v", "0." + "0" * 18 + "1"))),
            "sum",
            None,
            None,
        ),
        (Item(A, "9" * 20, (("w", "9" * 20),)), "sum", "alpha", "too large"),
        (Item(A, "1", (("w", "1e3"),)), "sum", "where", "plain decimal"),
        (Item(A, "1", (("", "1"),)), "sum", "where", "not a glob"),
        (Item(A, "1", (("[", "1"),)), "sum", "where", "not a glob"),
        (Item(A, "1", (("[z-a]", "1"),)), "sum", "where", "not a glob"),
        (Item(A, "1", (("*" * 201, "1"),)), "sum", "where", "not a glob"),
        (Item(A, "1", (("*", "1"),) * 101), "sum", "where", "101 factors"),
    ],
)
def test_methods_and_factors_that_cannot_be_are_refused(item, method, field, rule):
    if rule is None:
        assert make_recipe(BASE, "1", [item], method)
        return
    with pytest.raises((InvalidRecipe, InvalidRequest), match=rule) as caught:
        make_recipe(BASE, "1", [item], method)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("*", ["", "a.b/c"], []),
        ("layers.?.w", ["layers.1.w"], ["layers.10.w", "Layers.1.w"]),
        ("layers.[0-2].w", ["layers.0.w", "layers.2.w"], ["layers.3.w"]),
        ("[!a]b", ["cb"], ["ab"]),
        ("x[[]0]", ["x[0]"], ["x0"]),
        ("a.b", ["a.b"], ["acb", "a.b.c"]),
    ],
)
def test_globs_match_as_a_shell_has_them(glob, yes, no):
    check_glob(glob, "where")
    assert all(matches(glob, name) for name in yes)
    assert not any(matches(glob, name) for name in no)


def test_recipes_headers_layouts_and_cards_load_no_tensor_library():
    code = (
        "import sys, registry.documents.composed_card; "
        "from registry.breadcrumbs.formats import header, layout, recipe; "
        "print({'torch', 'numpy', 'safetensors'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
