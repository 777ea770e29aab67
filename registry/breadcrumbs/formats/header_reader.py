"""The strict reader of headers: it takes one grammar and nothing else. Only the standard library is used.

The `safetensors` library accepts more than its specification allows (duplicate names, unknown fields, any rank), and
two readers that disagree about one file are how scanners get fooled. What this parser accepts, the library accepts too,
and both see the same tensors.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import BinaryIO

from registry.breadcrumbs.formats.header import BITS, MAX_ELEMENTS, Entry, Flaw, Header, Limits, show
from registry.errors import InvalidInput


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
                f"its header claims {length} bytes, and the file has {size}; it is truncated, or not safetensors"
            )
        if length > limits.header_bytes:
            raise Flaw(f"its header has {length} bytes, more than the {limits.header_bytes} allowed")
        raw = file.read(length)
        if len(raw) < length:
            raise Flaw("it ends inside its header")
        if raw[:1] != b"{":
            raise Flaw("its header does not start with '{'")
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as problem:
            raise Flaw(f"its header is not UTF-8 at byte {problem.start}") from None
        entries, metadata, end = parse_entries(text, ("dtype", "shape", "data_offsets"), limits)
        if text[end:].strip(" "):
            raise Flaw("its header is followed by something other than spaces")
        return Header(_place_entries(entries, size - 8 - length, 8 + length), metadata, 8 + length)
    except Flaw as flaw:
        raise flaw.as_error(what, error) from None


def _place_entries(
    parsed: Mapping[str, Mapping[str, str | tuple[int, ...]]], room: int, origin: int
) -> dict[str, Entry]:
    """Return the entries in the order of their data, having checked that they fill it without gap or overlap.

    Args:
        parsed: The fields of each entry.
        room: Bytes of data in the file.
        origin: The byte of the file at which the data starts.
    """
    entries = []
    for name, fields in parsed.items():
        dtype, shape, offsets = str(fields["dtype"]), fields["shape"], fields["data_offsets"]
        assert isinstance(shape, tuple) and isinstance(offsets, tuple)
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
        entries.append(Entry(name, dtype, shape, start, stop))
    entries.sort(key=lambda entry: (entry.start, entry.stop))
    at = 0
    for entry in entries:
        if entry.start != at:
            raise Flaw(f"its data starts at {entry.start} and not at {at}; data has no gap and no overlap", entry.name)
        at = entry.stop
    if at != room:
        raise Flaw(f"its tensors take {at} bytes, and the file holds {room} bytes of data")
    return {e.name: Entry(e.name, e.dtype, e.shape, e.start + origin, e.stop + origin) for e in entries}


_SPACE = re.compile(r"[ \t\n\r]*+")
_STRING = re.compile(r'"[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+"')
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


def parse_entries(
    text: str, fields: tuple[str, ...], limits: Limits
) -> tuple[dict[str, dict[str, str | tuple[int, ...]]], dict[str, str], int]:
    """Parse a JSON object of `{name: {field: dtype or integers}}`, and `__metadata__` where the fields are a header's.

    Args:
        text: The JSON text.
        fields: The fields that each entry must have, in any order, and no others; "dtype" is a dtype code, the
            rest are lists of integers.
        limits: What the text may hold.

    Returns:
        The entries, the metadata, and where the object ends in the text.

    Raises:
        Flaw: The text breaks a rule.
    """
    entries: dict[str, dict[str, str | tuple[int, ...]]] = {}
    metadata: dict[str, str] | None = None
    at = _mark(text, 0, "{")
    closed = _peek(text, at) == "}"
    usual = _USUAL[fields]
    while not closed:
        match = usual.match(text, at)
        if match is not None and match[1] not in entries and match[1] != "__metadata__":
            entry = _usual_entry(match, limits)
            if entry is not None and len(entries) < limits.entries:
                entries[match[1]] = entry
                closed, at = _next(text, match.end(), match[1])
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
            entries[name], at = _entry(text, at, name, fields, limits)
        closed, at = _next(text, at, name)
    return entries, metadata or {}, _mark(text, at, "}")


def _usual_entry(match: re.Match[str], limits: Limits) -> dict[str, str | tuple[int, ...]] | None:
    """Return the fields of an entry, or None where one breaks a rule: parsing token by token then says which."""
    _, dtype, shape, start, stop = match.groups()
    lengths = tuple(map(int, shape.split(","))) if shape else ()
    sound = dtype in BITS and len(lengths) <= limits.rank and math.prod(n or 1 for n in lengths) <= MAX_ELEMENTS
    if not sound:
        return None
    if not stop:
        return {"dtype": dtype, "shape": lengths}
    return {"dtype": dtype, "shape": lengths, "data_offsets": (int(start), int(stop))}


def _entry(
    text: str, at: int, name: str, fields: tuple[str, ...], limits: Limits
) -> tuple[dict[str, str | tuple[int, ...]], int]:
    values: dict[str, str | tuple[int, ...]] = {}
    at = _mark(text, at, "{", name)
    closed = _peek(text, at) == "}"
    while not closed:
        field, at = _string(text, at, name)
        if field not in fields:
            raise Flaw(f"field {show(field)} is unknown; an entry has exactly {', '.join(fields)}", name)
        if field in values:
            raise Flaw(f"field {field} occurs twice", name)
        at = _mark(text, at, ":", name)
        if field == "dtype":
            dtype, at = _string(text, at, name)
            if dtype not in BITS:
                raise Flaw(f"dtype {show(dtype)} is unknown", name)
            values[field] = dtype
        else:
            values[field], at = _integers(text, at, name, limits)
        closed, at = _next(text, at, name)
    if len(values) != len(fields):
        missing = ", ".join(field for field in fields if field not in values)
        raise Flaw(f"it has no {missing}", name)
    shape = values["shape"]
    # A zero beside a giant (2^62 x 0) is legal arithmetic and an overflow in somebody's code.
    if math.prod(int(length) or 1 for length in shape) > MAX_ELEMENTS:
        raise Flaw("its shape has too many elements", name)
    return values, _mark(text, at, "}", name)


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
        values[key], at = _string(text, at, "__metadata__")
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


def _string(text: str, at: int, name: str | None) -> tuple[str, int]:
    match = _STRING.match(text, _skip(text, at))
    if match is None:
        raise Flaw(f"a string was expected at character {at} of the header", name)
    token = match[0]
    if "\\" not in token:
        return token[1:-1], match.end()
    try:
        value = json.loads(token)
        value.encode("utf-8")
    except ValueError:  # a bad escape, or half a surrogate pair
        raise Flaw(f"the string at character {at} of the header is not sound JSON or Unicode", name) from None
    return str(value), match.end()


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
