"""Bases in memory: a base of which the tensors that compositions read are kept in memory, up to a bound.

A file of the cache is kept in memory by the system as long as there is room, so this is for files on a slow disk or
behind a network. A tensor is copied when it is first wanted; what does not fit any more is read from its file.
"""

import os
import threading

from registry.breadcrumbs.composing.writer import READ_BYTES
from registry.breadcrumbs.formats.blocks import blocks, fill
from registry.breadcrumbs.formats.checkpoint import Checkpoint
from registry.breadcrumbs.formats.header import show
from registry.errors import InvalidCheckpoint, InvalidRequest
from registry.files.copying import write_at


class ResidentBase(Checkpoint):
    """A checkpoint whose tensors stay in memory once they were read; close it apart from the one it is made of.

    Args:
        base: The checkpoint, which has to stay open.
        most: Most bytes to keep.

    Raises:
        InvalidRequest: This system has no files in memory.
    """

    def __init__(self, base: Checkpoint, most: int) -> None:
        if not hasattr(os, "memfd_create"):
            raise InvalidRequest(
                'Only Linux keeps a base in memory; leave it in its file with hold="file".', field="hold"
            )
        self.__dict__.update(base.__dict__)
        self._most, self._used, self._lock = most, 0, threading.Lock()
        self._at: dict[str, int] = {}
        self._memory = os.memfd_create("base")

    @property
    def held(self) -> int:
        """How many bytes are kept."""
        return self._used

    def close(self) -> None:
        """Free the memory."""
        os.close(self._memory)

    def place(self, name: str) -> tuple[int, int]:
        """Return the descriptor of the file that holds a tensor, and the byte at which the tensor starts in it."""
        with self._lock:
            if name not in self._at and self._used + self.bytes_of(name) <= self._most:
                self._keep(name)
        return (self._memory, self._at[name]) if name in self._at else super().place(name)

    def _keep(self, name: str) -> None:
        file, at = super().place(name)
        size, start = self.bytes_of(name), self._used
        for first, last in blocks(size, READ_BYTES):
            view = memoryview(bytearray(last - first))
            fill(view, file, at + first, f"The file that holds {show(name)}", InvalidCheckpoint)
            write_at(self._memory, view, start + first)
        self._at[name], self._used = start, start + size
