"""The layout of a patch file, and what its header must say. Only the standard library is used.

    <name>.bitmask   U8 [ceil(N/8)]      when 32 * nnz >= N; bit i is byte i // 8, bit i % 8, padding bits 0
    <name>.indices   I32 [nnz]           otherwise (I64 when N > 2^31 - 1), strictly increasing
    <name>.values    BF16|F16|F32 [nnz]  the task direction where the mask is set, in flat-index order

Metadata, all strings: format, version, base, drop_bottom, drop_top, granularity, value_dtype, tensors.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from registry.breadcrumbs.formats.header import FLOATS, Entry, Flaw, Header, Limits, TensorSpec, quote, show
from registry.breadcrumbs.formats.header_reader import parse_entries
from registry.breadcrumbs.formats.recipe import normalise_decimal
from registry.errors import InvalidInput, InvalidRequest
from registry.files.names import WEIGHTS_DIGEST

METADATA_KEYS = ("base", "drop_bottom", "drop_top", "format", "granularity", "tensors", "value_dtype", "version")
GRANULARITIES = ("tensor", "row")
VALUE_DTYPES = ("auto", "BF16", "F16", "F32")
_WEIGHTS = re.compile(WEIGHTS_DIGEST)

EntryLayout = tuple[str, str, tuple[int, ...]]
"""Name, dtype and shape of an entry."""


@dataclass(frozen=True)
class MaskParams:
    """How a mask is chosen and its values are stored; decimals are normalised.

    Args:
        drop_bottom: Fraction of each group dropped for being small (the paper's beta, as a fraction).
        drop_top: Fraction dropped for being large (1 - gamma in the paper's text).
        granularity: `tensor` or `row`: what a group is.
        value_dtype: `auto` for the base tensor's (F64 becomes F32), or BF16, F16, F32.

    Raises:
        InvalidRequest: A decimal or choice is out of bounds.
    """

    drop_bottom: str = "0.85"
    drop_top: str = "0.007"
    granularity: str = "tensor"
    value_dtype: str = "auto"

    def __post_init__(self) -> None:
        for field in ("drop_bottom", "drop_top"):
            object.__setattr__(self, field, normalise_decimal(getattr(self, field), field))
            if Fraction(getattr(self, field)) < 0:
                raise InvalidRequest(f"{field} is {getattr(self, field)}; it must not be negative.", field=field)
        if Fraction(self.drop_bottom) + Fraction(self.drop_top) >= 1:
            raise InvalidRequest(
                f"drop_bottom {self.drop_bottom} and drop_top {self.drop_top} drop everything; "
                "their sum must be below 1.",
                field="drop_bottom",
            )
        for field, allowed in (("granularity", GRANULARITIES), ("value_dtype", VALUE_DTYPES)):
            if getattr(self, field) not in allowed:
                shown = repr(getattr(self, field))[:60]
                raise InvalidRequest(f"{field} is {shown}; choose one of {', '.join(allowed)}.", field=field)


@dataclass(frozen=True)
class PatchInfo:
    """What a patch file says of itself.

    Args:
        base: Weights digest of the base that it is for.
        params: How it was made.
        tensors: The base tensors that it touches, in name order.
        nnz: How many elements of each it changes.
        size: Bytes of the file.
        sha256: The file's sha256; None where it is not known.
    """

    base: str
    params: MaskParams
    tensors: dict[str, TensorSpec]
    nnz: dict[str, int]
    size: int
    sha256: str | None = None


def layout(name: str, spec: TensorSpec, nnz: int, params: MaskParams) -> list[EntryLayout]:
    """Return the two entries that hold a tensor's mask and values, as (name, dtype, shape).

    Args:
        name, spec: The tensor.
        nnz: How many of its elements are changed.
        params: How values are stored.
    """
    dtype = params.value_dtype
    if dtype == "auto":
        dtype = "F32" if spec.dtype == "F64" else spec.dtype
    return place_values(name, spec.numel, nnz, dtype)


def place_values(name: str, size: int, nnz: int, dtype: str) -> list[EntryLayout]:
    """Return the two entries for values of `nnz` out of `size` elements, as (name, dtype, shape)."""
    if 32 * nnz >= size:
        mask = (f"{name}.bitmask", "U8", ((size + 7) // 8,))
    else:
        mask = (f"{name}.indices", "I32" if size <= 2**31 - 1 else "I64", (nnz,))
    return [mask, (f"{name}.values", dtype, (nnz,))]


def format_metadata(base: str, params: MaskParams, tensors: Mapping[str, TensorSpec]) -> dict[str, str]:
    """Return a patch's metadata."""
    return {
        "format": "breadcrumb-patch",
        "version": "1",
        "base": base,
        "drop_bottom": params.drop_bottom,
        "drop_top": params.drop_top,
        "granularity": params.granularity,
        "value_dtype": params.value_dtype,
        "tensors": format_tensors(tensors),
    }


def format_tensors(tensors: Mapping[str, TensorSpec]) -> str:
    """Return the `tensors` metadata: compact JSON, keys sorted, UTF-8 unescaped."""
    return f"{{{','.join(_format_tensor(name, tensors[name]) for name in sorted(tensors))}}}"


def _format_tensor(name: str, spec: TensorSpec) -> str:
    return f'{quote(name)}:{{"dtype":"{spec.dtype}","shape":[{",".join(map(str, spec.shape))}]}}'


def read_info(header: Header, size: int, limits: Limits) -> PatchInfo:
    """Check everything that a patch's header says, without comparing it with a base.

    Args:
        header: The header.
        size: Bytes of the file.
        limits: What the metadata may hold.

    Raises:
        Flaw: The header breaks a rule.
    """
    metadata = header.metadata
    if "format" not in metadata and "base" not in metadata:
        raise Flaw("it is safetensors, but not a breadcrumb patch; make one with `crumb diff`")
    if metadata.get("format") == "breadcrumb-delta":
        raise Flaw("it is a delta between two revisions, and not a patch; `crumb apply-delta` takes it")
    for key in METADATA_KEYS:
        if key not in metadata:
            raise Flaw(f"the metadata has no {key}", "__metadata__")
    for key in metadata:
        if key not in METADATA_KEYS:
            raise Flaw(f"metadata key {show(key)} is unknown", "__metadata__")
    if metadata["format"] != "breadcrumb-patch":
        raise Flaw(f"format is {show(metadata['format'])} and not breadcrumb-patch", "__metadata__")
    if metadata["version"] != "1":
        raise Flaw(f"version is {show(metadata['version'])}, and this program reads 1", "__metadata__")
    if not _WEIGHTS.fullmatch(metadata["base"]):
        raise Flaw("base is not a weights digest, sha256: and 64 lowercase hex digits", "__metadata__")
    fields = {key: metadata[key] for key in ("drop_bottom", "drop_top", "granularity", "value_dtype")}
    try:
        params = MaskParams(**fields)
    except InvalidInput as problem:
        raise Flaw(problem.message.rstrip("."), "__metadata__") from None
    for key, text in fields.items():
        if text != getattr(params, key):
            raise Flaw(f"{key} is {show(text)}, which must be written {getattr(params, key)}", "__metadata__")
    tensors = read_tensors(metadata["tensors"], limits)
    if not tensors:
        raise Flaw("it changes no tensor", "__metadata__")
    nnz = {name: _count_values(name, spec, header.entries, params) for name, spec in tensors.items()}
    if len(header.entries) != 2 * len(tensors):
        known = {f"{name}.{part}" for name in tensors for part in ("bitmask", "indices", "values")}
        extra = [entry for entry in header.entries if entry not in known]
        raise Flaw("it belongs to none of the tensors that the metadata names", extra[0] if extra else None)
    return PatchInfo(metadata["base"], params, tensors, nnz, size)


def read_tensors(text: str, limits: Limits) -> dict[str, TensorSpec]:
    """Parse the `tensors` metadata, as `format_tensors` writes it.

    Raises:
        Flaw: The text is not that.
    """
    specs: dict[tuple[str, tuple[int, ...]], TensorSpec] = {}

    def make(name: str, dtype: str, shape: tuple[int, ...], _: tuple[int, ...]) -> TensorSpec:
        return specs.setdefault((dtype, shape), TensorSpec(dtype, shape))  # one for all that are alike

    try:
        tensors, _, end = parse_entries(text, ("dtype", "shape"), limits, make)
    except Flaw as flaw:
        where = f"metadata tensors, {show(flaw.entry)}" if flaw.entry is not None else "metadata tensors"
        raise Flaw(f"{where}: {flaw.rule}", "__metadata__") from None
    if end != len(text) or not _is_canonical(tensors, text):
        raise Flaw("metadata tensors is not compact JSON with sorted keys, unescaped", "__metadata__")
    return tensors


def _is_canonical(tensors: Mapping[str, TensorSpec], text: str) -> bool:
    """Say whether a text is what `format_tensors` returns, tensor by tensor: the whole would take as much again."""
    at, before = 1, ""
    for name, spec in tensors.items():
        piece = _format_tensor(name, spec)
        if name < before or not text.startswith(piece, at):
            return False
        at, before = at + len(piece) + 1, name  # a comma, or the end
    return at == len(text) if tensors else text == "{}"


def _count_values(name: str, spec: TensorSpec, entries: Mapping[str, Entry], params: MaskParams) -> int:
    """Return a tensor's number of values, after checking its two entries against the layout for that number."""
    if spec.dtype not in FLOATS:
        raise Flaw(f"metadata tensors: {show(name)} is {spec.dtype}, and only floating-point tensors are patched", name)
    return count_values(name, spec.numel, entries, lambda nnz: layout(name, spec, nnz, params))


def count_values(
    name: str, size: int, entries: Mapping[str, Entry], expected: Callable[[int], list[EntryLayout]]
) -> int:
    """Return how many values a tensor of `size` elements has, after checking its two entries.

    Args:
        name: The tensor.
        size: Its elements.
        entries: All entries of the file.
        expected: Returns the two entries for a number of values.

    Raises:
        Flaw: An entry is missing, or is not as expected.
    """
    values = entries.get(f"{name}.values")
    if values is None:
        raise Flaw("it is missing, and the metadata names its tensor", f"{name}.values")
    if len(values.shape) != 1:
        raise Flaw(f"its shape is {list(values.shape)}, and values have one dimension", values.name)
    nnz = values.shape[0]
    if not 1 <= nnz <= size:
        raise Flaw(
            f"it has {nnz} values, and its tensor has {size} elements; there must be 1 to {size} values",
            values.name,
        )
    kinds = [kind for kind in ("bitmask", "indices") if f"{name}.{kind}" in entries]
    for wanted, dtype, shape in expected(nnz):
        entry = entries.get(wanted)
        if entry is None:
            if not kinds:
                raise Flaw("it is missing; every mask has its values and every values their mask", wanted)
            raise Flaw(
                f"{nnz} of {size} elements are stored as {wanted.rsplit('.', 1)[1]} "
                "(a bitmask when 32 * nnz >= N, indices otherwise)",
                f"{name}.{kinds[0]}",
            )
        if entry.dtype != dtype:
            raise Flaw(f"its dtype is {entry.dtype}, and must be {dtype}", wanted)
        if entry.shape != shape:
            raise Flaw(f"its shape is {list(entry.shape)}, and must be {list(shape)}", wanted)
    if len(kinds) > 1:
        raise Flaw("it has both a bitmask and indices", f"{name}.{kinds[1]}")
    return nnz
