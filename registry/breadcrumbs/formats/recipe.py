"""Recipes: what is composed, base + alpha * sum of weight x patch, in canonical form and with a digest.

    {"alpha":"0.3","base":"sha256:...","method":"sum","patches":[{"sha256":"...","weight":"1"},...],"version":1}

Keys sorted, no spaces, UTF-8, patches ascending by sha256, decimals as normalised strings. The digest is the sha256 of
these bytes. From one recipe, the same base and the same patches, every machine composes the same weights.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from registry.errors import InvalidRecipe, InvalidRequest
from registry.files.names import HEX256, WEIGHTS_DIGEST

_DECIMAL = re.compile(r"(-?)([0-9]{1,20})(?:\.([0-9]{1,20}))?")
_HEX256 = re.compile(HEX256)
_WEIGHTS = re.compile(WEIGHTS_DIGEST)

ALPHA = "0.3"
"""The default scale of all patches."""

LARGEST_FLOAT32 = 2.0**128 - 2.0**104
"""The largest finite float32."""


class Item(NamedTuple):
    """One patch of a recipe: the digest of its file, and its weight as a decimal."""

    sha256: str
    weight: str = "1"


@dataclass(frozen=True)
class Recipe:
    """A base, a scale and a set of weighted patches; make one with `make_recipe`.

    Args:
        base: Weights digest of the base.
        alpha: Normalised decimal.
        items: Ascending by sha256, weights normalised.
    """

    base: str
    alpha: str
    items: tuple[Item, ...]

    def canonical(self) -> bytes:
        """Return the canonical JSON, whose sha256 is the digest."""
        patches = [{"sha256": item.sha256, "weight": item.weight} for item in self.items]
        table = {"alpha": self.alpha, "base": self.base, "method": "sum", "patches": patches, "version": 1}
        return json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")

    @property
    def digest(self) -> str:
        """The recipe digest, 64 hex digits."""
        return hashlib.sha256(self.canonical()).hexdigest()


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


def make_recipe(base: str, alpha: str, items: Iterable[tuple[str, str]]) -> Recipe:
    """Check and order a recipe's parts, and return the recipe.

    Args:
        base: Weights digest of the base, `sha256:<hex>`.
        alpha: Decimal that scales the whole sum.
        items: (sha256 of a patch file, decimal weight), in any order; without items the recipe is the base itself.

    Raises:
        InvalidRecipe: A digest is malformed, a patch occurs twice, or a scale is beyond float32.
        InvalidRequest: A decimal is malformed.
    """
    if not _WEIGHTS.fullmatch(base):
        raise InvalidRecipe(
            "The base of a recipe is a weights digest, sha256: and 64 lowercase hex digits.", field="base"
        )
    chosen: dict[str, Item] = {}
    for sha256, weight in items:
        if not _HEX256.fullmatch(sha256):
            raise InvalidRecipe(
                f"{sha256[:80]!r} is not the sha256 of a patch, 64 lowercase hex digits.", field="patches"
            )
        if sha256 in chosen:
            raise InvalidRecipe(
                f"Patch {sha256} occurs twice in the recipe; add up its weights instead.", field="patches"
            )
        chosen[sha256] = Item(sha256, normalise_decimal(weight, "weight"))
    recipe = Recipe(base, normalise_decimal(alpha, "alpha"), tuple(chosen[sha256] for sha256 in sorted(chosen)))
    for item in recipe.items:
        scale(recipe.alpha, item.weight)
    return recipe


def scale(alpha: str, weight: str) -> float:
    """Return float32(alpha * weight): the exact decimal product, rounded once to nearest even.

    Rounding to float64 first can produce a tie that the exact product is not, and then round the other way.

    Args:
        alpha, weight: Decimals.

    Raises:
        InvalidRecipe: The product is beyond the largest float32.
    """
    exact = Fraction(alpha) * Fraction(weight)
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
            f"alpha {alpha} times weight {weight} is too large for float32; choose smaller ones.", field="alpha"
        )
    return rounded
