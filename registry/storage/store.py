"""The store: blobs by sha256 on a local disk; put, adopt, open, exists.

    DATA/blobs/sha256/ab/cd/<64 hex>     complete bytes, read-only, never changed
    DATA/staging/<name>                  bytes on their way in: uploads and the folders of jobs

There is one way to write: bytes in `staging` (on the same file system), hashed, fsync, atomic rename, fsync of the
folder. A database row may name the blob only after `put` or `adopt` has returned. A failed fsync is never repeated: the
bytes are thrown away and an error is raised (the page cache may have dropped them already).
"""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from registry.errors import BreadcrumbError, DigestMismatch, NotFound, StorageFailed, StorageFull, TooMany
from registry.files.durable import sync_folder
from registry.files.names import HEX256

_HEX256 = re.compile(HEX256)
CHUNK = 2**20


@dataclass
class Store:
    """A content-addressed store under one folder.

    Attributes:
        root: The folder.
        failed: Why no more bytes are written, once the disk has failed.
    """

    root: Path
    failed: str | None = None

    @property
    def staging(self) -> Path:
        """The folder of bytes that are not complete yet."""
        return self.root / "staging"

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Guard a write: turn a disk error into a sentence, and after an I/O error write nothing more.

        A disk that failed once may have dropped what it still shows as written; a person has to look at that.

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
            if error.errno in (errno.EIO, errno.EROFS):
                self.failed = f"{what}: {error.strerror}"
            raise StorageFailed(f"The disk failed on {what}: {error.strerror or error}.") from error

    def prepare(self) -> None:
        """Create the folders; safe to call again."""
        with self.writing("the data folder"):
            (self.root / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
            self.staging.mkdir(exist_ok=True)
            for folder in (self.root / "blobs", self.root, self.root.absolute().parent):
                sync_folder(folder)

    def path(self, sha256: str) -> Path:
        """Return the path of a blob, whether or not it exists.

        Raises:
            NotFound: `sha256` is not 64 lowercase hex digits.
        """
        if not _HEX256.fullmatch(sha256):
            raise NotFound("A blob is named by 64 lowercase hex digits.")
        return self.root / "blobs" / "sha256" / sha256[:2] / sha256[2:4] / sha256

    def exists(self, sha256: str) -> bool:
        """Say whether a blob is stored."""
        return self.path(sha256).is_file()

    def open(self, sha256: str) -> BinaryIO:
        """Open a blob for reading.

        Raises:
            NotFound: No such blob exists.
        """
        try:
            return self.path(sha256).open("rb")
        except FileNotFoundError:
            raise NotFound(f"There is no blob {sha256}.") from None

    def put(self, chunks: Iterable[bytes], sha256: str | None = None) -> tuple[str, int]:
        """Store bytes and return their digest and size, once they are durable.

        Args:
            chunks: The bytes.
            sha256: The digest that they must have, if the caller knows it.

        Raises:
            DigestMismatch: The bytes hash to something else; nothing is kept.
            StorageFull, StorageFailed: The disk did not take the bytes; nothing is kept.
        """
        staged = self.staging / f"put-{os.urandom(16).hex()}"
        hasher, size = hashlib.sha256(), 0
        try:
            with self.writing("a blob"), staged.open("xb") as file:
                for chunk in chunks:
                    hasher.update(chunk)
                    size += file.write(chunk)
            digest = hasher.hexdigest()
            if sha256 is not None and digest != sha256:
                raise DigestMismatch(f"The bytes hash to {digest}, not to {sha256}.")
            self.adopt(staged, digest)
        finally:
            staged.unlink(missing_ok=True)
        return digest, size

    def adopt(self, staged: Path, sha256: str) -> None:
        """Move a staged file whose bytes hash to `sha256` to its place and make it durable.

        The caller guarantees the digest. The staged file is gone afterwards.

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
