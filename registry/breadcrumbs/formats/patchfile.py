"""Patch files: opened after checking everything that the header says; their data is read where it is wanted.

layout.py says what is in a patch file, diff.py writes one, check.py checks its data.
"""

import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from registry.breadcrumbs.formats.blocks import fill
from registry.breadcrumbs.formats.header import PATCH_LIMITS, Entry, Flaw, Header, Limits
from registry.breadcrumbs.formats.header_reader import read_header
from registry.breadcrumbs.formats.layout import PatchInfo, read_info
from registry.errors import InvalidPatch
from registry.files.collector import paused_collector
from registry.files.descriptors import open_to_read


class Patch:
    """A patch file open for reading; open one with `open_patch`, and close it or use `with`.

    Attributes:
        info: What the file says of itself.
        header: Its header.
    """

    def __init__(self, file: BinaryIO, header: Header, info: PatchInfo) -> None:
        self.info = info
        self.header = header
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

    def fileno(self) -> int:
        """Return the descriptor of the file."""
        return self._file.fileno()

    def mask_entry(self, name: str) -> Entry:
        """Return the entry that holds a tensor's mask, `<name>.bitmask` or `<name>.indices`."""
        return self._entries.get(f"{name}.bitmask") or self._entries[f"{name}.indices"]

    def value_entry(self, name: str) -> Entry:
        """Return the entry that holds a tensor's values."""
        return self._entries[f"{name}.values"]

    def dtype_of(self, entry: str) -> str:
        """Return the dtype of an entry."""
        return self._entries[entry].dtype

    def fill(self, view: memoryview, entry: str, start: int) -> None:
        """Fill a view with the bytes of an entry from byte `start` on; errors as of `fill_from_file`."""
        self.fill_from_file(view, self._entries[entry].start + start)

    def fill_from_file(self, view: memoryview, at: int) -> None:
        """Fill a view with the file's own bytes from byte `at` on.

        Raises:
            InvalidPatch: The file has become shorter since it was opened.
        """
        fill(view, self._file.fileno(), at, "The patch", InvalidPatch)


def called(path: Path) -> str:
    """Return what messages call a patch file: its name, unless it is stored under its digest."""
    return f"The patch {path.name}" if path.suffix else "The patch"


@paused_collector()
def open_patch(path: Path, limits: Limits = PATCH_LIMITS) -> Patch:
    """Open a patch file, checking everything that its header says; the data is checked by `check_patch`.

    Args:
        path: The file.
        limits: What its header may cost.

    Returns:
        The patch; close it.

    Raises:
        InvalidPatch: The file breaks a rule; the message names the entry and the rule.
        TooManyFiles: The process may not open that many.
    """
    file = open_to_read(path)
    try:
        size = os.fstat(file.fileno()).st_size
        header = read_header(file, size, called(path), limits, InvalidPatch)
        try:
            return Patch(file, header, read_info(header, size, limits))
        except Flaw as flaw:
            raise flaw.as_error(called(path), InvalidPatch) from None
    except BaseException:
        file.close()
        raise
