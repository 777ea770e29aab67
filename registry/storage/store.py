"""The store: blobs by sha256, on a local disk here and in a bucket in bucket_store.py; put, adopt, read, hold.

    DATA/blobs/sha256/ab/cd/<64 hex>     complete bytes, read-only, never changed
    DATA/staging/<name>                  bytes on their way in: uploads and the folders of jobs
    DATA/ballast                         bytes that `crumb-server gc` gives up when the disk is full
    DATA/registry-id                     the id of the registry that the folder belongs to

There is one way to write: bytes in `staging` (on the same file system), hashed, fsync, atomic rename, fsync of the
folder. A database row may name the blob only after `put` or `adopt` has returned. A failed fsync is never repeated: the
bytes are thrown away and an error is raised (the page cache may have dropped them already).
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from registry.errors import (
    BlobDamaged,
    BreadcrumbError,
    DigestMismatch,
    NotFound,
    StorageFailed,
    StorageFull,
    TooMany,
)
from registry.files.durable import new_files, sync_folder
from registry.files.hashing import hash_file
from registry.files.names import HEX256
from registry.files.progress import Progress

_HEX256 = re.compile(HEX256)
CHUNK = 2**20
RESERVE_SHARE, MOST_RESERVE = 20, 2**30  # a twentieth of the disk, at most 1 GiB
BALLAST_BYTES = 2**20  # SQLite cannot even be read without some room
Beat = Callable[[], object]
MARK, MOST_MARK = "registry-id", 100  # a file of the folder, and the most bytes that are read of it


def idle() -> None:
    """Do nothing, where something takes long and nobody waits."""


@dataclass(eq=False)
class Store:
    """A content-addressed store under one folder.

    What the rest of the registry asks of a store are the methods here; `BucketStore` answers them otherwise.

    Attributes:
        root: The folder.
        reserve: Bytes of the disk that stay free for the database; None for a twentieth of it, at most 1 GiB.
        failed: Why no more bytes are written, once the disk has failed.
    """

    root: Path
    reserve: int | None = None
    failed: str | None = None

    kind: ClassVar[str] = "disk"

    @property
    def where(self) -> str:
        """The folder or the bucket, as a word of a sentence."""
        return str(self.root)

    @property
    def place(self) -> str:
        """Where the blobs are, as the subject of a sentence."""
        return f"The folder {self.root}"

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

    def capacity(self) -> int:
        """Return how many more bytes of blobs the store may take."""
        return self.room()

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

    def prepare(self) -> None:
        """Create the folders; safe to call again."""
        with self.writing("the data folder"):
            (self.root / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
            self.staging.mkdir(exist_ok=True)
            for folder in (self.root / "blobs", self.root, self.root.absolute().parent):
                sync_folder(folder)
        self.take_ballast()

    def owner(self) -> str | None:
        """Return the id of the registry that the folder belongs to; None if the folder has none.

        Raises:
            StorageFailed: The file with the id holds something else.
        """
        try:
            with (self.root / MARK).open("rb") as file:
                return str(uuid.UUID(file.read(MOST_MARK).decode("ascii").strip()))
        except FileNotFoundError:
            return None
        except ValueError:
            raise StorageFailed(
                f"The file {self.root / MARK} does not hold the id of a registry; put it back, or delete it and start "
                "again: the message says what it should hold."
            ) from None

    def own(self, registry_id: str) -> None:
        """Mark the folder as that of a registry, durably; does nothing if it is marked already.

        Raises:
            StorageFull, StorageFailed: The disk failed.
        """
        with self.holding(f"{MARK}.lock", wait=True):
            if Store.owner(self) is None:  # of the folder, whatever else is marked
                with new_files([self.root / MARK]) as (file,):
                    file.write(f"{registry_id}\n".encode())

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

    def path(self, sha256: str) -> Path:
        """Return the path of a blob, whether or not it exists.

        Raises:
            NotFound: `sha256` is not 64 lowercase hex digits.
        """
        if not _HEX256.fullmatch(sha256):
            raise NotFound("A blob is named by 64 lowercase hex digits.")
        return Path(self.root, "blobs", "sha256", sha256[:2], sha256[2:4], sha256)

    def exists(self, sha256: str) -> bool:
        """Say whether a blob is stored."""
        return self.path(sha256).is_file()

    def size(self, sha256: str) -> int | None:
        """Return the size of a blob's file in bytes; None if there is no file."""
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def holds(self, sha256: str, size: int) -> bool:
        """Say whether the bytes of a blob that has a row are here, as far as a look at the size tells."""
        return self.size(sha256) == size

    def identity(self, sha256: str) -> tuple[object, ...] | None:
        """Return what changes when a blob's bytes are replaced or written to; None if there are none."""
        try:
            status = self.path(sha256).stat()
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def hash(self, sha256: str, progress: Progress | None = None) -> str:
        """Return the sha256 of a blob's bytes as they are.

        Raises:
            OSError: They are missing, or cannot be read.
        """
        return hash_file(self.path(sha256), progress)

    def bring(self, sha256: str, beat: Beat = idle) -> None:
        """Have a blob's bytes at `path`, at least for a moment.

        Args:
            sha256: The blob.
            beat: Called now and then.

        Raises:
            BlobDamaged: The bytes are missing, or others.
            StorageFull, StorageFailed: They cannot be brought here now.
        """

    def hold(self, stack: ExitStack, digests: Collection[str], beat: Beat = idle) -> None:
        """Have the bytes of blobs at `path` until a stack is left.

        Raises:
            BlobDamaged, StorageFull, StorageFailed: As of `bring`.
        """

    def distrust(self, sha256: str) -> None:
        """Forget what is here of a blob that somebody found damaged, if it is only a copy."""

    def require_there(self) -> None:
        """Refuse, as `StorageFailed`, to believe that blobs are missing if all of a bucket may be."""

    def lend(self, sha256: str, filename: str, seconds: int) -> str | None:
        """Return an address from which anybody can download a blob for a while; None if there is none."""
        return None

    def read(self, sha256: str, most: int) -> bytes | None:
        """Return the bytes of a small blob, hashed again; None if there are more than `most`.

        Raises:
            BlobDamaged: The file is missing, or holds other bytes.
        """
        try:
            with self.path(sha256).open("rb") as file:
                raw = file.read(most + 1)
        except FileNotFoundError:
            raise damaged(sha256) from None
        if len(raw) > most:
            return None
        if hashlib.sha256(raw).hexdigest() != sha256:
            raise damaged(sha256)
        return raw

    def put(self, chunks: Iterable[bytes], sha256: str | None = None) -> tuple[str, int]:
        """Store bytes and return their digest and size, once they are durable.

        Args:
            chunks: The bytes.
            sha256: The digest that they must have, if the caller knows it.

        Raises:
            DigestMismatch: The bytes hash to something else; nothing is kept.
            StorageFull, StorageFailed: The disk did not take the bytes; nothing is kept.
        """
        with self.staged(chunks, sha256) as (staged, digest, size):
            self.adopt(staged, digest)
        return digest, size

    @contextmanager
    def staged(self, chunks: Iterable[bytes], sha256: str | None = None) -> Iterator[tuple[Path, str, int]]:
        """Stage bytes for a while; yield the file, their digest and their size, so that the file can be adopted.

        Raises:
            DigestMismatch, StorageFull, StorageFailed: As of `put`.
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

    def send_ahead(self, staged: Path, sha256: str, beat: Beat = idle) -> None:
        """Do what takes long of storing a staged file, before the transaction in which `adopt` does the rest.

        Raises:
            DigestMismatch, StorageFailed: The bytes were not taken.
        """

    def adopt(self, staged: Path, sha256: str, *, again: bool = False) -> None:
        """Move a staged file whose bytes hash to `sha256` to its place and make it durable.

        The caller guarantees the digest. The staged file is gone afterwards. With `again`, what is there is damaged.

        Raises:
            StorageFull, StorageFailed: The disk failed; the staged file is thrown away.
        """
        final = self.path(sha256)
        try:
            with self.writing(f"blob {sha256}"):
                handle = os.open(staged, os.O_RDONLY)
                try:
                    os.fchmod(handle, 0o444)
                    os.fsync(handle)
                finally:
                    os.close(handle)
                final.parent.mkdir(parents=True, exist_ok=True)
                staged.replace(final)  # replaces the same bytes, or damaged ones
                # Also if the blob existed: its writer may have died before it did this.
                for folder in (final.parent, *final.parent.parents[:2]):
                    sync_folder(folder)
        finally:
            staged.unlink(missing_ok=True)

    def digests(self) -> Iterator[str]:
        """Yield the digest of every blob on disk, in order."""
        for path in sorted((self.root / "blobs" / "sha256").glob("??/??/*")):
            if _HEX256.fullmatch(path.name):
                yield path.name

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


def damaged(sha256: str) -> BlobDamaged:
    """Return the error for a blob whose file is missing or holds other bytes."""
    return BlobDamaged(
        f"The bytes of blob {sha256} are damaged on the registry's disk, so they are not sent; its operator was told. "
        "Try again later, or upload the same bytes again if you have them.",
        field=sha256,
    )
