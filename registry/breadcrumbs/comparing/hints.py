"""Hints: what sizes, angles, alpha and rounding say against a patch or a recipe, each a sentence with a remedy.

They are advice from numbers alone, and forbid nothing; an evaluation knows better. Patches are named as people type
them, `12` or `12.2`, so that `12:0.38` is the patch at another weight.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from registry.breadcrumbs.formats.recipe import normalise_decimal

LARGE = 2.0
"""Times the median of the others, above which a patch drowns them out."""

CANCELLING = -0.3
"""The cosine between two patches from which on they undo each other."""

LEFT = 0.5
"""The norm of a sum over that of patches at right angles, below which the patches undo each other as a whole."""

FAR = 2.0
"""Times alpha `auto`, or that divided by it, beyond which an alpha is odd."""

NOISY = 0.5
"""The share of a patch that rounding explains, above which it is mostly noise."""

MOST = 3
"""Hints of one kind for one recipe, the worst first."""


class Hint(NamedTuple):
    """A hint: its kind (norm, cancelling, alpha, rounding), and the sentence."""

    kind: str
    sentence: str


class HintPart(NamedTuple):
    """A patch of a recipe.

    Args:
        name: As people type it.
        weight: A decimal.
        norm: The L2 norm of its values.
        rounding: The share of them that rounding explains; None if that was not measured.
    """

    name: str
    weight: str
    norm: float
    rounding: float | None


def hints_of_patch(name: str, norm: float, others: Sequence[float], rounding: float | None) -> list[Hint]:
    """Return the hints about a patch by itself.

    Args:
        name: As people type it.
        norm: The L2 norm of its values.
        others: The norms of the model's other accepted patches.
        rounding: The share of its values that rounding explains; None if that was not measured.
    """
    found = []
    median = statistics.median(others) if others else 0.0
    if median and norm > LARGE * median:
        found.append(
            Hint(
                "norm",
                f"The norm of #{name} is {_times(norm / median)} the median of the other accepted patches, which it "
                f"drowns out at weight 1; compose it as {name}:{_decimal(median / norm)}.",
            )
        )
    return found + _rounding(name, rounding)


def hints_of_recipe(
    model: str, parts: Sequence[HintPart], dots: Mapping[tuple[int, int], float], alpha: str | None, auto: str | None
) -> list[Hint]:
    """Return the hints about a recipe.

    Args:
        model: NS/NAME, for the command that shows more.
        parts: Its patches; those of weight 0 do not count.
        dots: For each pair (i, j), i < j, that was compared the sum of the products of their values.
        alpha: Its alpha, a decimal; None if that is not known.
        auto: The alpha that `auto` gives, a decimal; None if that is not known.
    """
    sizes = {place: abs(float(Fraction(part.weight))) * part.norm for place, part in enumerate(parts)}
    sizes = {place: size for place, size in sizes.items() if size}
    noise = sorted((parts[place] for place in sizes), key=lambda part: -(part.rounding or 0.0))[:MOST]
    return [
        *_norms(parts, sizes),
        *_cancelling(model, parts, sizes, dots),
        *_alpha(alpha, auto),
        *(hint for part in noise for hint in _rounding(part.name, part.rounding)),
    ]


def _norms(parts: Sequence[HintPart], sizes: Mapping[int, float]) -> list[Hint]:
    found: list[Hint] = []
    for place, size in sorted(sizes.items(), key=lambda row: -row[1])[:MOST]:
        others = [other for at, other in sizes.items() if at != place]
        median = statistics.median(others) if others else size
        if size <= LARGE * median:
            break  # the others are smaller
        part = parts[place]
        sign = "-" if part.weight.startswith("-") else ""
        found.append(
            Hint(
                "norm",
                f"#{part.name} does {_times(size / median)} as much as the median of the other patches, which it "
                f"drowns out; give it as {part.name}:{sign}{_decimal(median / part.norm)}.",
            )
        )
    return found


def _cancelling(
    model: str, parts: Sequence[HintPart], sizes: Mapping[int, float], dots: Mapping[tuple[int, int], float]
) -> list[Hint]:
    signs = [-1.0 if part.weight.startswith("-") else 1.0 for part in parts]
    cosines = {
        (i, j): signs[i] * signs[j] * max(-1.0, min(1.0, dot / parts[i].norm / parts[j].norm))  # their product may be 0
        for (i, j), dot in dots.items()
        if i in sizes and j in sizes
    }
    found = []
    for (i, j), cosine in sorted(cosines.items(), key=lambda row: row[1])[:MOST]:
        if cosine > CANCELLING:
            break
        one, two = parts[i].name, parts[j].name
        found.append(
            Hint(
                "cancelling",
                f"#{one} and #{two} undo each other (cosine {cosine:.2f}); leave one of them out, or see where they "
                f"do with `crumb conflicts {model} {one} {two}`.",
            )
        )
    if not found and len(cosines) == len(sizes) * (len(sizes) - 1) // 2:
        apart = math.fsum(size * size for size in sizes.values())
        crossed = 2 * math.fsum(sizes[i] * sizes[j] * cosine for (i, j), cosine in cosines.items())
        left = math.sqrt(max(0.0, apart + crossed) / apart) if apart else 1.0
        if left < LEFT:
            names = " ".join(parts[place].name for place in sizes)
            found.append(
                Hint(
                    "cancelling",
                    f"Together these patches undo each other: {left:.0%} is left of what they would do at right "
                    f"angles; leave some out, `crumb conflicts {model} {names}` shows which.",
                )
            )
    return found


def _alpha(alpha: str | None, auto: str | None) -> list[Hint]:
    # A negative alpha removes what patches do, on purpose; `auto` gives 0 where the base itself is 0.
    if alpha is None or auto is None or not (float(alpha) > 0 and float(auto) > 0):
        return []
    times = float(alpha) / float(auto)
    if 1 / FAR <= times <= FAR:
        return []
    return [
        Hint(
            "alpha",
            f"Alpha {alpha} is {_times(times)} the {auto} that auto gives for these patches; use alpha auto, unless "
            "you measured that yours is better.",
        )
    ]


def _rounding(name: str, share: float | None) -> list[Hint]:
    if share is None or share <= NOISY:
        return []
    return [
        Hint(
            "rounding",
            f"{share:.0%} of what #{name} changes is a single step of rounding to 16 bits, so it is mostly noise; "
            "make it again with `crumb diff` from weights that were not rounded after training (F32, or the adapter).",
        )
    ]


def _times(factor: float) -> str:
    return f"{factor:,.0f} times" if 100 <= factor < 1e12 else f"{factor:.2g} times"


def _decimal(number: float) -> str:
    """Return a decimal of three significant digits, and at most twelve on either side of the point."""
    return normalise_decimal(f"{Decimal(f'{min(max(number, 1e-12), 1e12):.3g}'):f}", "weight")
