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


def count_not_finite(raw: Octets, dtype: str) -> int:
    """Count the NaN and Inf among floating-point elements, given as their bytes and dtype."""
    integer, exponent = EXPONENTS[dtype]
    bits = raw.view(integer)
    mask = bits.dtype.type(exponent)
    return int(np.count_nonzero(bits & mask == mask))


def round_to(value: float, dtype: str) -> float:
    """Round a float64 to float32 and then to BF16, F16 or F32, to nearest even both times; F64 stays.

    NaN and Inf stay as well, and what is too large for the dtype becomes Inf.
    """
    if dtype == "F64":
        return value
    with np.errstate(over="ignore"):
        single = np.float32(value)
        if dtype == "F16":
            return float(np.float16(single))
    if dtype == "F32" or not np.isfinite(single):
        return float(single)
    bits = int(single.view(np.uint32))
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return float(np.uint32(rounded).view(np.float32))
