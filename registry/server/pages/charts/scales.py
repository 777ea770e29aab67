"""Numbers in a chart: how they are written, and where they lie on an axis."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
MOST, _LEAST = 1e300, 1e-300  # an axis goes no further, so that no difference overflows and no step is zero


def finite(value: float | None) -> float | None:
    """Return a number that can be drawn, and None for one that is missing, infinite or not a number."""
    try:
        return value if value is not None and math.isfinite(value) else None
    except OverflowError:  # an integer that no float holds
        return None


def near(value: float) -> float:
    """Return a number that an axis reaches."""
    return min(max(value, -MOST), MOST)


def short(value: float, digits: int = 3) -> str:
    """Write a number with a few digits, and k, M, G or T: `12.3k`, `0.05`, `1.2e-7`."""
    if not value:
        return "0"
    mantissa, exponent = f"{value:.{max(digits, 1) - 1}e}".split("e")
    if int(exponent) < -4 or int(exponent) >= 15:
        return f"{_trimmed(mantissa)}e{int(exponent)}"
    rounded = float(f"{mantissa}e{exponent}")
    unit, suffix = next(((unit, suffix) for unit, suffix in _STEPS if abs(rounded) >= unit), (1.0, ""))
    return f"{rounded / unit:.{max(digits, 3)}g}{suffix}"


def brief(value: float, unit: str) -> str:
    """Write a number with a few digits and its unit: `12.3 MB`, `5 %`, `1.2k parameters`."""
    number = short(value)
    if unit.isalpha() and len(unit) <= 2 and number[-1].isalpha():
        return f"{number[:-1]} {number[-1]}{unit}"
    return f"{number} {unit}".strip()


def fixed(value: float, digits: int) -> str:
    """Write a number with as many decimals as its neighbours; `≈0` is what these would swallow."""
    if abs(value) >= 999.5:
        return short(value, 2)
    if abs(value) < 0.5 * 10**-digits:
        return "≈0" if value else "0"
    return f"{value:.{digits}f}"


def exact(value: float | None) -> str:
    """Write a number for a table: whole ones whole, others with six digits."""
    if value is None:
        return "no value"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def with_unit(value: float | None, unit: str) -> str:
    """Return a number and its unit, as shown on hover."""
    return exact(value) if value is None or not unit else f"{exact(value)} {unit}"


@dataclass(frozen=True)
class Axis:
    """A piece of the number line: where it begins and ends, and its marks; decades if it is logarithmic."""

    low: float
    high: float
    ticks: Sequence[float]
    log: bool = False

    def place(self, value: float) -> float:
        """Return where a value lies, from 0 to 1."""
        at = near(value)
        if self.log:
            at = math.log10(value) if value > 0 else self.low
        return min(max((at - self.low) / (self.high - self.low), 0.0), 1.0)

    def mark(self, tick: float) -> str:
        """Write one of the marks, with as many digits as tell it from the next."""
        if self.log:
            return short(10.0**tick) if -5 < tick < 15 else f"1e{tick:g}"
        step = abs(self.ticks[1] - self.ticks[0]) if len(self.ticks) > 1 else 0.0
        most = max(map(abs, self.ticks))
        return short(tick, min(max(3, math.ceil(math.log10(most / step)) + 1), 15) if most and step else 3)


def linear(values: Iterable[float], *, zero: bool = True) -> Axis:
    """Make an axis for values, with about five marks at 1, 2 or 5 of a decade.

    Args:
        values: Finite; there may be none.
        zero: The axis begins or ends at zero, or crosses it, as it must where lengths are compared.

    Returns:
        An axis that is never empty, whose ends are marks.
    """
    kept = [near(value) for value in values] or [0.0]
    low, high = min(kept), max(kept)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    size = max(abs(low), abs(high))
    if high - low <= max(size * 1e-9, _LEAST):  # a difference that is lost in the digits of a mark
        half = size / 2 if size > 10 * _LEAST else 0.5
        low, high = (low, high + 2 * half) if zero else (low - half, high + half)
    step = _nice(max((high - low) / 5, _LEAST))
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    ticks = [float(f"{place * step:.12g}") for place in range(first, max(last, first + 1) + 1)]
    return Axis(ticks[0], ticks[-1], ticks)


def logarithmic(values: Iterable[float]) -> Axis:
    """Make an axis of decades for the values above zero; nothing else has a place on it.

    Returns:
        An axis whose `low`, `high` and marks are exponents of ten.
    """
    kept = [value for value in values if value > 0] or [1.0]
    low, high = math.ceil(math.log10(min(kept))) - 1, math.ceil(math.log10(max(kept)))  # the least has a length, too
    step = max(1, math.ceil((high - low) / 6))
    high = low + step * math.ceil(max(high - low, 1) / step)
    return Axis(low, high, [float(tick) for tick in range(low, high + 1, step)], log=True)


def _nice(step: float) -> float:
    """Return the next of 1, 2, 5, 10 of its decade."""
    decade = 10.0 ** math.floor(math.log10(step))
    return next((nice * decade for nice in (1, 2, 5) if step <= nice * decade * (1 + 1e-9)), 10 * decade)


def _trimmed(mantissa: str) -> str:
    return mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
