"""Delta files: what is in one, opened after checking all that the header says. Only the standard library is used.

    <tensor>.bitmask or .indices                which elements differ, as in a patch (formats/layout.py)
    <tensor>.values                             what the later revision has there, bit for bit, in the tensor's dtype
    <tensor>.steps.bitmask or .steps.indices    which elements of two bytes differ by little
    <tensor>.steps.values    I8                 what is added to their bits, taken as integers, modulo 2^16
    <path>.file              U8 [bytes]         a file beside the weights that the later has, and the earlier has not

Steps are for a changed alpha, which moves most elements by some units in the last place: then they take fewer bytes
than values. Where they would not, all elements that differ are in `values`; elements are in one of the two.

Metadata, all strings: format, version; model, before_ref, after_ref, which may be empty; before and after, the weights
digests; tensors, as in a patch, those that differ; files: JSON {path: [sha256 before, sha256 after]}, compact, keys
sorted, of all files of both revisions, an empty text where one does not have the file.

An element of a dtype of less than a byte cannot be stored alone: of such tensors bytes are compared.
"""

import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from registry.breadcrumbs.formats.blocks import fill
from registry.breadcrumbs.formats.header import DTYPES, PATCH_LIMITS, Entry, Flaw, Header, Limits, TensorSpec, show
from registry.breadcrumbs.formats.header_reader import read_header
from registry.breadcrumbs.formats.layout import EntryLayout, count_values, format_tensors, place_values, read_tensors
from registry.errors import InvalidPatch, InvalidRequest
from registry.files.beside import COMPANION
from registry.files.collector import paused_collector
from registry.files.descriptors import open_to_read
from registry.files.folders import check_paths, is_weights
from registry.files.names import HEX256, MODEL, WEIGHTS_DIGEST

FORMAT = "breadcrumb-delta"
KEYS = ("after", "after_ref", "before", "before_ref", "files", "format", "model", "tensors", "version")

FILES_LENGTH = 8_000_000
"""Most characters of the `files` metadata, which is parsed whole: 20,000 files with the longest paths."""

_PATTERNS = {
    "before": WEIGHTS_DIGEST,
    "after": WEIGHTS_DIGEST,
    "model": rf"(?:{MODEL})?",
    "before_ref": r"(?:[A-Za-z0-9][A-Za-z0-9._:-]{0,99})?",
    "after_ref": r"(?:[A-Za-z0-9][A-Za-z0-9._:-]{0,99})?",
}
_SHA256 = re.compile(rf"(?:{HEX256})?")


@dataclass(frozen=True)
class Ends:
    """The two revisions that a delta lies between.

    Args:
        before, after: Their weights digests.
        files: sha256 of each file of one of them before and after; an empty text where one does not have it.
        model: NS/NAME; empty where that is not known.
        before_ref, after_ref: What the revisions are called at the registry; empty where that is not known.
    """

    before: str
    after: str
    files: Mapping[str, tuple[str, str]]
    model: str = ""
    before_ref: str = ""
    after_ref: str = ""

    @property
    def carried(self) -> list[str]:
        """The paths of the files that a delta holds whole."""
        pairs = self.files.items()
        whole = (path for path, (old, new) in pairs if new and new != old)
        return [path for path in whole if path == COMPANION or not is_weights(path)]


@dataclass(frozen=True)
class DeltaInfo:
    """What a delta file says of itself.

    Args:
        ends: The two revisions.
        tensors: The tensors that differ, in name order.
        nnz: In how many elements each of them differs.
        size: Bytes of the file.
    """

    ends: Ends
    tensors: dict[str, TensorSpec]
    nnz: dict[str, int]
    size: int


def units(spec: TensorSpec) -> tuple[int, str]:
    """Return how many elements of a tensor are compared, and their dtype: bytes where an element has less than one."""
    return (spec.numel, spec.dtype) if spec.dtype in DTYPES else (spec.bytes, "U8")


def lay_out(name: str, spec: TensorSpec, whole: int, near: int) -> list[EntryLayout]:
    """Return the entries of a tensor of which so many elements are given whole, and so many by steps."""
    size, dtype = units(spec)
    first = place_values(name, size, whole, dtype) if whole else []
    return [*first, *(place_values(steps_of(name), size, near, "I8") if near else [])]


def takes_steps(name: str, spec: TensorSpec, names: Collection[str]) -> bool:
    """Return whether steps may say what differs in a tensor: its elements have two bytes, no tensor has their name."""
    return DTYPES[units(spec)[1]] == 2 and steps_of(name) not in names


def steps_of(name: str) -> str:
    """Return what the names of the entries begin with that are about a tensor's steps."""
    return f"{name}.steps"


def format_metadata(ends: Ends, tensors: Mapping[str, TensorSpec]) -> dict[str, str]:
    """Return a delta's metadata."""
    return {
        "format": FORMAT,
        "version": "1",
        "model": ends.model,
        "before_ref": ends.before_ref,
        "after_ref": ends.after_ref,
        "before": ends.before,
        "after": ends.after,
        "tensors": format_tensors(tensors),
        "files": _format_files(ends.files),
    }


def _format_files(files: Mapping[str, tuple[str, str]]) -> str:
    return json.dumps({path: list(files[path]) for path in sorted(files)}, separators=(",", ":"))


