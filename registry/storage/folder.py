"""The data folder: its disk, of which a reserve stays free, locks that are files, and bytes on their way in.

DATA/staging/<name>   bytes on their way in: uploads and the folders of jobs
DATA/ballast          bytes that `crumb-server gc` gives up when the disk is full
"""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from registry.errors import BreadcrumbError, DigestMismatch, StorageFailed, StorageFull, TooMany

RESERVE_SHARE, MOST_RESERVE = 20, 2**30  # a twentieth of the disk, at most 1 GiB
BALLAST_BYTES = 2**20  # SQLite cannot even be read without some room


@dataclass(eq=False)
class DataFolder:
    """A folder whose disk may be full, or fail.

    Attributes:
        root: The folder.
        reserve: Bytes of the disk that stay free for the database; None for a twentieth of it, at most 1 GiB.
        failed: Why no more bytes are written, once the disk has failed.
    """

    root: Path
    reserve: int | None = None
    failed: str | None = None

    @property
    def staging(self) -> Path:
        """The folder of bytes that are not complete yet."""
        return self.root / "staging"

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Guard a write: turn a disk error into a sentence, and after an I/O error write nothing more.

        A disk that failed once may have dropped what it still shows as written; a person has to look at that. One that
        is read-only drops nothing, and is written to again as soon as it can be.

        Raises:
            StorageFull: The disk has no room.
            StorageFailed: The disk failed now, or has failed before.
            TooMany: Too many files are open.
        """
        if self.failed:
            raise StorageFailed(
                f"The disk failed before ({self.failed}); the operator must check it and restart the registry."
            )
        try:
            yield
        except BreadcrumbError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(f"There is no room left for {what}; free space and send it again.") from error
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise TooMany("The registry has too many files open; try again in a moment.") from error
            if error.errno == errno.EIO:
                self.failed = f"{what}: {error.strerror}"
            raise StorageFailed(f"The disk failed on {what}: {error.strerror or error}.") from error

    def room(self) -> int:
        """Return how many more bytes the disk may take, so that the reserve stays free."""
        usage = shutil.disk_usage(self.root)
        reserve = min(usage.total // RESERVE_SHARE, MOST_RESERVE) if self.reserve is None else self.reserve
        return max(0, usage.free - reserve)

    def require_room(self, size: int, what: str) -> None:
        """Refuse bytes for which the disk has no room beside the reserve.

        Raises:
            StorageFull: It has none.
        """
        if size > (room := self.room()):
            raise StorageFull(
                f"There is no room left for {what} ({size} bytes, and {room} are free beside the reserve); the "
                "operator must free space."
            )

    @contextmanager
    def holding(self, name: str, *, shared: bool = False, wait: bool = False) -> Iterator[bool]:
        """Hold a lock, a file that the system releases when its holder dies; yield whether it was taken.

        Args:
            name: The name of the file.
            shared: Whether others may hold it too, if they also share it.
            wait: Whether to wait until the lock is free.
        """
        with self.writing(f"the lock {name}"):
            handle = os.open(self.root / name, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
                locked = True
            except BlockingIOError:
                locked = False
            yield locked
        finally:
            os.close(handle)

    @property
    def ballast(self) -> Path:
        """The file that is given up when the disk is full."""
        return self.root / "ballast"

    def take_ballast(self) -> None:
        """Create the ballast, if it does not exist and there is room for it."""
        if self.ballast.exists() or self.room() < BALLAST_BYTES or not hasattr(os, "posix_fallocate"):
            return
        with suppress(OSError), self.ballast.open("wb") as file:  # a disk that fails says so where it matters
            os.posix_fallocate(file.fileno(), 0, BALLAST_BYTES)

    def drop_ballast(self) -> None:
        """Delete the ballast, so that the database can be read and written for as long as it takes to free more."""
        self.ballast.unlink(missing_ok=True)

    @contextmanager
    def staged(self, chunks: Iterable[bytes], sha256: str | None = None) -> Iterator[tuple[Path, str, int]]:
        """Stage bytes for a while; yield the file, their digest and their size, so that the file can be adopted.

        Raises:
            DigestMismatch, StorageFull, StorageFailed: As of `Store.put`.
        """
        staged = self.staging / f"put-{os.urandom(16).hex()}"
        hasher, size = hashlib.sha256(), 0
        try:
            with self.writing("a blob"), staged.open("xb") as file:
                for chunk in chunks:
                    self.require_room(len(chunk), "a blob")
                    hasher.update(chunk)
                    size += file.write(chunk)
            digest = hasher.hexdigest()
            if sha256 is not None and digest != sha256:
                raise DigestMismatch(f"The bytes hash to {digest}, not to {sha256}.")
            yield staged, digest, size
        finally:
            staged.unlink(missing_ok=True)

    @contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """Create an empty staging folder, and remove it afterwards with everything in it."""
        folder = self.staging / name
        self.discard(folder)
        with self.writing("a staging folder"):
            folder.mkdir()
        try:
            yield folder
        finally:
            self.discard(folder)

    def discard(self, staged: Path) -> None:
        """Remove a file or folder of the staging area, if it is there."""
        if staged.is_dir():
            shutil.rmtree(staged, ignore_errors=True)
        else:
            staged.unlink(missing_ok=True)
