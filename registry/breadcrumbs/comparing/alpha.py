"""Alpha from the patches alone: what is composed is as large as one patch, times a constant.

    alpha = FACTORS[method] * mean norm of the patches / norm of their sum

Both weighted: the sum of |w| |m| over that of |w|, and the norm of the sum of w m. Patches of one direction add up, so
that the ratio is 1 / n for n of them; for patches at right angles it is 1 / sqrt(n), and larger for those that cancel.
Weights only say proportions: with all of them doubled, alpha is half, and the model the same. A patch by itself has
alpha 1. docs/decisions.md says where the constants, which are for patches of the default cuts, come from.
"""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction

from registry.breadcrumbs.formats.recipe import ALONE, normalise_decimal
from registry.errors import InvalidRecipe

AUTO = "auto"
"""The alpha that stands for this rule, in requests and options; recipes have the decimal that it gave."""

FACTORS = {"sum": 2.8, "ties": 4.6, "mean": 4.6}
"""By method."""

DIGITS = 3
"""Significant digits of the decimal."""

LEAST = 1e-3
"""Least norm of the sum / mean norm: below it patches cancel, and a large alpha would blow up what is left."""


def rule_of(method: str, weights: Sequence[str]) -> str:
    """Return the rule by which `choose_alpha` finds the alpha of these patches, in words."""
    if _alone(weights):
        return "a patch by itself has alpha 1"
    return f"{FACTORS[method]} x the mean norm of the patches / the norm of their sum"


def choose_alpha(
    method: str, weights: Sequence[str], squares: Sequence[float], dots: Mapping[tuple[int, int], float]
) -> str:
    """Return the alpha of patches by the rule above, a decimal of three significant digits.

    Args:
        method: sum, ties or mean.
        weights: A decimal for each patch.
        squares: Its squared norm.
        dots: For each pair (i, j), i < j, of patches the sum of the products of their values.

    Raises:
        InvalidRecipe: The patches cancel each other, or none of them has a weight.
    """
    if _alone(weights):
        return ALONE
    by = [float(Fraction(weight)) for weight in weights]
    mean = math.fsum(abs(w) * math.sqrt(s) for w, s in zip(by, squares, strict=True)) / math.fsum(map(abs, by))
    crossed = 2 * math.fsum(by[i] * by[j] * dot for (i, j), dot in dots.items())
    whole = math.sqrt(max(0.0, math.fsum([*(w * w * s for w, s in zip(by, squares, strict=True)), crossed])))
    if whole <= LEAST * mean:
        raise InvalidRecipe(
            "These patches cancel each other, so that no alpha follows from them; give one, or leave a patch out.",
            field="alpha",
        )
    return normalise_decimal(f"{Decimal(f'{FACTORS[method] * mean / whole:.{DIGITS}g}'):f}", "alpha")


def _alone(weights: Sequence[str]) -> bool:
    return sum(1 for weight in weights if Fraction(weight)) < 2
