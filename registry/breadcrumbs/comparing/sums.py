"""Sums: what two patches do to the same weights, in numbers that add up.

conflicts.py defines each measure and says what it can tell. Only the standard library is used.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Sums:
    """What a pair does to one tensor or several; counts are exact, sums are float64, and all fields add up.

    Args:
        numel: Weights of the tensors that one of the two touches.
        first, second: Weights that each touches.
        overlap: Weights that both touch.
        opposed: Weights that both touch with values that are not 0 and differ in sign.
        expected: The overlap expected by chance: first * second / numel, tensor by tensor.
        opposed_mass, overlap_mass: Sum of min(|a|, |b|) over the opposed, and over the overlap.
        dot: Sum of ab.
        first_squares, second_squares: Sum of a^2, and of b^2.
        first_overlap_squares, second_overlap_squares: The same over the overlap.
        first_l1, second_l1: Sum of |a|, and of |b|.
        abs_sum: Sum of |a + b|.
    """

    numel: int = 0
    first: int = 0
    second: int = 0
    overlap: int = 0
    opposed: int = 0
    expected: float = 0.0
    opposed_mass: float = 0.0
    overlap_mass: float = 0.0
    dot: float = 0.0
    first_squares: float = 0.0
    second_squares: float = 0.0
    first_overlap_squares: float = 0.0
    second_overlap_squares: float = 0.0
    first_l1: float = 0.0
    second_l1: float = 0.0
    abs_sum: float = 0.0

    def __add__(self, other: "Sums") -> "Sums":
        return total((self, other))

    @property
    def union(self) -> int:
        """Weights that either touches."""
        return self.first + self.second - self.overlap

    @property
    def iou(self) -> float | None:
        """Overlap over union."""
        return _ratio(self.overlap, self.union)

    @property
    def lift(self) -> float | None:
        """Overlap over what is expected by chance."""
        return _ratio(self.overlap, self.expected)

    @property
    def sign_conflict(self) -> float | None:
        """The part of the overlap where signs differ."""
        return _ratio(self.opposed, self.overlap)

    @property
    def sign_conflict_mass(self) -> float | None:
        """The part of the overlap's mass that is where signs differ."""
        return _ratio(self.opposed_mass, self.overlap_mass)

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between the patches."""
        return _cosine(self.dot, self.first_squares, self.second_squares)

    @property
    def overlap_cosine(self) -> float | None:
        """Cosine of the angle between what each does to the overlap."""
        return _cosine(self.dot, self.first_overlap_squares, self.second_overlap_squares)

    @property
    def cancellation(self) -> float | None:
        """The part of both patches' mass that is lost when they are added: 0 for none, 1 for all."""
        left = _ratio(self.abs_sum, self.first_l1 + self.second_l1)
        return None if left is None else min(1.0, max(0.0, 1.0 - left))

    @property
    def norm_ratio(self) -> float | None:
        """Norm of the first over that of the second."""
        return _ratio(math.sqrt(self.first_squares), math.sqrt(self.second_squares))


def total(sums: Iterable[Sums]) -> Sums:
    """Add up the sums of several tensors of one pair."""
    parts, added = list(sums), dict[str, Any]()
    for field in fields(Sums):
        numbers = [getattr(part, field.name) for part in parts]
        added[field.name] = sum(numbers) if field.type is int else math.fsum(numbers)
    return Sums(**added)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _cosine(dot: float, first: float, second: float) -> float | None:
    """Return dot / sqrt(first * second), kept within -1..1 where it was rounded beyond."""
    cosine = _ratio(dot, math.sqrt(first) * math.sqrt(second))
    return None if cosine is None else max(-1.0, min(1.0, cosine))
