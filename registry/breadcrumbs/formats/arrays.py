"""Arrays: elements of a checkpoint, an adapter or a patch file as numpy arrays.

numpy has no dtype for BF16, whose bits are the upper half of a float32's; so what is read is bytes and a dtype code.
"""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from registry.breadcrumbs.formats.header import DTYPES

Octets = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32] | npt.NDArray[np.float64]

NUMPY = {
    "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8",
    "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
"""numpy's names of the dtypes that it has."""

EXPONENTS = {"BF16": ("<u2", 0x7F80), "F16": ("<u2", 0x7C00), "F32": ("<u4", 0x7F800000), "F64": ("<u8", 0x7FF << 52)}
"""The integer that holds a float of a dtype, and the bits that are all set in NaN and Inf and in nothing else."""


class Source(Protocol):
    """What elements are read from: a checkpoint, an adapter on its base, or a patch file."""

    def dtype_of(self, name: str) -> str:
        """Return the dtype of a tensor or entry."""

    def fill(self, view: memoryview, name: str, start: int) -> None:
        """Fill a view with the bytes of a tensor or entry from byte `start` on."""


def octets(array: npt.NDArray[Any]) -> memoryview:
    """Return a view of the bytes of a contiguous array, [size * bytes per element]."""
    return memoryview(array.reshape(-1).view(np.uint8).data)


def read_raw(source: Source, name: str, start: int, stop: int) -> Octets:
    """Read elements start..stop - 1 as little-endian bytes: uint8 [(stop - start) * bytes per element].

    Raises:
        InvalidInput: The file has become shorter since it was opened.
    """
    width = DTYPES[source.dtype_of(name)]
    raw = np.empty((stop - start) * width, np.uint8)
    source.fill(octets(raw), name, start * width)
    return raw


def read_numbers(source: Source, name: str, start: int, stop: int) -> npt.NDArray[Any]:
    """Read elements of a dtype that numpy has, [stop - start] of that dtype; errors as of `read_raw`."""
    return read_raw(source, name, start, stop).view(NUMPY[source.dtype_of(name)])


def read_floats(source: Source, name: str, start: int, stop: int) -> Floats:
    """Read floating-point elements without rounding: float64 [stop - start] for F64, float32 for BF16, F16 and F32.

    Raises:
        InvalidInput: The file has become shorter since it was opened.
    """
    return to_floats(read_raw(source, name, start, stop), source.dtype_of(name))


def to_floats(raw: Octets, dtype: str) -> Floats:
    """Return floating-point elements given as their bytes and dtype, without rounding, as `read_floats` does."""
    if dtype == "BF16":
        return (raw.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype == "F64":
        return raw.view("<f8")
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        return raw.view(NUMPY[dtype]).astype(np.float32, copy=False)


def from_floats(values: Floats, dtype: str) -> Octets:
    """Return the bytes of floating-point elements in a dtype: uint8 [size * bytes per element].

    Float64 is rounded to float32 first, and that to BF16 or F16, to nearest even both times; F64 stays. NaN and Inf
    stay what they are, and what is too large for the dtype becomes Inf.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # a signalling NaN becomes a quiet one
        if dtype == "F64":
            return values.astype("<f8", copy=False).view(np.uint8)
        singles = values.astype("<f4", copy=False)
        if dtype != "BF16":
            return singles.astype(NUMPY[dtype], copy=False).view(np.uint8)
    bits = singles.view("<u4")
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    quiet = bits >> np.uint32(16) | np.uint32(0x40)  # rounding up could make another number of NaN
    return np.where(np.isnan(singles), quiet, rounded).astype("<u2").view(np.uint8)


def count_not_finite(raw: Octets, dtype: str) -> int:
    """Count the NaN and Inf among floating-point elements, given as their bytes and dtype."""
    integer, exponent = EXPONENTS[dtype]
    bits = raw.view(integer)
    mask = bits.dtype.type(exponent)
    return int(np.count_nonzero(bits & mask == mask))


def round_to(value: float, dtype: str) -> float:
    """Round a float64 as `from_floats` does, and return it as one."""
    return float(to_floats(from_floats(np.array([value]), dtype), dtype)[0])
