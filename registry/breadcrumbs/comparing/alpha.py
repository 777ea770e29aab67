"""Alpha from the patches, their masks and the size of their base alone.

    sum          alpha = f * sqrt(B / (W * S))     W: the sum of |w|, S: the norm of the sum of w m
    ties, mean   alpha = f * sqrt(B * M) / S       M: the mean norm of the patches, S: the norm of their sum

B is the norm of the base's weights in the tensors that a patch touches, on average over the patches. So alpha is
smaller for larger changes: fine-tunings that move the weights further disturb each other more. For patches of one
direction it falls as 1 / n, for n at right angles as n^(-3/4) with `sum`, where they add up, and as n^(-1/2) with
`ties` and `mean`. With `sum` weights say proportions only: with all of them doubled, alpha is half, and the model the
same. In the other methods they vote, and do not count here. A patch by itself has alpha 1.

f is 0.3 for masks that keep as much as the default cuts, and 0.3 * (0.143 / kept)^0.4 for others, on average over the
patches: what a mask leaves out is made up for by what it keeps. docs/decisions.md says where this comes from.
"""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from registry.breadcrumbs.formats.layout import MaskParams
from registry.breadcrumbs.formats.recipe import ALONE, normalise_decimal
from registry.errors import InvalidRecipe

AUTO = "auto"
"""The alpha that stands for this rule, in requests and options; recipes have the decimal that it gave."""

FACTOR = 0.3
"""The one constant, for patches of the default cuts."""

POWER = 0.4
"""By what power of 0.143 / kept the constant grows, for masks that keep less than the default cuts."""

SPARSEST = 0.04
"""The share that a mask keeps below which alpha grows no more, since sparser masks were not tried."""

USUAL = 0.006
"""The norm of a patch / that of its base where the latter is not known."""

SMALLEST = 0.002
"""The norm of a patch / that of its base below which alpha grows no more, since smaller changes were not tried."""

DIGITS = 3
"""Significant digits of the decimal."""

LEAST = 1e-3
"""Least norm of the sum / mean norm: below it patches cancel, and a large alpha would blow up what is left."""


class AlphaPart(NamedTuple):
    """What alpha goes by, of one patch.

    Args:
        weight: A decimal.
        kept: The share of the changes that its mask keeps, by `kept_share`.
        square: Its squared norm.
        base: The norm of the base's weights in the tensors that it touches; None if not known.
    """

    weight: str
    kept: float
    square: float
    base: float | None


def kept_share(drop_bottom: str | None = None, drop_top: str | None = None) -> float:
    """Return the share of the changes that is left by two cuts; None stands for the default ones."""
    cuts = MaskParams()
    bottom = cuts.drop_bottom if drop_bottom is None else drop_bottom
    top = cuts.drop_top if drop_top is None else drop_top
    return float(1 - Fraction(bottom) - Fraction(top))


def factor_of(kept: float) -> float:
    """Return the constant of the rule for a mask that keeps this share of the changes."""
    return FACTOR * math.pow(kept_share() / max(kept, SPARSEST), POWER)


def rule_of(method: str, parts: Sequence[AlphaPart]) -> str:
    """Return the rule by which `choose_alpha` finds the alpha of these patches, in words."""
    if _alone(parts):
        return "a patch by itself has alpha 1"
    factor = f"{_factor(_counted(method, parts), parts):.3g}"
    if method == "sum":
        return f"{factor} x the root of (norm of the base / (sum of weights x norm of the sum))"
    return f"{factor} x the root of (norm of the base x mean norm of the patches) / norm of the sum"


def choose_alpha(method: str, parts: Sequence[AlphaPart], dots: Mapping[tuple[int, int], float]) -> str:
    """Return the alpha of patches by the rule above, a decimal of three significant digits.

    Args:
        method: sum, ties or mean.
        parts: The patches.
        dots: For each pair (i, j), i < j, of patches the sum of the products of their values.

    Raises:
        InvalidRecipe: The patches cancel each other, or none of them has a weight.
    """
    if _alone(parts):
        return ALONE
    by, norms = _counted(method, parts), [math.sqrt(part.square) for part in parts]
    total, mean = math.fsum(map(abs, by)), _mean(by, norms)
    crossed = 2 * math.fsum(by[i] * by[j] * dot for (i, j), dot in dots.items())
    own = [w * w * part.square for w, part in zip(by, parts, strict=True)]
    whole = math.sqrt(max(0.0, math.fsum([*own, crossed])))
    if whole <= LEAST * mean * total / sum(map(bool, by)):
        raise InvalidRecipe(
            "These patches cancel each other, so that no alpha follows from them; give one, or leave a patch out.",
            field="alpha",
        )
    sizes = [min(part.base or norm / USUAL, norm / SMALLEST) for part, norm in zip(parts, norms, strict=True)]
    base, factor = _mean(by, sizes), _factor(by, parts)
    alpha = factor * (math.sqrt(base / (total * whole)) if method == "sum" else math.sqrt(base * mean) / whole)
    return normalise_decimal(f"{Decimal(f'{alpha:.{DIGITS}g}'):f}", "alpha")


def _alone(parts: Sequence[AlphaPart]) -> bool:
    return sum(1 for part in parts if Fraction(part.weight)) < 2


def _counted(method: str, parts: Sequence[AlphaPart]) -> list[float]:
    """Return how much each patch counts: by its weight with `sum`, else as one."""
    by = [float(Fraction(part.weight)) for part in parts]
    return by if method == "sum" else [1.0 if weight else 0.0 for weight in by]


def _factor(by: Sequence[float], parts: Sequence[AlphaPart]) -> float:
    """Return the constant of the rule for patches that count so much."""
    return _mean(by, [factor_of(part.kept) for part in parts])


def _mean(by: Sequence[float], numbers: Sequence[float]) -> float:
    """Return the mean of numbers, one for each patch, as much as the patches count."""
    return math.fsum(abs(w) * number for w, number in zip(by, numbers, strict=True)) / math.fsum(map(abs, by))
