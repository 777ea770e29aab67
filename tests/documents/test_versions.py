import functools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.breadcrumbs.formats.recipe import make_recipe, normalise_decimal
from registry.documents.versions import (
    MOST_KEY_CHARACTERS,
    Version,
    check_version,
    effective_scale,
    parse_version,
    required_bump,
)
from registry.errors import InvalidRequest

BASE, OTHER = "sha256:" + "0" * 64, "sha256:" + "1" * 64
A, B = "a" * 64, "b" * 64

SMALL = st.integers(0, 12) | st.sampled_from([99, 100, 999_999_999])
WORDS = SMALL.map(str) | st.from_regex(r"[0-9A-Za-z-]{0,4}[A-Za-z-][0-9A-Za-z-]{0,4}", fullmatch=True)
VERSIONS = st.builds(Version, SMALL, SMALL, SMALL, st.lists(WORDS, max_size=4).map(tuple))
DECIMALS = st.from_regex(r"-?[0-9]{1,4}(\.[0-9]{1,6})?", fullmatch=True)


def recipe(*items, alpha="1", base=BASE):
    return make_recipe(base, alpha, items)


def precedence(a: Version, b: Version) -> int:
    """Compare as item 11 of semver.org defines it."""

    def sign(x, y):
        return (x > y) - (x < y)

    if a.core != b.core:
        return sign(a.core, b.core)
    if not a.pre or not b.pre:
        return sign(not a.pre, not b.pre)
    for x, y in zip(a.pre, b.pre, strict=False):
        if x != y:
            if x.isdigit() and y.isdigit():
                return sign(int(x), int(y))
            return sign(not x.isdigit(), not y.isdigit()) or sign(x.encode("ascii"), y.encode("ascii"))
    return sign(len(a.pre), len(b.pre))


@given(VERSIONS, VERSIONS)
def test_the_order_of_sort_keys_is_the_precedence_of_versions(a, b):
    assert (a.sort_key > b.sort_key) - (a.sort_key < b.sort_key) == precedence(a, b)


@given(st.lists(VERSIONS, max_size=20))
def test_sorting_by_key_sorts_by_precedence(versions):
    by_key = sorted(versions, key=lambda version: version.sort_key)
    assert [v.sort_key for v in by_key] == [v.sort_key for v in sorted(versions, key=functools.cmp_to_key(precedence))]


def test_the_chain_of_semver_org():
    chain = "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 1.0.0 1.0.1"
    keys = [parse_version(text).sort_key for text in chain.split()]
    assert keys == sorted(keys) and len(set(keys)) == len(keys)


SIGNS = "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def test_every_sign_has_its_rank_wherever_a_word_ends():
    words = [word for sign in SIGNS for word in (f"a{sign}", f"a{sign}z", f"a{sign}-")]
    versions = [parse_version(f"1.0.0-{word}{more}") for word in ["a", *words] for more in ("", ".0", ".x")]
    ordered = sorted(versions, key=functools.cmp_to_key(precedence))
    assert sorted(versions, key=lambda version: version.sort_key) == ordered


@given(VERSIONS)
def test_keys_are_digits_for_no_collation_to_order_otherwise(version):
    assert version.sort_key.isdigit()


