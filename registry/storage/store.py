"""The store: blobs by sha256, on a local disk here and in a bucket in bucket_store.py; put, adopt, read, hold.

    DATA/blobs/sha256/ab/cd/<64 hex>     complete bytes, read-only, never changed
    DATA/staging/trash-<64 hex>          a blob that is being deleted, until the commit
    DATA/registry-id                     the id of the registry that the folder belongs to

There is one way to write: bytes in `staging` (on the same file system), hashed, fsync, atomic rename, fsync of the
folder. A database row may name the blob only after `put` or `adopt` has returned. A failed fsync is never repeated: the
bytes are thrown away and an error is raised (the page cache may have dropped them already).
"""

import hashlib
import os
import re
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from registry.errors import BlobDamaged, NotFound, StorageFailed
from registry.files.durable import new_files, sync_folder
from registry.files.hashing import hash_file
from registry.files.names import HEX256
from registry.files.progress import Progress
from registry.storage.disk_parts import DiskParts
from registry.storage.folder import DataFolder
from registry.storage.parts import Parts
from registry.storage.pieces import CHUNK, Beat, Excerpt, idle

_HEX256 = re.compile(HEX256)
MARK, MOST_MARK = "registry-id", 100  # a file of the folder, and the most bytes that are read of it


@dataclass(eq=False)
class Store(DataFolder):
    """A content-addressed store under one folder.

    What the rest of the registry asks of a store are the methods here; `BucketStore` answers them otherwise.

    Attributes:
        kind: Where the blobs are, `disk` or `bucket`.
        removes_later: Whether bytes are deleted after the commit that lets go of them, by services/blobs/removal.py.
    """

    kind: ClassVar[str] = "disk"
    removes_later: ClassVar[bool] = False

    @property
    def where(self) -> str:
        """The folder or the bucket, as a word of a sentence."""
        return str(self.root)

    @property
    def place(self) -> str:
        """Where the blobs are, as the subject of a sentence."""
        return f"The folder {self.root}"

    @property
    def parts(self) -> Parts:
        """What becomes of parts of uploads."""
        return DiskParts(self, self.path)

    def capacity(self) -> int:
        """Return how many more bytes of blobs the store may take."""
        return self.room()

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

    def claim(self, registry_id: str) -> None:
        """Look again whose the store is, and mark it, where more machines than this one use it."""

    def require_unused(self) -> None:
        """Refuse, as `InvalidRequest`, a place that another registry may be using and that no folder shows."""

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

    def to_fetch(self, digests: Collection[str]) -> list[str]:
        """Return which blobs are stored elsewhere, and have no copy at `path`."""
        return []

    def begin_to_fetch(self, sizes: Mapping[str, int]) -> bool:
        """Begin to fetch what is not at `path` of some blobs, for whoever asks again until all are there.

        Args:
            sizes: The bytes of each blob, by digest.

        Returns:
            Whether they are small enough to be there all at once; if not, nothing is fetched.

        Raises:
            BlobDamaged, StorageFull, StorageFailed: As of `bring`, for one that was begun before.
        """
        return True

    def hold(self, stack: ExitStack, digests: Collection[str], beat: Beat = idle) -> None:
        """Have the bytes of blobs at `path` until a stack is left.

        Raises:
            BlobDamaged, StorageFull, StorageFailed: As of `bring`.
        """

    def hold_excerpt(self, stack: ExitStack, excerpt: Excerpt, beat: Beat = idle) -> Path:
        """Have an excerpt of a blob in a file until a stack is left, and return the file's path.

        The file is as long as the blob, and may have other bytes where the excerpt has none.

        Raises:
            BlobDamaged, StorageFull, StorageFailed: As of `bring`.
        """
        return self.path(excerpt.sha256)

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

    def chunks(self, sha256: str) -> Iterator[bytes]:
        """Yield the bytes of a blob as they are.

        Raises:
            NotFound: They are missing.
            OSError: They cannot be read.
        """
        try:
            with self.path(sha256).open("rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk
        except FileNotFoundError:
            raise NotFound(f"The file of blob {sha256} is gone.") from None

    def take(self, sha256: str, size: int, chunks: Iterable[bytes]) -> None:
        """Store a blob whose bytes another place has, beside no transaction; they are verified on the way.

        Raises:
            DigestMismatch: They are others.
            StorageFull, StorageFailed: The store did not take them.
        """
        self.put(chunks, sha256)

    def has(self, sha256: str, size: int) -> bool:
        """Say whether a blob is here that somebody stored at another time, so that it need not be taken again."""
        return self.size(sha256) == size and self.hash(sha256) == sha256

    # Deleting ----------------------------------------------------------------------------------------------------

    def set_aside(self, sha256: str) -> None:
        """Move a blob's file aside until the commit that deletes its row; the caller holds the lock of the row.

        Raises:
            StorageFailed: The disk failed.
        """
        with self.writing(f"blob {sha256}"), suppress(FileNotFoundError):
            self.path(sha256).replace(self._aside(sha256))

    def drop(self, sha256: str) -> None:
        """Delete a file that was moved aside, after the commit."""
        self._aside(sha256).unlink(missing_ok=True)

    def remove(self, sha256: str) -> None:
        """Delete a blob after the commit, under the lock of its row, where the store `removes_later`."""

    def discard_unfinished(self, before: datetime) -> None:
        """Discard what was sent of blobs that were begun before a time and not finished, where that stays.

        Raises:
            StorageFailed: The bucket failed.
        """

    def put_back(self, sha256: str) -> None:
        """Move a file back that was set aside, unless the blob is there; the caller holds the lock of its row."""
        if not self.exists(sha256) and self._aside(sha256).exists():
            self.adopt(self._aside(sha256), sha256)

    def set_aside_before(self) -> list[str]:
        """Return the digests of the blobs whose files are aside."""
        names = (path.name.removeprefix("trash-") for path in sorted(self.staging.glob("trash-*")))
        return [name for name in names if _HEX256.fullmatch(name)]

    def _aside(self, sha256: str) -> Path:
        return self.staging / f"trash-{sha256}"

    # All of them -------------------------------------------------------------------------------------------------

    def digests(self) -> Iterator[str]:
        """Yield the digest of every blob on disk, in order."""
        for path in sorted((self.root / "blobs" / "sha256").glob("??/??/*")):
            if _HEX256.fullmatch(path.name):
                yield path.name


def damaged(sha256: str) -> BlobDamaged:
    """Return the error for a blob whose file is missing or holds other bytes."""
    return BlobDamaged(
        f"The bytes of blob {sha256} are damaged on the registry's disk, so they are not sent; its operator was told. "
        "Try again later, or upload the same bytes again if you have them.",
        field=sha256,
    )
