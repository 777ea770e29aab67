"""Recipes: what is composed, base + alpha * (patches combined by a method), in canonical form and with a digest.

    {"alpha":"0.3","base":"sha256:...","method":"sum","patches":[{"sha256":"...","weight":"1"},...],"version":1}

Keys sorted, no spaces, UTF-8, patches ascending by sha256, decimals as normalised strings. A patch whose weight differs
between tensors also has `"where":[[glob,factor],...]`. The digest is the sha256 of these bytes. From one recipe, the
same base and the same patches, every machine composes the same weights.

    sum     alpha * sum of weight x value
    ties    alpha * mean of the values that have the sign with more mass (TIES-Merging, Yadav et al. 2023, without its
            trimming, which is a patch's own mask)
    mean    alpha * mean of the values of the patches that touch the element
"""

import functools
import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from registry.breadcrumbs.formats.globs import check_glob, matches
from registry.errors import InvalidRecipe, InvalidRequest
from registry.files.names import HEX256, WEIGHTS_DIGEST

_DECIMAL = re.compile(r"(-?)([0-9]{1,20})(?:\.([0-9]{1,20}))?")
_HEX256 = re.compile(HEX256)
_WEIGHTS = re.compile(WEIGHTS_DIGEST)

ALONE = "1"
"""The scale of a patch by itself: what was trained, less what the mask drops."""

METHODS = ("sum", "ties", "mean")
"""How patches that touch the same element are combined."""

FACTORS = 100
"""Most factors by tensor of one patch."""

LARGEST_FLOAT32 = 2.0**128 - 2.0**104
"""The largest finite float32."""


class Item(NamedTuple):
    """One patch of a recipe.

    Args:
        sha256: Digest of its file.
        weight: A decimal.
        where: (glob, decimal): the first glob that matches a tensor's name gives a factor of the weight there; where
            none does it is 1. At a factor of 0 the patch does not touch the tensor.
    """

    sha256: str
    weight: str = "1"
    where: tuple[tuple[str, str], ...] = ()

    def factor(self, tensor: str) -> str:
        """Return the factor of the weight in a tensor."""
        return next((factor for glob, factor in self.where if matches(glob, tensor)), "1")


@dataclass(frozen=True)
class Recipe:
    """A base, a scale, a method and a set of weighted patches; make one with `make_recipe`.

    Args:
        base: Weights digest of the base.
        alpha: Normalised decimal.
        items: Ascending by sha256, decimals normalised.
        method: One of METHODS.
    """

    base: str
    alpha: str
    items: tuple[Item, ...]
    method: str = "sum"

    def canonical(self) -> bytes:
        """Return the canonical JSON, whose sha256 is the digest."""
        patches = [
            {"sha256": item.sha256, "weight": item.weight} | ({"where": item.where} if item.where else {})
            for item in self.items
        ]
        table = {"alpha": self.alpha, "base": self.base, "method": self.method, "patches": patches, "version": 1}
        return json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")

    @property
    def digest(self) -> str:
        """The recipe digest, 64 hex digits."""
        return hashlib.sha256(self.canonical()).hexdigest()

    def scale_in(self, item: Item, tensor: str) -> float | None:
        """Return what an item's values are multiplied by in a tensor, a float32; None where it does not touch it.

        With `sum` alpha is part of it, elsewhere what is combined is multiplied by alpha afterwards.
        """
        factor = item.factor(tensor)
        if factor == "0":
            return None
        return scale(self.alpha if self.method == "sum" else "1", item.weight, factor)


def normalise_decimal(text: str, field: str) -> str:
    """Return a decimal without leading and trailing zeros and without a sign of zero: `00.30` is `0.3`, `-0` is `0`.

    Args:
        text: ASCII digits with an optional minus and fraction, at most 20 digits on either side; no exponent.
        field: What the message calls the decimal.

    Raises:
        InvalidRequest: The text is not such a decimal.
    """
    match = _DECIMAL.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        shown = repr(text)[:60]
        raise InvalidRequest(
            f"{field} is {shown}, which is not a plain decimal; write it like 0.3, 1 or -0.25.", field=field
        )
    whole = match[2].lstrip("0") or "0"
    part = (match[3] or "").rstrip("0")
    number = f"{whole}.{part}" if part else whole
    return number if number == "0" else match[1] + number


