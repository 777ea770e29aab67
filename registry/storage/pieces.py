"""Pieces: the bytes of blobs on their way into or out of a store, hashed meanwhile; and excerpts, a part of a blob."""

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.errors import BreadcrumbError, DigestMismatch, NotFound, StorageFailed
from registry.files.hashing import Extent

CHUNK = 2**20
Beat = Callable[[], object]
GAPS = 100
"""What is not wanted between extents is fetched with them while it is at most a hundredth of them."""


@dataclass(frozen=True, eq=False)
class Excerpt:
    """The bytes of a blob of `size` bytes that somebody needs, in the order in which the blob has them."""

    sha256: str
    size: int
    extents: tuple[Extent, ...]

    @property
    def listed(self) -> list[tuple[int, int, str]]:
        """The first byte, the byte after the last and the sha256 of each extent."""
        return [(extent.start, extent.stop, extent.sha256) for extent in self.extents]


def idle() -> None:
    """Do nothing, where something takes long and nobody waits."""


def checksum(body: bytes) -> dict[str, str]:
    """Return the argument by which an S3 server checks what it was sent."""
    return {"ChecksumSHA256": encode(hashlib.sha256(body).digest())}


def encode(digest: bytes) -> str:
    """Return a digest as S3 writes it."""
    return base64.b64encode(digest).decode()


def joined(chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Yield parts of `size` bytes made of chunks that are no longer; the last one may be shorter."""
    part = bytearray()
    for chunk in chunks:
        part += chunk
        if len(part) >= size:
            yield bytes(part[:size])
            del part[:size]
    if part:
        yield bytes(part)


def verified(chunks: Iterable[bytes], sha256: str, size: int) -> Iterator[bytes]:
    """Yield chunks; fail before the last of them if all together do not have the right size and digest.

    Raises:
        DigestMismatch: They do not.
    """
    hasher, count, last = hashlib.sha256(), 0, b""
    for chunk in chunks:
        hasher.update(chunk)
        count += len(chunk)
        if count > size:
            break
        if last:
            yield last
        last = chunk
    if count != size or hasher.hexdigest() != sha256:
        raise DigestMismatch(f"The bytes of blob {sha256} are damaged; run `crumb-server check`.")
    yield last


def read_whole(path: Path, sha256: str, size: int, stopping: Callable[[], bool]) -> Iterator[bytes]:
    """Yield a file's bytes; fail before the last of them if they do not have the right size and digest.

    Raises:
        NotFound, DigestMismatch, StorageFailed: As `Bucket.put` raises them.
    """

    def chunks() -> Iterator[bytes]:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                if stopping():
                    raise StorageFailed(f"The copy of blob {sha256} to the bucket was stopped; it is made later.")
                yield chunk

    try:
        yield from verified(chunks(), sha256, size)
    except FileNotFoundError:
        raise NotFound(f"The file of blob {sha256} is gone.") from None
    except BreadcrumbError:
        raise
    except OSError as error:
        raise StorageFailed(f"The disk failed on blob {sha256}: {error.strerror or error}.") from error


def join(extents: Iterable[Extent]) -> Iterator[list[Extent]]:
    """Yield extents, in the order of their bytes, in lists that are each fetched by one request."""
    run, gaps = list[Extent](), 0
    for extent in extents:
        gap = extent.start - run[-1].stop if run else 0
        if run and (gaps + gap) * GAPS > extent.stop - run[0].start:
            yield run
            run, gaps, gap = [], 0, 0
        run.append(extent)
        gaps += gap
    if run:
        yield run


def cut(chunks: Iterable[bytes], at: int, extents: Sequence[Extent]) -> Iterator[tuple[Extent, int, memoryview]]:
    """Yield the bytes of extents out of a blob's chunks from byte `at` on: (extent, where they begin, some of them)."""
    place = 0
    for chunk in chunks:
        end = at + len(chunk)
        while place < len(extents) and extents[place].start < end:
            extent = extents[place]
            start, stop = max(at, extent.start), min(end, extent.stop)
            yield extent, start, memoryview(chunk)[start - at : stop - at]
            if stop < extent.stop:
                break
            place += 1
        at = end
