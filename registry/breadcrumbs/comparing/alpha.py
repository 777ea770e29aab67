"""Alpha from the patches and the size of their base alone.

    sum          alpha = 0.3 * sqrt(B / (W * S))     W: the sum of |w|, S: the norm of the sum of w m
    ties, mean   alpha = 0.3 * sqrt(B * M) / S       M: the mean norm of the patches, S: the norm of their sum

B is the norm of the base's weights in the tensors that a patch touches, on average over the patches. So alpha is
smaller for larger changes: fine-tunings that move the weights further disturb each other more. For patches of one
direction it falls as 1 / n, for n at right angles as n^(-3/4) with `sum`, where they add up, and as n^(-1/2) with
`ties` and `mean`. With `sum` weights say proportions only: with all of them doubled, alpha is half, and the model the
same. In the other methods they vote, and do not count here. A patch by itself has alpha 1. docs/decisions.md says where
this comes from.
"""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction

from registry.breadcrumbs.formats.recipe import ALONE, normalise_decimal
from registry.errors import InvalidRecipe

AUTO = "auto"
"""The alpha that stands for this rule, in requests and options; recipes have the decimal that it gave."""

FACTOR = 0.3
"""The one constant, for patches of the default cuts."""

USUAL = 0.006
"""The norm of a patch / that of its base where the latter is not known."""

SMALLEST = 0.002
"""The norm of a patch / that of its base below which alpha grows no more, since smaller changes were not tried."""

DIGITS = 3
"""Significant digits of the decimal."""

LEAST = 1e-3
"""Least norm of the sum / mean norm: below it patches cancel, and a large alpha would blow up what is left."""


def rule_of(method: str, weights: Sequence[str]) -> str:
    """Return the rule by which `choose_alpha` finds the alpha of these patches, in words."""
    if _alone(weights):
        return "a patch by itself has alpha 1"
    if method == "sum":
        return f"{FACTOR} x the root of (norm of the base / (sum of weights x norm of the sum))"
    return f"{FACTOR} x the root of (norm of the base x mean norm of the patches) / norm of the sum"


def choose_alpha(
    method: str,
    weights: Sequence[str],
    squares: Sequence[float],
    dots: Mapping[tuple[int, int], float],
    bases: Sequence[float | None],
) -> str:
    """Return the alpha of patches by the rule above, a decimal of three significant digits.

    Args:
        method: sum, ties or mean.
        weights: A decimal for each patch.
        squares: Its squared norm.
        dots: For each pair (i, j), i < j, of patches the sum of the products of their values.
        bases: For each patch the norm of the base's weights in the tensors that it touches; None if not known.

    Raises:
        InvalidRecipe: The patches cancel each other, or none of them has a weight.
    """
    if _alone(weights):
        return ALONE
    by = [float(Fraction(weight)) for weight in weights]
    if method != "sum":
        by = [1.0 if weight else 0.0 for weight in by]
    norms, total = [math.sqrt(square) for square in squares], math.fsum(map(abs, by))
    mean = math.fsum(abs(w) * norm for w, norm in zip(by, norms, strict=True)) / total
    crossed = 2 * math.fsum(by[i] * by[j] * dot for (i, j), dot in dots.items())
    whole = math.sqrt(max(0.0, math.fsum([*(w * w * s for w, s in zip(by, squares, strict=True)), crossed])))
    if whole <= LEAST * mean * total / sum(map(bool, by)):
        raise InvalidRecipe(
            "These patches cancel each other, so that no alpha follows from them; give one, or leave a patch out.",
            field="alpha",
        )
    sizes = [min(base or norm / USUAL, norm / SMALLEST) for base, norm in zip(bases, norms, strict=True)]
    base = math.fsum(abs(w) * size for w, size in zip(by, sizes, strict=True)) / total
    alpha = FACTOR * (math.sqrt(base / (total * whole)) if method == "sum" else math.sqrt(base * mean) / whole)
    return normalise_decimal(f"{Decimal(f'{alpha:.{DIGITS}g}'):f}", "alpha")


def _alone(weights: Sequence[str]) -> bool:
    return sum(1 for weight in weights if Fraction(weight)) < 2
