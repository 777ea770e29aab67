"""A patch file, opened: everything that its header says is checked, its data is read where it is wanted.

layout.py says what is in it, diff.py writes it.
"""

import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import torch

from registry.breadcrumbs.formats.checkpoint import TORCH, read_bytes
from registry.breadcrumbs.formats.header import DTYPES, PATCH_LIMITS, Entry, Flaw, Header, Limits, read_header
from registry.breadcrumbs.formats.layout import PatchInfo, read_info
from registry.errors import InvalidPatch


class Patch:
    """A patch file open for reading; make one with `open_patch`, close it or use `with`.

    Attributes:
        info: What the file says of itself.
    """

    def __init__(self, file: BinaryIO, header: Header, info: PatchInfo) -> None:
        self.info = info
        self._file = file
        self._entries = header.entries

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def mask_entry(self, name: str) -> Entry:
        """Return the entry that holds a tensor's mask, `<name>.bitmask` or `<name>.indices`."""
        return self._entries.get(f"{name}.bitmask") or self._entries[f"{name}.indices"]

    def read_entry(self, entry: str, start: int, stop: int) -> torch.Tensor:
        """Read elements of an entry, [stop - start] of its dtype, into fresh memory."""
        found = self._entries[entry]
        width = DTYPES[found.dtype]
        raw = read_bytes(self._file, found.start + start * width, (stop - start) * width, "The patch", InvalidPatch)
        return raw.view(TORCH[found.dtype])

    def fileno(self) -> int:
        """Return the descriptor of the file."""
        return self._file.fileno()

    def value_entry(self, name: str) -> Entry:
        """Return the entry that holds a tensor's values."""
        return self._entries[f"{name}.values"]

    def read_file(self, start: int, stop: int) -> torch.Tensor:
        """Read the file's own bytes: uint8 [stop - start]."""
        return read_bytes(self._file, start, stop - start, "The patch", InvalidPatch)


def called(path: Path) -> str:
    """Return what messages call a patch file: its name, unless it is stored under its digest."""
    return f"The patch {path.name}" if path.suffix else "The patch"


def open_patch(path: Path, limits: Limits = PATCH_LIMITS) -> Patch:
    """Open a patch file, checking everything that its header says; the data is checked by `check_patch`.

    Raises:
        InvalidPatch: It breaks a rule; the message names the entry and the rule.
    """
    file = path.open("rb", buffering=0)
    try:
        size = os.fstat(file.fileno()).st_size
        header = read_header(file, size, called(path), limits, InvalidPatch)
        try:
            return Patch(file, header, read_info(header, size, limits))
        except Flaw as flaw:
            raise flaw.told(called(path), InvalidPatch) from None
    except BaseException:
        file.close()
        raise
