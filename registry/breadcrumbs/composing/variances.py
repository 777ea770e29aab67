"""Variances of batch norm that a composition makes negative: every weight is finite, and the model computes NaN.

Training counts them rather than learns them, so base + alpha * patch need not be a variance. PyTorch calls them
`running_var`, and divides by the square root.
"""

import threading
from collections.abc import Mapping

from registry.breadcrumbs.formats.header import show

ENDING = "running_var"
NAMES_SHOWN = 5
"""Most tensors that a sentence names."""


def is_variance(tensor: str) -> bool:
    """Say whether a tensor holds the variances of a batch norm, by its name."""
    return tensor.endswith(ENDING)


class NegativeVariances:
    """Counts variances that are negative, and were not in the base; threads may share one.

    Attributes:
        counts: How many there are, by the names of the tensors that have some.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def look(self, tensor: str, dtype: str, before: memoryview, after: memoryview) -> None:
        """Look at the bytes of elements in the base, and at what became of them."""
        import numpy as np  # here, since workers tell of counts and load no numpy

        from registry.breadcrumbs.formats.arrays import to_floats

        old, new = (to_floats(np.frombuffer(view, np.uint8), dtype) for view in (before, after))
        if count := int(np.count_nonzero((new < 0) & ~(old < 0))):
            with self._lock:
                self.counts[tensor] = self.counts.get(tensor, 0) + count


def tell_negative(counts: Mapping[str, int]) -> list[str]:
    """Return the warning about negative variances, given how many there are by tensor; none if there are none."""
    if not counts:
        return []
    total, names = sum(counts.values()), sorted(counts)
    named = ", ".join(f"{show(name)} ({counts[name]})" for name in names[:NAMES_SHOWN])
    more = f" and {len(names) - NAMES_SHOWN} more tensors" if len(names) > NAMES_SHOWN else ""
    return [
        f"{total} variance{' is' if total == 1 else 's are'} negative that "
        f"{'was' if total == 1 else 'were'} not in the base: {named}{more}. The model computes NaN there; choose a "
        f"smaller alpha, or make the patch without them: `crumb diff --exclude '*{ENDING}'`."
    ]