@pytest.mark.parametrize("word", ["1", "a", "-", "0a"])
def test_the_longest_version_has_a_key_that_fits_its_column(word):
    text = "0.0.0-" + ".".join([word] * ((58 + 1) // (len(word) + 1)))
    assert len(text) <= 64
    assert len(parse_version(text).sort_key) <= MOST_KEY_CHARACTERS
    assert len(parse_version("0.0.0-" + "z" * 58).sort_key) <= MOST_KEY_CHARACTERS


@given(VERSIONS)
def test_a_version_reads_back_from_its_text(version):
    assert parse_version(str(version)) == version


def test_build_metadata_is_read_and_has_no_rank():
    version = parse_version("1.2.3-rc.1+build.05")
    assert version == Version(1, 2, 3, ("rc", "1"), "build.05") and str(version) == "1.2.3-rc.1+build.05"
    assert version.sort_key == parse_version("1.2.3-rc.1").sort_key


@pytest.mark.parametrize(
    "text",
    ["", "1", "1.2", "1.2.3.4", "v1.2.3", "01.2.3", "1.02.3", "1.2.3-", "1.2.3-01", "1.2.3-a..b", "1.2.3+", "1.2.3 ",
     "1.2.3\n", "1.2.3-ä", "١.2.3", "-1.2.3", "1.2.3-rc_1", "1234567890.0.0", "1.0.0-1234567890", "0.0.0-" + "a" * 59],
)  # fmt: skip
def test_what_is_no_version_is_refused(text):
    with pytest.raises(InvalidRequest) as caught:
        parse_version(text)
    assert caught.value.field == "version" and caught.value.message.endswith(".")


@pytest.mark.parametrize(
    ("before", "after", "bump"),
    [
        (recipe((A, "1")), recipe((A, "1")), "none"),
        (recipe((A, "1"), alpha="0.5"), recipe((A, "0.5"), alpha="1"), "none"),
        (recipe((A, "1")), recipe((A, "1"), (B, "0")), "none"),
        (recipe((A, "1")), recipe((A, "1"), base=OTHER), "major"),
        (recipe((A, "1")), recipe((A, "1"), (B, "0.1")), "minor"),
        (recipe((A, "1")), recipe((A, "1.1")), "minor"),
        (recipe((A, "1")), recipe((A, "1"), alpha="1.0000000000000000001"), "minor"),
        (recipe((A, "1")), recipe((A, "-0.1")), "minor"),
        (recipe((A, "-1")), recipe((A, "-2")), "minor"),
        (recipe((A, "1"), (B, "1")), recipe((A, "0.5"), (B, "1.5")), "minor"),
        (recipe((A, "1")), recipe((B, "1")), "minor"),
        (recipe((A, "1")), recipe((A, "0.9")), "patch"),
        (recipe((A, "-1")), recipe((A, "-0.9")), "patch"),
        (recipe((A, "1"), (B, "1")), recipe((A, "1")), "patch"),
        (recipe((A, "1")), recipe((A, "0")), "patch"),
        (recipe((A, "1")), recipe(), "patch"),
    ],
)
def test_the_least_step_follows_from_the_scales(before, after, bump):
    assert required_bump(before, after) == bump


GROWN = recipe((A, "1"), (B, "1"))
WEAKER = recipe((A, "0.5"))
REBASED = recipe((A, "1"), base=OTHER)
SAME = recipe((A, "1"))


@pytest.mark.parametrize(
    ("previous", "version", "after"),
    [
        ("1.2.3", "1.3.0", GROWN), ("1.2.3", "1.3.0-rc.1", GROWN), ("1.2.3", "1.4.7", GROWN), ("1.2.3", "2.0.0", GROWN),
        ("1.2.3", "1.2.4", WEAKER), ("1.2.3", "1.2.4-0", WEAKER), ("1.2.3", "1.3.0", WEAKER),
        ("1.2.3", "2.0.0", REBASED), ("1.2.3", "2.0.0-rc.1", REBASED),
        ("1.2.3", "1.2.4", SAME), ("1.2.3", "1.2.4-rc.1", SAME),
        ("1.3.0-rc.1", "1.3.0-rc.2", GROWN), ("1.3.0-rc.1", "1.3.0", GROWN), ("2.0.0-rc.1", "2.0.0-rc.2", REBASED),
        ("1.2.4-rc.1", "1.3.0", GROWN), ("1.2.4-rc.1", "1.2.4", WEAKER),
    ],
)  # fmt: skip
def test_a_step_that_is_large_enough_is_accepted(previous, version, after):
    assert check_version(version, previous, SAME, after) == parse_version(version)


@pytest.mark.parametrize(
    ("previous", "version", "after", "reason", "lowest"),
    [
        ("1.2.3", "1.2.4", GROWN, "adds or strengthens", "1.3.0"),
        ("1.2.3", "1.3.0", REBASED, "another base", "2.0.0"),
        ("1.2.3", "1.2.3", SAME, "not above", "1.2.4"),
        ("1.2.3", "1.2.3-rc.1", WEAKER, "not above", "1.2.4"),
        ("1.2.3", "1.1.0", WEAKER, "not above", "1.2.4"),
        ("1.2.4-rc.1", "1.2.4", GROWN, "adds or strengthens", "1.3.0"),
        ("1.3.0-rc.1", "1.3.0", REBASED, "another base", "2.0.0"),
        ("1.3.0-rc.2", "1.3.0-rc.1", GROWN, "not above", "1.3.0, or a pre-release of it above 1.3.0-rc.2"),
    ],
)
def test_a_step_that_is_too_small_is_refused_with_the_lowest_that_fits(previous, version, after, reason, lowest):
    with pytest.raises(InvalidRequest) as caught:
        check_version(version, previous, SAME, after)
    assert reason in caught.value.message and f"lowest that fits is {lowest}" in caught.value.message
    assert check_version(lowest.split(",")[0], previous, SAME, after)


def test_the_first_release_may_have_any_version_without_build_metadata():
    assert check_version("0.1.0", None, None, SAME) == Version(0, 1, 0)
    with pytest.raises(InvalidRequest, match=r"\+now"):
        check_version("0.1.0+now", None, None, SAME)


@given(DECIMALS, DECIMALS)
def test_an_effective_scale_is_the_exact_product_in_normal_form(alpha, weight):
    scale = effective_scale(alpha, weight)
    assert Fraction(scale) == Fraction(alpha) * Fraction(weight)
    assert scale == normalise_decimal(scale, "scale")


def test_the_longest_decimals_lose_no_digit():
    longest = "9" * 20 + "." + "9" * 20
    assert Fraction(effective_scale(longest, longest)) == Fraction(longest) ** 2
