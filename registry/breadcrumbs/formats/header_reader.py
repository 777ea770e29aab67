"""The strict reader of headers: it takes one grammar and nothing else. Only the standard library is used.

The `safetensors` library accepts more than its specification allows (duplicate names, unknown fields, any rank), and
two readers that disagree about one file are how scanners get fooled. What this parser accepts, the library accepts too,
and both see the same tensors.
"""

import json
import math
import re
from collections.abc import Callable
from typing import BinaryIO, TypeVar

from registry.breadcrumbs.formats.header import BITS, MAX_ELEMENTS, Entry, Flaw, Header, Limits, show
from registry.errors import InvalidInput
from registry.files.collector import paused_collector

Made = TypeVar("Made")
Make = Callable[[str, str, tuple[int, ...], tuple[int, ...]], Made]
"""Makes what is kept of an entry: of its name, dtype, shape and data_offsets, which are () where there are none."""


@paused_collector()
def read_header(file: BinaryIO, size: int, what: str, limits: Limits, error: type[InvalidInput]) -> Header:
    """Read and check the header of a safetensors file, reading no more than the limits allow.

    Args:
        file: The file, open for reading, at its start.
        size: The file's length in bytes.
        what: How messages call the file, at the start of a sentence.
        limits: What the header may cost.
        error: The class of error to raise.

    Returns:
        The header; every entry's bytes lie inside the file, and together they are all of its data.

    Raises:
        InvalidInput: The header breaks a rule; raised as `error`, naming the entry and the rule.
    """
    try:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise Flaw("it is shorter than the 8 bytes that give the length of a safetensors header")
        if prefix == b"version ":
            raise Flaw("it is a Git LFS pointer; fetch the file itself with `git lfs pull`")
        length = int.from_bytes(prefix, "little")
        if not 2 <= length <= size - 8:
            raise Flaw(
                _name_other(prefix)
                or f"its header claims {length} bytes, and the file has {size}; it is truncated, or not safetensors"
            )
        if length > limits.header_bytes:
            raise Flaw(f"its header has {length} bytes, more than the {limits.header_bytes} allowed")
        text = _read_text(file, length)
        placed = _Placed(8 + length)
        entries, metadata, end = parse_entries(text, ("dtype", "shape", "data_offsets"), limits, placed.add)
        if text[end : end + 1] and text[end:].strip(" "):
            raise Flaw("its header is followed by something other than spaces")
        return Header(placed.check(entries, size), metadata, 8 + length)
    except Flaw as flaw:
        raise flaw.as_error(what, error) from None


_PICKLED = "as torch.save writes it; pickles are never opened, so load the model and save it again with save_pretrained"
_OTHERS = {
    b"GGUF": "it is a GGUF file; use the .safetensors model that it was converted from",
    b"PK\x03\x04": f"it is a zip archive, {_PICKLED}",
    b"\x80": f"it is a pickle, {_PICKLED}",
    b"\x89HDF": "it is an HDF5 file; save the model as safetensors",
    b"<": "it is a web page; download the file again, signed in if its model asks for that",
    b"{": "it is JSON text; the weights themselves are in another file",
}
"""What other files than safetensors begin with, and what to do with them."""


def _name_other(prefix: bytes) -> str | None:
    """Say what a file is that begins with other bytes than a safetensors file; None if that is not known."""
    return next((what for start, what in _OTHERS.items() if prefix.startswith(start)), None)


def _read_text(file: BinaryIO, length: int) -> str:
    """Read the JSON text of a header; its bytes are dropped before it is parsed."""
    raw = file.read(length)
    if len(raw) < length:
        raise Flaw("it ends inside its header")
    if raw[:1] != b"{":
        raise Flaw("its header does not start with '{'")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise Flaw(f"its header is not UTF-8 at byte {problem.start}") from None


class _Placed:
    """Makes entries, and checks that their data fill the file without gap or overlap.

    Args:
        origin: The byte of the file at which the data starts.
    """

    def __init__(self, origin: int) -> None:
        self._origin, self._next, self._ordered = origin, origin, True

    def add(self, name: str, dtype: str, shape: tuple[int, ...], offsets: tuple[int, ...]) -> Entry:
        """Return an entry of which the data are as long as its shape says."""
        if len(offsets) != 2:
            raise Flaw("data_offsets must be two integers", name)
        start, stop = offsets
        length, odd = divmod(math.prod(shape) * BITS[dtype], 8)
        if odd:
            raise Flaw(f"shape {list(shape)} of {dtype} does not fill whole bytes", name)
        if stop - start != length:
            raise Flaw(
                f"{stop - start} bytes of data do not hold shape {list(shape)} of {dtype}, which takes {length}",
                name,
            )
        before = self._next
        self._ordered = self._ordered and start + self._origin == before
        start = before if self._ordered else start + self._origin  # one number for where one ends and the next begins
        self._next = start + length
        return Entry(name, dtype, shape, start, self._next)

    def check(self, entries: dict[str, Entry], size: int) -> dict[str, Entry]:
        """Return all entries of a file of `size` bytes, in the order of their data."""
        at = self._next
        if not self._ordered:
            at, in_order = self._origin, sorted(entries.values(), key=lambda entry: (entry.start, entry.stop))
            for entry in in_order:
                if entry.start != at:
                    place, wanted = entry.start - self._origin, at - self._origin
                    rule = f"its data starts at {place} and not at {wanted}; data has no gap and no overlap"
                    raise Flaw(rule, entry.name)
                at = entry.stop
            entries = {entry.name: entry for entry in in_order}
        if at != size:
            taken, room = at - self._origin, size - self._origin
            raise Flaw(f"its tensors take {taken} bytes, and the file holds {room} bytes of data")
        return entries


