"""The store whose truth is a bucket: blobs by sha256 there, and a bounded cache of them in the folder.

    s3://BUCKET/PREFIX/<64 hex>                 complete bytes, never changed
    s3://BUCKET/PREFIX/uploads/<id>/…           parts of uploads (bucket_parts.py)
    DATA/cache/<64 hex>                         copies, verified on the way in; what is used least recently goes first
    DATA/cache/<64 hex>.some                    what jobs needed of a blob of which they needed a part
    DATA/staging/<name>                         bytes on their way: parts, and the folders of jobs

Any number of machines share the bucket; each has a folder of its own, which may be lost at any time. A name in the
bucket is given only to bytes that were hashed on the way there, so an object of the right size is the blob, unless the
bucket lost some of it since, which a scrub finds. A database row may name the blob only after `put` or `adopt` has
returned, and an object is deleted only after the transaction that lets go of it (services/blobs/removal.py).
"""

import hashlib
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from registry.errors import BlobDamaged, InvalidRequest, NotFound, StorageFailed, StorageFull, WrongState
from registry.files.durable import sync_folder
from registry.files.progress import Meter, Progress
from registry.storage.bucket import Bucket, Unranged
from registry.storage.bucket_parts import BucketParts
from registry.storage.cache import Cache
from registry.storage.fetches import Fetches, fetch_excerpt
from registry.storage.pieces import CHUNK, Beat, Excerpt, idle, verified
from registry.storage.store import MARK, Store, damaged

MOST_FETCHES = 3  # of a blob, if the cache drops it before it is held
Lock = Callable[[str, bool, bool], AbstractContextManager[bool]]


