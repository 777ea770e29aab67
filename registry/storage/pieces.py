"""Pieces: the bytes of a file as they are sent to a bucket, hashed on the way."""

import base64
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from registry.errors import BreadcrumbError, DigestMismatch, NotFound, StorageFailed

CHUNK = 2**20


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


def read_whole(path: Path, sha256: str, size: int, stopping: Callable[[], bool]) -> Iterator[bytes]:
    """Yield a file's bytes; fail before the last of them if they do not have the right size and digest.

    Raises:
        NotFound, DigestMismatch, StorageFailed: As `Bucket.put` raises them.
    """
    hasher, left = hashlib.sha256(), size
    try:
        with path.open("rb") as file:
            while True:
                if stopping():
                    raise StorageFailed(f"The copy of blob {sha256} to the bucket was stopped; it is made later.")
                chunk = file.read(min(CHUNK, left))
                hasher.update(chunk)
                left -= len(chunk)
                if left == 0 or not chunk:
                    break
                yield chunk
            if left or file.read(1) or hasher.hexdigest() != sha256:
                raise DigestMismatch(f"The file of blob {sha256} is damaged; run `crumb-server check`.")
            yield chunk
    except FileNotFoundError:
        raise NotFound(f"The file of blob {sha256} is gone.") from None
    except BreadcrumbError:
        raise
    except OSError as error:
        raise StorageFailed(f"The disk failed on blob {sha256}: {error.strerror or error}.") from error