_SPACE = re.compile(r"[ \t\n\r]*+")
_STRING = re.compile(r'"[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+"')
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_INTEGERS = re.compile(r"\[([0-9, \t\n\r]*+)\]")
_PLAIN = r"(?:0|[1-9][0-9]{0,14})"
_USUAL: dict[tuple[str, ...], re.Pattern[str]] = {
    fields: re.compile(
        rf'"([^"\\\x00-\x1f]*+)":\{{"dtype":"([A-Z0-9_]++)","shape":\[((?:{_PLAIN}(?:,{_PLAIN})*+)?)\]'
        + (rf',"data_offsets":\[({_PLAIN}),({_PLAIN})\]\}}' if "data_offsets" in fields else r"()()\}")
    )
    for fields in (("dtype", "shape"), ("dtype", "shape", "data_offsets"))
}
"""An entry as most programs write it, matched at once; any other spelling is parsed token by token."""

_INTEGER = re.compile(r"[ \t\n\r]*+(0|[1-9][0-9]{0,15})[ \t\n\r]*+")


_KNOWN = {dtype: dtype for dtype in BITS}
"""One string for each dtype code, in place of one for each entry."""

_MOST_SHAPES = 10_000
"""Shapes that are kept while a header is parsed, since most of its tensors share a few."""


def parse_entries(
    text: str, fields: tuple[str, ...], limits: Limits, make: Make[Made]
) -> tuple[dict[str, Made], dict[str, str], int]:
    """Parse a JSON object of `{name: {field: dtype or integers}}`, and `__metadata__` where the fields are a header's.

    Args:
        text: The JSON text.
        fields: The fields that each entry must have, in any order, and no others; "dtype" is a dtype code, the
            rest are lists of integers.
        limits: What the text may hold.
        make: Makes what is kept of an entry.

    Returns:
        The entries, the metadata, and where the object ends in the text.

    Raises:
        Flaw: The text breaks a rule.
    """
    entries: dict[str, Made] = {}
    metadata: dict[str, str] | None = None
    shapes: dict[str, tuple[int, ...]] = {}
    at = _mark(text, 0, "{")
    closed = _peek(text, at) == "}"
    usual = _USUAL[fields]
    while not closed:
        match = usual.match(text, at)
        if match is not None and len(entries) < limits.entries:
            name, dtype, lengths, start, stop = match.groups()
            shape = shapes.get(lengths) or _usual_shape(lengths, shapes, limits)
            if shape is not None and dtype in _KNOWN and name not in entries and name != "__metadata__":
                entries[name] = make(name, _KNOWN[dtype], shape, (int(start), int(stop)) if stop else ())
                closed, at = _next(text, match.end(), name)
                continue
        name, at = _string(text, at, None)
        at = _mark(text, at, ":", name)
        if name == "__metadata__" and "data_offsets" in fields:
            if metadata is not None:
                raise Flaw("the name occurs twice", name)
            metadata, at = _strings(text, at, limits)
        else:
            if name in entries:
                raise Flaw("the name occurs twice", name)
            if len(entries) >= limits.entries:
                raise Flaw(f"it has more than the {limits.entries} entries allowed")
            if any(mark in name for mark in "\0\t\n"):
                raise Flaw("a name holds NUL, TAB or LF", name)
            dtype, lists, at = _entry(text, at, name, fields, limits)
            entries[name] = make(name, _KNOWN[dtype], lists["shape"], lists.get("data_offsets", ()))
        closed, at = _next(text, at, name)
    return entries, metadata or {}, _mark(text, at, "}")


def _usual_shape(text: str, shapes: dict[str, tuple[int, ...]], limits: Limits) -> tuple[int, ...] | None:
    """Return a shape from its text, or None where it breaks a rule: parsing token by token then says which."""
    shape = tuple(map(int, text.split(","))) if text else ()
    if len(shape) > limits.rank or math.prod(n or 1 for n in shape) > MAX_ELEMENTS:
        return None
    if len(shapes) < _MOST_SHAPES:
        shapes[text] = shape
    return shape