def make_recipe(base: str, alpha: str, items: Iterable[Item | tuple[str, str]], method: str = "sum") -> Recipe:
    """Check and order a recipe's parts, and return the recipe.

    Args:
        base: Weights digest of the base, `sha256:<hex>`.
        alpha: Decimal that scales the whole.
        items: Items, or (sha256 of a patch file, decimal weight), in any order; without any the recipe is the base.
        method: One of METHODS.

    Raises:
        InvalidRecipe: A digest or glob is malformed, a patch occurs twice, the method is unknown, a scale is beyond
            float32, or not above 0 where the method needs that.
        InvalidRequest: A decimal is malformed.
    """
    if method not in METHODS:
        raise InvalidRecipe(
            f"{method[:40]!r} is not a method that is known here; choose one of {', '.join(METHODS)}.", field="method"
        )
    if not _WEIGHTS.fullmatch(base):
        raise InvalidRecipe(
            "The base of a recipe is a weights digest, sha256: and 64 lowercase hex digits.", field="base"
        )
    chosen: dict[str, Item] = {}
    for sha256, weight, where in (Item(*item) for item in items):
        if not _HEX256.fullmatch(sha256):
            raise InvalidRecipe(
                f"{sha256[:80]!r} is not the sha256 of a patch, 64 lowercase hex digits.", field="patches"
            )
        if sha256 in chosen:
            raise InvalidRecipe(
                f"Patch {sha256} occurs twice in the recipe; add up its weights instead.", field="patches"
            )
        if len(where) > FACTORS:
            raise InvalidRecipe(
                f"Patch {sha256} has {len(where)} factors by tensor, and {FACTORS} is the most; use wider globs.",
                field="where",
            )
        factors = tuple((check_glob(glob, "where"), normalise_decimal(factor, "where")) for glob, factor in where)
        chosen[sha256] = Item(sha256, normalise_decimal(weight, "weight"), factors)
    ordered = tuple(chosen[sha256] for sha256 in sorted(chosen))
    recipe = Recipe(base, normalise_decimal(alpha, "alpha"), ordered, method)
    scale(recipe.alpha)
    for item in recipe.items:
        _check_scales(recipe, item)
    return recipe


def _check_scales(recipe: Recipe, item: Item) -> None:
    """Check that every scale of an item is a float32, and above 0 where the method needs that."""
    for factor in ("1", *(factor for _, factor in item.where if factor != "0")):
        by = scale(recipe.alpha if recipe.method == "sum" else "1", item.weight, factor)
        if recipe.method != "sum" and not by > 0:
            times = "" if factor == "1" else f" times {factor}"
            raise InvalidRecipe(
                f"Method {recipe.method} takes weights above 0, and that of patch {item.sha256} is "
                f"{item.weight}{times}; leave the patch out, or use the method sum.",
                field="weight",
            )


@functools.lru_cache(maxsize=2**10)  # tensors of one model have few different factors
def scale(*factors: str) -> float:
    """Return the float32 of a product of decimals such as alpha and weight: exact, then rounded once to nearest even.

    Rounding to float64 first can produce a tie that the exact product is not, and then round the other way.

    Raises:
        InvalidRecipe: The product is beyond the largest float32.
    """
    exact = math.prod(map(Fraction, factors), start=Fraction(1))
    if not exact:
        return 0.0
    size = abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()  # of the leading bit, or one too many
    if size < Fraction(2) ** exponent:
        exponent -= 1
    unit = max(exponent - 23, -149)  # 24 bits of significand; fewer below 2^-126
    steps = round(exact / Fraction(2) ** unit)  # Fraction rounds half to even
    rounded = math.ldexp(steps, unit)
    if abs(rounded) > LARGEST_FLOAT32:
        raise InvalidRecipe(
            f"The product of {' and '.join(factors)} (alpha, weight, factor) is too large for float32; "
            "choose smaller ones.",
            field="alpha",
        )
    return rounded
