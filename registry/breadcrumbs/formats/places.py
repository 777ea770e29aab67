"""Places: where the parts of a patch lie while it is written, and whether readers take the header that comes before.

    planned    header | mask, values | mask, values | ...     as if every tensor kept as much as it may
    settled    header | mask, values | mask, values | ...     what turned out smaller is moved up while it is hashed

The header is at most as long as planned, but for a character more where a bitmask turns into indices.
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from registry.breadcrumbs.formats.blocks import HASH_BYTES
from registry.breadcrumbs.formats.header import DTYPES, PATCH_LIMITS, TensorSpec, format_header, format_strings
from registry.breadcrumbs.formats.layout import MaskParams, format_metadata, layout
from registry.errors import InvalidPatch
from registry.files.copying import copy_range, read_at, write_at

REMEDY = "leave tensors out with exclude, or make several patches, each of some tensors with include"


def patch_header(tensors: Mapping[str, TensorSpec], nnz: Mapping[str, int], digest: str, params: MaskParams) -> bytes:
    """Return the header of a patch.

    Args:
        tensors: dtype and shape of the tensors of the base, more of them than are patched.
        nnz: How many elements are kept of each tensor that is patched, in name order.
        digest: Weights digest of the base.
        params: How the patch is made.

    Raises:
        InvalidPatch: Readers do not take so long a header.
    """
    specs = {name: tensors[name] for name in nnz}
    require_entries(len(specs))
    metadata = format_metadata(digest, params, specs)
    entries = [entry for name, spec in specs.items() for entry in layout(name, spec, nnz[name], params)]
    written = format_header(entries, metadata)
    for what, size, most in (
        ("a header of", len(written) - 8, PATCH_LIMITS.header_bytes),
        ("metadata of", len(format_strings(metadata)), PATCH_LIMITS.metadata_bytes),
    ):
        if size > most:
            raise InvalidPatch(
                f"A patch of {len(specs):,} tensors has {what} {size:,} bytes, and readers take {most:,}; {REMEDY}."
            )
    return written


def require_entries(tensors: int) -> None:
    """Refuse more tensors than readers take entries for; each has two.

    Raises:
        InvalidPatch: There are too many.
    """
    if 2 * tensors > PATCH_LIMITS.entries:
        raise InvalidPatch(
            f"A patch of {tensors:,} tensors has {2 * tensors:,} entries, and readers take {PATCH_LIMITS.entries:,}; "
            f"{REMEDY}."
        )


def plan(tensors: Mapping[str, TensorSpec], most: Mapping[str, int], params: MaskParams) -> dict[str, int]:
    """Return the byte at which each tensor's mask begins in the file, if all tensors keep as much as they may.

    Args:
        tensors: dtype and shape of the tensors of the base.
        most: How many elements each tensor that is compared may keep, in name order.
        params: How the patch is made.

    Raises:
        InvalidPatch: Readers do not take the header of such a patch.
    """
    kept = {name: count for name, count in most.items() if count}
    at, places = len(patch_header(tensors, kept, f"sha256:{'0' * 64}", params)), {}
    for name, count in most.items():
        places[name] = at
        at += sum(shape[0] * DTYPES[dtype] for _, dtype, shape in layout(name, tensors[name], count, params))
    return places


def settle(file: BinaryIO, header: bytes, parts: Sequence[tuple[int, int]], folder: Path) -> tuple[str, int]:
    """Put the header and the parts one after another, and hash the file.

    Args:
        file: Holds the parts; anything else in it is overwritten.
        header: Comes first.
        parts: (place, bytes) of each part, ascending.
        folder: Where a copy may be made for a while.

    Returns:
        sha256 and size of the file.
    """
    with ExitStack() as stack:
        source = file.fileno()
        if len(header) > parts[0][0]:  # longer than planned, as happens when masks turn into indices
            source = stack.enter_context(tempfile.TemporaryFile(dir=folder)).fileno()
            for at, length in parts:
                copy_range(file.fileno(), source, at, at + length, at)
        digest, to = hashlib.sha256(header), len(header)
        write_at(file.fileno(), memoryview(header), 0)
        buffer = memoryview(bytearray(HASH_BYTES))
        for at, length in parts:
            for start in range(at, at + length, HASH_BYTES):
                view = buffer[: min(HASH_BYTES, at + length - start)]
                read_at(source, view, start)
                digest.update(view)
                if source != file.fileno() or start != to:  # in one file to < start: nothing unread is overwritten
                    write_at(file.fileno(), view, to)
                to += len(view)
        os.ftruncate(file.fileno(), to)
    return digest.hexdigest(), to