@dataclass(eq=False)
class BucketStore(Store):
    """A content-addressed store in a bucket.

    Attributes:
        bucket: The bucket.
        most: Most bytes that the cache keeps.
        lock: Takes a lock that all machines share, as `holding` does; None if there is one machine.
        patience: Seconds that `bring` waits for a copy, for a server; None for as long as it takes.
    """

    bucket: Bucket = field(kw_only=True)
    most: int = field(kw_only=True)
    lock: Lock | None = None
    patience: float | None = None

    kind: ClassVar[str] = "bucket"
    removes_later: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.fetches = Fetches(self.fetch)
        self.excerpts: Fetches[Excerpt] = Fetches(lambda excerpt: fetch_excerpt(self.bucket, self.cache, excerpt))

    @property
    def where(self) -> str:
        """The folder or the bucket, as a word of a sentence."""
        return self.bucket.where

    @property
    def place(self) -> str:
        """Where the blobs are, as the subject of a sentence."""
        return f"The bucket {self.where}"

    @property
    def cache(self) -> Cache:
        """The copies in the folder."""
        return Cache(self)

    @property
    def parts(self) -> BucketParts:
        """What becomes of parts of uploads."""
        return BucketParts(self.bucket, self.staging, self.holding)

    @contextmanager
    def holding(self, name: str, *, shared: bool = False, wait: bool = False) -> Iterator[bool]:
        """Hold a lock that all machines share; see `Store.holding`."""
        taken = super().holding(name, shared=shared, wait=wait) if self.lock is None else self.lock(name, shared, wait)
        with taken as locked:
            yield locked

    def capacity(self) -> int:
        """Return how many more bytes of blobs the store may take: a bucket has no bound."""
        return sys.maxsize

    # Blobs -------------------------------------------------------------------------------------------------------

    def path(self, sha256: str) -> Path:
        """Return the path of a copy, whether or not it exists.

        Raises:
            NotFound: `sha256` is not 64 lowercase hex digits.
        """
        return self.cache.path(super().path(sha256).name)

    def exists(self, sha256: str) -> bool:
        """Say whether the bucket has a blob."""
        return self.size(sha256) is not None

    def size(self, sha256: str) -> int | None:
        """Return the size of a blob in the bucket, in bytes; None if it is not there."""
        return self.bucket.size(self.path(sha256).name)

    def holds(self, sha256: str, size: int) -> bool:
        """Say whether the bytes of a blob that has a row are here: the row is believed, and nobody is asked."""
        return size >= 0

    def identity(self, sha256: str) -> tuple[object, ...] | None:
        """Return what changes when an object is replaced; None if there is none."""
        return self.bucket.look(self.path(sha256).name)

    def hash(self, sha256: str, progress: Progress | None = None) -> str:
        """Return the sha256 of an object's bytes as they are.

        Raises:
            FileNotFoundError: There is no such object.
            StorageFailed: The bucket did not send it.
        """
        hasher, meter = hashlib.sha256(), Meter(self.size(sha256) or 0, progress) if progress else None
        try:
            for chunk in self.bucket.read(sha256):
                hasher.update(chunk)
                if meter:
                    meter.add(len(chunk))
        except NotFound:
            raise FileNotFoundError(sha256) from None
        return hasher.hexdigest()

    def read(self, sha256: str, most: int) -> bytes | None:
        """Return the bytes of a small blob, hashed again; None if there are more than `most`.

        Raises:
            BlobDamaged: The object is missing, or holds other bytes.
            TooMany, StorageFailed: The bucket did not send it, or not yet.
        """
        if not self.path(sha256).is_file():
            size = self.size(sha256)
            if size is None:
                raise damaged(sha256)
            if size > most:
                return None
            self.bring(sha256)
        try:
            return super().read(sha256, most)
        except BlobDamaged:  # the copy may be, or was dropped just now
            self.distrust(sha256)
            self.bring(sha256)
            return super().read(sha256, most)

    def distrust(self, sha256: str) -> None:
        """Drop what is here of a blob that somebody found damaged, so that it is fetched once more."""
        self.path(sha256).unlink(missing_ok=True)
        self.cache.path_of_some(sha256).unlink(missing_ok=True)

    def bring(self, sha256: str, beat: Beat = idle) -> None:
        """Have a copy of a blob in the cache, at least for a moment; a small one is hashed again.

        Raises:
            BlobDamaged: The object is missing, or holds other bytes.
            TooMany: The bucket is slower than the patience of this store.
            StorageFull, StorageFailed: The disk has no room, or the bucket did not send it.
        """
        if self.has_copy(sha256):
            with suppress(OSError):  # another user's, or gone: the cache only drops it earlier
                os.utime(self.path(sha256))
        elif self.patience is None:
            self.fetches.wait(sha256, beat)
        else:
            self.fetches.wait_briefly(sha256, self.patience)

    def to_fetch(self, digests: Collection[str]) -> list[str]:
        """Return which blobs have no copy in the cache."""
        return [sha256 for sha256 in digests if not self.path(sha256).is_file()]

    def begin_to_fetch(self, sizes: Mapping[str, int]) -> bool:
        """Begin to fetch copies of blobs, which may take half of the cache."""
        if sum(sizes.values()) > self.most / 2:
            return False
        for sha256 in self.to_fetch(sizes):
            self.fetches.ask(sha256)
        return True

    def has_copy(self, sha256: str) -> bool:
        """Say whether there is a copy; a small one whose bytes are others is dropped."""
        try:
            with self.path(sha256).open("rb") as file:
                if os.fstat(file.fileno()).st_size > CHUNK:
                    return True
                if hashlib.sha256(file.read()).hexdigest() == sha256:
                    return True
        except FileNotFoundError:
            return False
        self.distrust(sha256)
        return False

    def fetch(self, sha256: str) -> None:
        """Copy a blob into the cache, unless it is there; its bytes are hashed on the way.

        Raises:
            BlobDamaged, StorageFull, StorageFailed: As of `bring`.
        """
        self.cache.trim(self.most)
        with self.cache.partial(sha256) as file:
            try:
                if self.path(sha256).is_file():  # another process was faster
                    return
                hasher = hashlib.sha256()
                file.truncate(0)
                for chunk in self.bucket.read(sha256):
                    self.cache.make_room(len(chunk), "the cache")
                    hasher.update(chunk)
                    file.write(chunk)
                if hasher.hexdigest() != sha256:
                    raise damaged(sha256)
                self.cache.keep(file, sha256, sha256)
            except NotFound:
                raise damaged(sha256) from None
            finally:
                self.cache.discard(sha256)

    def hold(self, stack: ExitStack, digests: Collection[str], beat: Beat = idle) -> None:
        """Have copies of blobs in the cache until a stack is left.

        Raises:
            BlobDamaged: An object is missing, or holds other bytes.
            StorageFull, StorageFailed: The disk has no room, or the bucket did not send an object.
        """
        for sha256 in sorted(set(digests)):
            for _ in range(MOST_FETCHES):
                if not self.cache.hold(stack, [sha256]):
                    break
                self.fetches.wait(sha256, beat)
            else:
                raise StorageFull(f"The cache has no room for blob {sha256}; raise REGISTRY_CACHE_BYTES.")
        self.cache.trim(self.most)

    def hold_excerpt(self, stack: ExitStack, excerpt: Excerpt, beat: Beat = idle) -> Path:
        """Have an excerpt of a blob in the cache until a stack is left; bytes that are here are hashed, others fetched.

        Where the server of the bucket sends objects whole alone, the blob is fetched whole.

        Raises:
            BlobDamaged, StorageFull, StorageFailed: As of `hold`.
        """
        path = self.path(excerpt.sha256)
        if self.cache.hold(stack, [path.name]):  # there is no whole copy
            self.cache.hold_some(stack, path.name, excerpt.size)
            try:
                self.excerpts.wait(excerpt, beat)
                path = self.cache.path_of_some(path.name)
            except Unranged:
                self.hold(stack, [path.name], beat)
        self.cache.trim(self.most)
        return path

    def chunks(self, sha256: str) -> Iterator[bytes]:
        """Yield the bytes of a blob as the bucket has them."""
        return self.bucket.read(sha256)

    def take(self, sha256: str, size: int, chunks: Iterable[bytes]) -> None:
        """Put a blob into the bucket whose bytes another place has."""
        self.bucket.put_chunks(sha256, verified(chunks, sha256, size), size)

    def has(self, sha256: str, size: int) -> bool:
        """Say whether the bucket has a blob: in its size, since only bytes that were hashed get a name there."""
        return self.size(sha256) == size

    def lend(self, sha256: str, filename: str, seconds: int) -> str | None:
        """Return an address from which anybody can download a blob for a while."""
        return self.bucket.url(sha256, filename, seconds)

    def send_ahead(self, staged: Path, sha256: str, beat: Beat = idle) -> None:
        """Put a staged file into the bucket, before the transaction in which `adopt` finds it there.

        Raises:
            DigestMismatch, StorageFailed: The bytes were not taken.
        """

        def stopping() -> bool:
            beat()  # it raises where the work is to be given up; what it returns says something else
            return False

        self.bucket.put(sha256, staged, staged.stat().st_size, stopping)

    def adopt(self, staged: Path, sha256: str, *, again: bool = False) -> None:
        """Put a staged file whose bytes hash to `sha256` into the bucket, if it is not there, and keep a copy.

        The staged file is gone afterwards. With `again`, what is there is damaged, and replaced.

        Raises:
            StorageFailed: The bucket did not take the bytes; the staged file is thrown away.
        """
        try:
            size = staged.stat().st_size
            if again or size <= CHUNK or self.size(sha256) != size:  # sending a small one takes no longer than asking
                self.bucket.put(sha256, staged, size)
            with suppress(OSError):  # it is only a copy
                self.cache.trim(self.most)
                self.cache.folder.mkdir(exist_ok=True)
                with staged.open("rb") as file:
                    os.fchmod(file.fileno(), 0o444)
                    os.fsync(file.fileno())
                staged.replace(self.path(sha256))
                sync_folder(self.cache.folder)
        finally:
            staged.unlink(missing_ok=True)

    def set_aside(self, sha256: str) -> None:
        """Do nothing: the object goes after the commit."""

    def remove(self, sha256: str) -> None:
        """Delete a blob, and its copy here; the caller holds the lock of its row, which no longer says it is there.

        Raises:
            StorageFailed: The bucket did not delete it.
        """
        self.bucket.delete(self.path(sha256).name)
        self.distrust(sha256)

    def discard_unfinished(self, before: datetime) -> None:
        """Discard what was sent of objects that were begun before a time and not finished."""
        self.bucket.discard_unfinished(before)

    def digests(self) -> Iterator[str]:
        """Yield the digest of every blob in the bucket, in order."""
        yield from (item.sha256 for item in self.bucket.list())

    # Whose it is -------------------------------------------------------------------------------------------------

    def owner(self) -> str | None:
        """Return the id of the registry that the bucket belongs to; None if it has none.

        Raises:
            WrongState: The folder belongs to another.
            StorageFailed: The bucket did not answer.
        """
        here, there = super().owner(), self.bucket.owner()
        if None not in (here, there) and here != there:
            raise WrongState(
                f"The folder {self.root} belongs to the registry {here}, and the bucket {self.where} to the registry "
                f"{there}. Set --data and REGISTRY_BUCKET to those of one registry."
            )
        return there

    def own(self, registry_id: str) -> None:
        """Mark the bucket as that of a registry; the folder, a cache, must not pass for one that has all blobs.

        Raises:
            InvalidRequest: The server of the bucket does not know conditional writes.
            StorageFailed: The bucket belongs to another registry, or did not take the mark.
        """
        self.bucket.claim(registry_id)

    def claim(self, registry_id: str) -> None:
        """Mark the bucket again, whose server may be another one, and take the mark from the folder.

        The folder, a cache, had all blobs if they were moved here, and lacks later ones.
        """
        self.own(registry_id)
        (self.root / MARK).unlink(missing_ok=True)

    def require_unused(self) -> None:
        """Refuse a bucket that a registry may be using: of two with one id, each deletes what the other knows.

        Raises:
            InvalidRequest: The bucket has a mark or blobs.
            StorageFailed: The bucket did not answer.
        """
        if self.bucket.owner() is not None or any(True for _ in self.bucket.list()):
            raise InvalidRequest(
                f"{self.place} is, or was, that of a registry. Name an empty one in REGISTRY_BUCKET; or, if that "
                "registry is gone and nothing of it runs, add --replacing. Then run the restore again: it goes on.",
                field="bucket",
            )

    def require_there(self) -> None:
        """Refuse to believe that objects are missing where the bucket itself, or its mark, is not found.

        Raises:
            StorageFailed: It is not found, or belongs to another registry.
        """
        owner = self.bucket.owner()
        if owner is None:
            raise StorageFailed(f"{self.place} has lost its {MARK}; see that REGISTRY_BUCKET names the right one.")
        self.bucket.refuse_other(owner)
