"""The cache of files from the Hub, kept by sha256 as long as there is room.

    DATA/cache/<sha256>         verified bytes, fetched once
    DATA/cache/<name>.part      bytes on their way; an interrupted download resumes
    DATA/cache/<sha256>.some    a file with holes, which has some bytes of that blob, hashed before each use

A process that needs a file holds a shared lock on it; only files without a lock are removed, the least recently used
first. A lock is on the file, not on its name: after taking one, check that the name still stands for that file.
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

PART, SOME = ".part", ".some"
ROOM = 64 * 2**20  # bytes that are made room for at a time on a full disk


@dataclass(frozen=True)
class Cache:
    """The cache of one store; its folder is created at the first write."""

    store: Store

    @property
    def folder(self) -> Path:
        """The folder, on the file system of the blobs."""
        return self.store.root / "cache"

    def path(self, sha256: str) -> Path:
        """Return the path of a file, whether or not it exists."""
        return self.folder / sha256

    def path_of_some(self, sha256: str) -> Path:
        """Return the path of a file that has some bytes of a blob, whether or not it exists."""
        return self.folder / f"{sha256}{SOME}"

    def locate(self, sha256: str) -> Path:
        """Return where bytes are: among the blobs, or else here, if anywhere."""
        blob = self.store.path(sha256)
        return blob if blob.is_file() or not self.path(sha256).is_file() else self.path(sha256)

    def hold(self, stack: ExitStack, digests: Collection[str]) -> list[str]:
        """Keep files from being removed until a stack is left; return the digests of those that are missing."""
        return [sha256 for sha256 in sorted(digests) if not self._hold(stack, sha256)]

    def _hold(self, stack: ExitStack, sha256: str) -> bool:
        with suppress(FileNotFoundError), ExitStack() as mine:
            handle = os.open(self.path(sha256), os.O_RDONLY)
            mine.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_SH)  # held only briefly by a process that removes the file
            if os.path.samestat(os.fstat(handle), self.path(sha256).stat()):
                os.utime(handle)
                stack.push(mine.pop_all())
                return True
        return False

    def hold_some(self, stack: ExitStack, sha256: str, size: int) -> int:
        """Keep the file that has some bytes of a blob until a stack is left, and return its descriptor.

        If there is none, it is made: all of it is a hole.

        Raises:
            StorageFull, StorageFailed: The disk failed.
        """
        path = self.path_of_some(sha256)
        with self.store.writing("the cache"):
            self.folder.mkdir(exist_ok=True)
            while True:
                with ExitStack() as mine:
                    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
                    mine.callback(os.close, handle)
                    fcntl.flock(handle, fcntl.LOCK_SH)
                    with suppress(FileNotFoundError):
                        if os.path.samestat(os.fstat(handle), path.stat()):
                            os.truncate(handle, size)
                            os.utime(handle)
                            stack.push(mine.pop_all())
                            return handle

    @contextmanager
    def partial(self, name: str) -> Iterator[BinaryIO]:
        """Open a partial file for one process at a time; others wait.

        Raises:
            StorageFull, StorageFailed: The disk failed.
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
        """Move a complete partial file, which hashes to `sha256`, to its place; the caller has it from `partial`."""
        if not re.fullmatch(HEX256, sha256):
            raise ValueError(f"{sha256!r} is not a sha256 digest.")
        file.flush()
        os.fchmod(file.fileno(), 0o444)
        os.fsync(file.fileno())
        (self.folder / f"{name}{PART}").replace(self.path(sha256))
        sync_folder(self.folder)

    def discard(self, name: str) -> None:
        """Delete a partial file; the caller has it from `partial`."""
        (self.folder / f"{name}{PART}").unlink(missing_ok=True)

    def lend(self, sha256: str, folder: Path) -> None:
        """Link a file under the same name into a folder on the same file system."""
        with self.store.writing("the cache"), suppress(FileNotFoundError):  # it may be among the blobs instead
            os.link(self.path(sha256), folder / sha256)

    def trim(self, most: int) -> int:
        """Remove the least recently used files until at most `most` bytes are left; return the bytes removed."""
        files = self._files()
        return self._drop(files, sum(size for _, size, _ in files) - most)

    def make_room(self, size: int, what: str) -> None:
        """Have room for bytes on the disk; files that nobody uses go for that, some more at a time.

        Raises:
            StorageFull: There is none.
        """
        if size > self.store.room():
            self._drop(self._files(), max(size, ROOM))
            self.store.require_room(size, what)

    def _files(self) -> list[tuple[float, int, Path]]:
        """Return when each file was used, its bytes without holes, and its path."""
        files = []
        with suppress(FileNotFoundError):
            for entry in os.scandir(self.folder):
                with suppress(FileNotFoundError):
                    status = entry.stat()
                    size = min(status.st_size, 512 * status.st_blocks) if SOME in entry.name else status.st_size
                    files.append((status.st_mtime, size, Path(entry.path)))
        return sorted(files)

    @staticmethod
    def _drop(files: list[tuple[float, int, Path]], least: int) -> int:
        """Remove files in their order until that is so many bytes; return the bytes removed."""
        removed = 0
        for _, size, path in files:
            if removed >= least:
                break
            removed += size * _remove(path)
        return removed


def _remove(path: Path) -> bool:
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