def _entry(
    text: str, at: int, name: str, fields: tuple[str, ...], limits: Limits
) -> tuple[str, dict[str, tuple[int, ...]], int]:
    """Parse an entry token by token: its dtype, its lists of integers by their fields, and where it ends."""
    dtype, lists = "", dict[str, tuple[int, ...]]()
    at = _mark(text, at, "{", name)
    closed = _peek(text, at) == "}"
    while not closed:
        field, at = _string(text, at, name)
        if field not in fields:
            raise Flaw(f"field {show(field)} is unknown; an entry has exactly {', '.join(fields)}", name)
        if field in lists or (field == "dtype" and dtype):
            raise Flaw(f"field {field} occurs twice", name)
        at = _mark(text, at, ":", name)
        if field == "dtype":
            dtype, at = _string(text, at, name)
            if dtype not in BITS:
                raise Flaw(f"dtype {show(dtype)} is unknown", name)
        else:
            lists[field], at = _integers(text, at, name, limits)
        closed, at = _next(text, at, name)
    missing = [field for field in fields if field not in lists and not (field == "dtype" and dtype)]
    if missing:
        raise Flaw(f"it has no {', '.join(missing)}", name)
    # A zero beside a giant (2^62 x 0) is legal arithmetic and an overflow in somebody's code.
    if math.prod(length or 1 for length in lists["shape"]) > MAX_ELEMENTS:
        raise Flaw("its shape has too many elements", name)
    return dtype, lists, _mark(text, at, "}", name)


def _strings(text: str, at: int, limits: Limits) -> tuple[dict[str, str], int]:
    start, values = at, dict[str, str]()
    at = _mark(text, at, "{", "__metadata__")
    closed = _peek(text, at) == "}"
    while not closed:
        key, at = _string(text, at, "__metadata__")
        if key in values:
            raise Flaw(f"key {show(key)} occurs twice", "__metadata__")
        if len(values) >= limits.metadata_keys:
            raise Flaw(f"it has more than the {limits.metadata_keys} keys allowed", "__metadata__")
        at = _mark(text, at, ":", "__metadata__")
        values[key], at = _string(text, at, "__metadata__", limits.metadata_bytes)  # before it is copied
        if "\0" in key or "\0" in values[key]:
            raise Flaw(f"key {show(key)} or its value holds NUL", "__metadata__")
        if at - start > limits.metadata_bytes:
            raise Flaw(f"it is longer than the {limits.metadata_bytes} characters allowed", "__metadata__")
        closed, at = _next(text, at, "__metadata__")
    return values, _mark(text, at, "}", "__metadata__")


def _integers(text: str, at: int, name: str, limits: Limits) -> tuple[tuple[int, ...], int]:
    match = _INTEGERS.match(text, _skip(text, at))
    if match is None:
        raise Flaw(f"a list of plain integers was expected at character {at} of the header", name)
    inside = match[1]
    if not inside.strip(" \t\n\r"):
        return (), match.end()
    if inside.count(",") >= limits.rank:
        raise Flaw(f"a list has more than {limits.rank} integers", name)
    numbers = []
    for part in inside.split(","):
        digits = _INTEGER.fullmatch(part)
        if digits is None or int(digits[1]) > MAX_ELEMENTS:
            raise Flaw(f"{part.strip()[:40]!r} is not a plain integer from 0 to 2^53", name)
        numbers.append(int(digits[1]))
    return tuple(numbers), match.end()


def _string(text: str, at: int, name: str | None, longest: int | None = None) -> tuple[str, int]:
    match = _STRING.match(text, _skip(text, at))
    if match is None:
        raise Flaw(f"a string was expected at character {at} of the header", name)
    start, end = match.span()
    if longest is not None and end - start > longest:
        raise Flaw(f"it is longer than the {longest} characters allowed", name)
    if text.find("\\", start, end) < 0:
        return text[start + 1 : end - 1], end
    value = _unescape(match[0])
    if value is None:
        raise Flaw(f"the string at character {at} of the header is not sound JSON or Unicode", name)
    return value, end


def _unescape(token: str) -> str | None:
    """Return the string of a JSON token; None for a bad escape, or half a surrogate pair."""
    try:
        value = str(json.loads(token))
    except ValueError:
        return None
    return None if _SURROGATE.search(value) else value


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _peek(text: str, at: int) -> str:
    at = _skip(text, at)
    return text[at : at + 1]


def _mark(text: str, at: int, char: str, name: str | None = None) -> int:
    at = _skip(text, at)
    if text[at : at + 1] != char:
        raise Flaw(f"'{char}' was expected at character {at} of the header", name)
    return at + 1


def _next(text: str, at: int, name: str) -> tuple[bool, int]:
    """Step over a comma, or find that the object ends here: (whether it ends, the next character)."""
    if _peek(text, at) == "}":
        return True, at
    return False, _mark(text, at, ",", name)
