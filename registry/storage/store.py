"""Blobs by sha256 on a local disk: put, adopt, open, exists.

    DATA/blobs/sha256/ab/cd/<64 hex>     finished bytes, read-only, never changed
    DATA/staging/<name>                  bytes on their way in: uploads and the folders of jobs

The one write path: bytes in `staging` (the same file system), hashed, fsync, atomic rename, fsync of the
folder. Only after `put` or `adopt` returned may a database row name the blob. A failed fsync is never
repeated: the bytes are thrown away and the caller is told (the page cache may have dropped them already).
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
        failed: Why no more bytes are taken, once the disk has failed.
    """

    root: Path
    failed: str | None = None

    @property
    def staging(self) -> Path:
        """Where bytes wait until they are whole."""
        return self.root / "staging"

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Guard a write: a disk error is a sentence, and after an I/O error nothing more is written.

        A disk that failed once may have dropped what it still shows as written; that is for a person to look at.

        Raises:
            StorageFull: there is no room.
            StorageFailed: the disk failed now, or has failed before.
            TooMany: too many files are open.
        """
        if self.failed:
            raise StorageFailed(f"The disk failed before ({self.failed}); the operator must look at it and restart.")
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
        """Return where a blob lies, whether or not it is there.

        Raises:
            NotFound: `sha256` is not 64 lowercase hex digits.
        """
        if not _HEX256.fullmatch(sha256):
            raise NotFound("A blob is named by 64 lowercase hex digits.")
        return self.root / "blobs" / "sha256" / sha256[:2] / sha256[2:4] / sha256

    def exists(self, sha256: str) -> bool:
        """Say whether the blob is there."""
        return self.path(sha256).is_file()

    def open(self, sha256: str) -> BinaryIO:
        """Open a blob for reading.

        Raises:
            NotFound: there is no such blob.
        """
        try:
            return self.path(sha256).open("rb")
        except FileNotFoundError:
            raise NotFound(f"There is no blob {sha256}.") from None

    def put(self, chunks: Iterable[bytes], sha256: str | None = None) -> tuple[str, int]:
        """Store bytes and return their digest and size, once they are durable.

        Args:
            chunks: The bytes.
            sha256: What they must hash to, when the caller knows.

        Raises:
            DigestMismatch: they hash to something else; nothing is kept.
            StorageFull, StorageFailed: the disk did not take them; nothing is kept.
        """
        staged = self.staging / f"put-{os.urandom(16).hex()}"
        hasher, size = hashlib.sha256(), 0
        try:
            with self.writing("a blob"), staged.open("xb") as file:
                for chunk in chunks:
                    hasher.update(chunk)
                    size += file.write(chunk)
            found = hasher.hexdigest()
            if sha256 is not None and found != sha256:
                raise DigestMismatch(f"The bytes hash to {found}, not to {sha256}.")
            self.adopt(staged, found)
        finally:
            staged.unlink(missing_ok=True)
        return found, size

    def adopt(self, staged: Path, sha256: str) -> None:
        """Move a staged file whose bytes hash to `sha256` to its place and make it durable.

        The caller vouches for the digest. The staged name is gone afterwards.

        Raises:
            StorageFull, StorageFailed: the disk failed; the staged file is thrown away.
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
                staged.replace(final)  # the same bytes when there is a twin; the right ones when it is damaged
                for folder in (final.parent, *final.parent.parents[:2]):  # a twin's writer may have died
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
        """Lend an empty staging folder that is removed afterwards, whatever was left in it."""
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