def read_info(header: Header, size: int, limits: Limits) -> DeltaInfo:
    """Check everything that a delta's header says, without comparing it with a model.

    Args:
        header: The header.
        size: Bytes of the file.
        limits: What the metadata may hold.

    Raises:
        Flaw: The header breaks a rule.
    """
    metadata, entries = header.metadata, header.entries
    if metadata.get("format") != FORMAT:
        raise Flaw("it is safetensors, but not a delta; make one with `crumb delta`")
    if metadata.get("version") != "1":
        raise Flaw(f"version is {show(str(metadata.get('version')))}, and this program reads 1", "__metadata__")
    if missing := [key for key in KEYS if key not in metadata]:
        raise Flaw(f"the metadata has no {missing[0]}", "__metadata__")
    if unknown := [key for key in metadata if key not in KEYS]:
        raise Flaw(f"metadata key {show(unknown[0])} is unknown", "__metadata__")
    for key, pattern in _PATTERNS.items():
        if re.fullmatch(pattern, metadata[key], re.ASCII) is None:
            raise Flaw(f"{key} is {show(metadata[key])}, which it cannot be", "__metadata__")
    named = {key: metadata[key] for key in _PATTERNS}
    ends = Ends(files=_read_files(metadata["files"]), **named)
    tensors = read_tensors(metadata["tensors"], limits)
    nnz = {name: _count(name, spec, tensors, entries) for name, spec in tensors.items()}
    for path in ends.carried:
        entry = entries.get(f"{path}.file")
        if entry is None or entry.dtype != "U8" or len(entry.shape) != 1:
            raise Flaw("it is not there as U8 of one dimension, and the metadata names its file", f"{path}.file")
    begun = {name for tensor in tensors for name in (tensor, steps_of(tensor))}
    if len(entries) != 2 * sum(f"{name}.values" in entries for name in begun) + len(ends.carried):
        known = {f"{name}.{part}" for name in begun for part in ("bitmask", "indices", "values")}
        extra = [name for name in entries if name not in known | {f"{path}.file" for path in ends.carried}]
        raise Flaw("it belongs to nothing that the metadata names", extra[0] if extra else None)
    return DeltaInfo(ends, tensors, nnz, size)


def _count(name: str, spec: TensorSpec, names: Collection[str], entries: Mapping[str, Entry]) -> int:
    size, near, whole = units(spec)[0], 0, 0
    if takes_steps(name, spec, names) and f"{steps_of(name)}.values" in entries:
        near = count_values(steps_of(name), size, entries, lambda nnz: lay_out(name, spec, 0, nnz))
    if not near or f"{name}.values" in entries:
        whole = count_values(name, size, entries, lambda nnz: lay_out(name, spec, nnz, 0))
    return whole + near


def _read_files(text: str) -> dict[str, tuple[str, str]]:
    """Parse the `files` metadata: paths that a model folder may have, and what they hash to before and after."""
    if len(text) > FILES_LENGTH:
        raise Flaw(f"files is longer than the {FILES_LENGTH} characters allowed", "__metadata__")
    try:
        files: Any = json.loads(text)
    except (ValueError, RecursionError):
        files = None
    pairs = files.values() if isinstance(files, dict) else [None]
    if not all(isinstance(pair, list) and list(map(type, pair)) == [str, str] for pair in pairs):
        raise Flaw("files is not an object of pairs of digests", "__metadata__")
    found = {path: (old, new) for path, (old, new) in files.items()}
    for path, pair in found.items():
        if not any(pair) or not all(_SHA256.fullmatch(sha256) for sha256 in pair):
            raise Flaw(f"files: {show(path)} has no sha256, 64 lowercase hex digits", "__metadata__")
        if is_weights(path) and path != COMPANION and not all(pair):
            raise Flaw(f"files: the weight file {show(path)} is not in both revisions", "__metadata__")
    try:
        check_paths(list(found))
    except InvalidRequest as why:
        raise Flaw(f"files: {why.message.rstrip('.')}", "__metadata__") from None
    if _format_files(found) != text:
        raise Flaw("files is not compact JSON with sorted keys", "__metadata__")
    return found


class Delta:
    """An open delta file; open one with `open_delta`, and use `with`.

    Attributes:
        info: What it says of itself.
        called: What messages call it, at the start of a sentence.
    """

    def __init__(self, file: BinaryIO, header: Header, info: DeltaInfo, called: str) -> None:
        self.info, self.called = info, called
        self._file, self._entries = file, header.entries

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def entry(self, name: str) -> Entry | None:
        """Return an entry, if the file has it."""
        return self._entries.get(name)

    def fill(self, view: memoryview, entry: Entry, start: int) -> None:
        """Fill a view with the bytes of an entry from byte `start` on.

        Raises:
            InvalidPatch: The file has become shorter since it was opened.
        """
        fill(view, self._file.fileno(), entry.start + start, self.called, InvalidPatch)


@paused_collector()
def open_delta(path: Path, limits: Limits = PATCH_LIMITS) -> Delta:
    """Open a delta file, checking everything that its header says; its data is checked where it is applied.

    Args:
        path: The file.
        limits: What its header may cost.

    Raises:
        InvalidPatch: The file breaks a rule; the message names the entry and the rule.
        TooManyFiles: The process may not open that many.
    """
    file, called = open_to_read(path), f"The delta {path.name}"
    try:
        size = os.fstat(file.fileno()).st_size
        header = read_header(file, size, called, limits, InvalidPatch)
        try:
            return Delta(file, header, read_info(header, size, limits), called)
        except Flaw as flaw:
            raise flaw.as_error(called, InvalidPatch) from None
    except BaseException:
        file.close()
        raise
