"""The CPU kernel of checks: measures the values of a patch."""

import numpy as np

from registry.breadcrumbs.kernels.compose import F32, PAD, SPAN, kernel, load_doubles


@kernel
def measure_values(values, code, width, size):
    """Measure values in float64, one after another.

    Args:
        values: uint8, the values' bytes, and PAD more.
        code, width: Their dtype, and bytes of each.
        size: How many there are.

    Returns:
        The sum of their magnitudes, the sum of their squares, the largest magnitude, and the number of the first value
        that is NaN or Inf, or -1.
    """
    doubles = np.empty(SPAN + 16, np.float64)
    total = squares = largest = 0.0
    for start in range(0, size, SPAN):
        span = min(SPAN, size - start)
        load_doubles(values, width * start, code, span, doubles)
        before = total
        for place in range(span):
            value = abs(doubles[place])
            total += value
            squares += value * value
            largest = max(largest, value)
        if not np.isfinite(total - before):
            for place in range(span):
                if not np.isfinite(doubles[place]):
                    return total, squares, largest, start + place
    return total, squares, largest, -1


def warm_up() -> None:
    """Measure no values, so that numba loads what it needs before any kernel: most of a second in a new process."""
    measure_values(np.empty(PAD, np.uint8), F32, 4, 0)
