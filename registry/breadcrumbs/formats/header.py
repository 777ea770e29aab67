"""Headers of safetensors files: what they say, and how they are written canonically; header_reader.py reads them.

    8 bytes   n, unsigned little-endian
    n bytes   {"__metadata__": {str: str}, "<name>": {"dtype": str, "shape": [int], "data_offsets": [start, stop]}, ...}
              UTF-8 JSON, first byte '{', padded with 0x20
    the rest  the tensors' raw bytes, without gap or overlap, offsets counted from 8 + n

Only the standard library is used.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from registry.errors import InvalidInput

BITS: dict[str, int] = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    **dict.fromkeys(("BOOL", "U8", "I8"), 8),
    **dict.fromkeys(("F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
}
"""Bits per element, by safetensors dtype code: every code of the format."""

DTYPES = {dtype: bits // 8 for dtype, bits in BITS.items() if bits % 8 == 0}
"""Bytes per element of the dtypes whose elements are whole bytes; all of those that have a task direction are."""

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""The dtypes that have a task direction."""

MAX_ELEMENTS = 2**53
"""Most elements of a tensor, and the largest integer in a header: JSON readers agree about integers up to here."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a header may cost.

    Args:
        header_bytes: Longest JSON text, in bytes.
        entries: Most tensors.
        metadata_bytes: Longest `__metadata__` object, in characters of the text.
        rank: Most dimensions of a tensor.
        metadata_keys: Most keys of `__metadata__`; a million short ones take seconds.
    """

    header_bytes: int
    entries: int
    metadata_bytes: int
    rank: int = 8
    metadata_keys: int = 10_000


# Measured: a header of 64,707,888 bytes and 1,000,000 entries takes 293 MB and 4.4 s of a processor. As strangers may
# write it, 504 MB (one name of 66 MB, with a character beyond 16 bits) or 14 s (a space in each entry).
CHECKPOINT_LIMITS = Limits(header_bytes=2**26, entries=1_000_000, metadata_bytes=16_000_000)
PATCH_LIMITS = Limits(header_bytes=2**26, entries=1_000_000, metadata_bytes=32_000_000)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor's dtype, as safetensors codes it, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of all elements."""
        return self.numel * BITS[self.dtype] // 8


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file; `start` and `stop` are byte offsets from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """A whole header: entries in the order of their data; the data starts at byte `size` of the file."""

    entries: dict[str, Entry]
    metadata: dict[str, str]
    size: int


class Flaw(ValueError):
    """A broken rule, raised where it is not known which file is being read."""

    def __init__(self, rule: str, entry: str | None = None) -> None:
        super().__init__(rule)
        self.rule = rule
        self.entry = entry

    def as_error(self, what: str, error: type[InvalidInput]) -> InvalidInput:
        """Return the error for people, which names the file, the entry and the rule."""
        where = f" entry {show(self.entry)}:" if self.entry is not None else ""
        return error(f"{what} is refused:{where} {self.rule}.", field=self.entry)


def show(name: str) -> str:
    """Return a name from a file for a message: quoted, with control characters escaped, and cut when it is long."""
    return ascii(name) if len(name) <= 200 else f"{name[:200]!a}..."


def format_header(
    entries: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Write the canonical header of tensors whose data follow each other in this order.

    Args:
        entries: (name, dtype, shape), in the order of the data.
        metadata: Written first, keys sorted; none when empty.

    Returns:
        The 8 length bytes and the JSON text, compact, UTF-8 unescaped, padded with spaces to a multiple of 8.
    """
    pieces, at = [f'"__metadata__":{format_strings(metadata)}'] if metadata else [], 0
    for name, dtype, shape in entries:
        stop = at + math.prod(shape) * BITS[dtype] // 8
        lengths = ",".join(map(str, shape))
        pieces.append(f'{quote(name)}:{{"dtype":"{dtype}","shape":[{lengths}],"data_offsets":[{at},{stop}]}}')
        at = stop
    text = f"{{{','.join(pieces)}}}".encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def format_strings(metadata: Mapping[str, str]) -> str:
    """Return the canonical JSON of a header's metadata."""
    return f"{{{','.join(f'{quote(key)}:{quote(value)}' for key, value in sorted(metadata.items()))}}}"


quote = json.JSONEncoder(ensure_ascii=False).encode
"""Return a string as JSON, UTF-8 unescaped."""
