"""Direct reading: parts of files that go from the disk to the GPU by GPUDirect Storage, past the processors.

kvikio does it, where it is installed and the system can. Parts may begin and end anywhere; kvikio sees to pages.
"""

import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self

import torch

from registry.errors import InvalidInput


class DirectReader:
    """Reads files that are open; use it with `with`, no longer than they are.

    Args:
        kvikio: The library.
    """

    def __init__(self, kvikio: Any) -> None:
        self._kvikio, self._lock, self._opened = kvikio, threading.Lock(), ExitStack()
        self._files: dict[int, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def read(self, parts: Iterable[Sequence[int]], there: torch.Tensor) -> None:
        """Read parts, and wait until all of them are there; nothing else may use their places meanwhile.

        Args:
            parts: Of each: descriptor of the file, offset in the file, offset in `there`, bytes.
            there: uint8, on the GPU.

        Raises:
            InvalidInput: A file has become shorter since it was opened.
            RuntimeError: The disk or the system cannot do it.
        """
        begun: list[tuple[Any, int]] = []
        short = False
        try:
            for file, at, to, length in parts:
                begun.append((self._open(file).pread(there[to : to + length], length, at), length))
        finally:  # none may write into the memory after this, whatever became of the others
            while begun:
                future, length = begun.pop()
                try:
                    short |= future.get() != length
                except BaseException:
                    for other, _ in begun:
                        with suppress(Exception):
                            other.get()
                    raise
        if short:
            raise InvalidInput("A patch or the base became shorter while it was read; fetch it again.")

    def _open(self, file: int) -> Any:
        """Return kvikio's handle of a file, which opens it once more, past the page cache."""
        with self._lock:
            if file not in self._files:
                self._files[file] = self._opened.enter_context(self._kvikio.CuFile(f"/proc/self/fd/{file}", "r"))
            return self._files[file]


def open_direct_reader(device: torch.device) -> DirectReader | None:
    """Return a reader; None where files would take the way through the processors' memory all the same."""
    if device.type != "cuda":
        return None
    try:
        import kvikio
        import kvikio.cufile_driver
        import kvikio.defaults
    except (ImportError, OSError):  # of the libraries that it needs itself
        return None
    try:
        possible = kvikio.cufile_driver.properties.is_gds_available
        compatible = kvikio.defaults.compat_mode() == kvikio.CompatMode.ON
    except RuntimeError:  # the driver cannot be opened
        return None
    return DirectReader(kvikio) if possible and not compatible else None
