"""The task direction and its breadcrumb mask, defined once.

    delta = float32(t) - float32(b')             b' is b rounded to t's dtype; both F64: subtract, then round
    order = elements by |delta| descending, ties by flat index ascending
    mask  = order without its first floor(drop_top * N) and last floor(drop_bottom * N), without zeros

The tuned tensor was rounded to its dtype when it was saved, so the base is, too: to nearest even, by way of float32.

A group of N elements is the whole tensor, or one row of its last dimension (as in the authors' code).
Source: Model Breadcrumbs, Davari & Belilovsky, arXiv 2312.06795. changes.py finds the mask.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from registry.breadcrumbs.formats.header import TensorSpec
from registry.breadcrumbs.formats.layout import MaskParams


def rounds(base: str, tuned: str) -> bool:
    """Return whether the dtype of a tuned tensor does not hold every value of the base's, so that b' is not b."""
    return base != tuned and tuned != "F64" and not (tuned == "F32" and base in ("BF16", "F16"))


@dataclass(frozen=True, slots=True)
class Groups:
    """How a tensor is masked.

    Args:
        count: Number of groups.
        size: Elements of a group.
        n_top: How many of a group are dropped for being large.
        n_bottom: How many are dropped for being small.
    """

    count: int
    size: int
    n_top: int
    n_bottom: int

    @property
    def most(self) -> int:
        """How many elements of the tensor the mask keeps, if enough of them changed."""
        return self.count * max(0, self.n_first - self.n_top)

    @property
    def n_first(self) -> int:
        """How many elements of a group are not dropped for being small."""
        return self.size - self.n_bottom


def groups_of(spec: TensorSpec, params: MaskParams) -> Groups:
    """Return the groups of a tensor that has elements."""
    size = spec.numel if params.granularity == "tensor" else (spec.shape or (1,))[-1]
    return Groups(spec.numel // size, size, dropped(params.drop_top, size), dropped(params.drop_bottom, size))


@lru_cache(maxsize=10_000)  # most tensors of a model share a few sizes
def dropped(fraction: str, size: int) -> int:
    """Return floor(fraction * size), exactly: 0.29 of 100 is 29, where binary floats say 28."""
    return math.floor(Fraction(fraction) * size)
