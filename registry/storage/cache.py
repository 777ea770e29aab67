"""Bytes that are at the Hub and were needed here: kept by sha256, as long as there is room.

    DATA/cache/<sha256>         verified bytes, fetched once
    DATA/cache/<name>.part      on their way; an attempt that was killed is gone on with

Who needs a file holds a shared lock on it, and only what nobody holds is thrown away, the least recently used first. A
lock is on the file, not on its name: whoever has got one looks whether the name still stands for that file.
"""

import fcntl
import os
import re
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from registry.files.durable import sync_folder
from registry.files.names import HEX256
from registry.storage.store import Store

PART = ".part"


@dataclass(frozen=True)
class Cache:
    """The cache of one store; its folder is made when it is first written to."""

    store: Store

    @property
    def folder(self) -> Path:
        """Where it is: on the file system of the blobs."""
        return self.store.root / "cache"

    def path(self, sha256: str) -> Path:
        """Return where a file lies, whether or not it is there."""
        return self.folder / sha256

    def hold(self, stack: ExitStack, digests: Collection[str]) -> list[str]:
        """Keep files from being thrown away until a stack is left; return the digests of those that are not there."""
        return [sha256 for sha256 in sorted(digests) if not self._hold(stack, sha256)]

    def _hold(self, stack: ExitStack, sha256: str) -> bool:
        with suppress(FileNotFoundError), ExitStack() as mine:
            handle = os.open(self.path(sha256), os.O_RDONLY)
            mine.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_SH)  # who throws away holds it for a moment only
            if os.path.samestat(os.fstat(handle), self.path(sha256).stat()):
                os.utime(handle)
                stack.push(mine.pop_all())
                return True
        return False

    @contextmanager
    def partial(self, name: str) -> Iterator[BinaryIO]:
        """Lend the partial file of some bytes, to one process at a time; another one waits.

        Raises:
            StorageFull, StorageFailed: the disk failed.
        """
        path = self.folder / f"{name}{PART}"
        with self.store.writing("the cache"):
            self.folder.mkdir(exist_ok=True)
            while True:
                with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
                    fcntl.flock(file, fcntl.LOCK_EX)
                    with suppress(FileNotFoundError):
                        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                            yield file
                            return

    def keep(self, file: BinaryIO, name: str, sha256: str) -> None:
        """Give a partial file that is whole, and hashes to `sha256`, its place; the caller has it from `partial`."""
        if not re.fullmatch(HEX256, sha256):
            raise ValueError("no digest")
        file.flush()
        os.fchmod(file.fileno(), 0o444)
        os.fsync(file.fileno())
        (self.folder / f"{name}{PART}").replace(self.path(sha256))
        sync_folder(self.folder)

    def discard(self, name: str) -> None:
        """Forget a partial file; the caller has it from `partial`."""
        (self.folder / f"{name}{PART}").unlink(missing_ok=True)

    def lend(self, sha256: str, folder: Path) -> None:
        """Give a file that is there a second name, the same, in a folder of the same file system."""
        with self.store.writing("the cache"), suppress(FileNotFoundError):  # the blobs may have it in our place
            os.link(self.path(sha256), folder / sha256)

    def trim(self, most: int) -> int:
        """Throw away what was not used for longest until at most so many bytes are there; return how many went."""
        found = []
        with suppress(FileNotFoundError):
            for entry in os.scandir(self.folder):
                with suppress(FileNotFoundError):
                    status = entry.stat()
                    found.append((status.st_mtime, status.st_size, Path(entry.path)))
        total, gone = sum(size for _, size, _ in found), 0
        for _, size, path in sorted(found):
            if total - gone <= most:
                break
            gone += size * _throw_away(path)
        return gone


def _throw_away(path: Path) -> bool:
    with suppress(FileNotFoundError, BlockingIOError):
        handle = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), path.stat()):
                path.unlink()
                return True
        finally:
            os.close(handle)
    return False
