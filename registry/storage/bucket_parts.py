"""Parts of uploads in a bucket, each an object of its own, so that an upload goes on through any server.

    uploads/<id>/<number>-<sha256> ── read in order, hashed, and put under the digest of the whole ──> <digest>
                                         └─ some part is missing or damaged: it is sent again

A part has its digest in its name, so that nobody who sends other bytes can replace one that was acknowledged. Parts of
sessions that are done or gone are deleted by the next sweep.
"""

import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from registry.errors import DigestMismatch, NotFound
from registry.files.names import HEX256
from registry.files.threads import call_each
from registry.storage.bucket import Bucket
from registry.storage.parts import Announced, Slot, being_completed

UPLOADS = "uploads/"
PART = re.compile(rf"{UPLOADS}([0-9a-f]{{32}})/[0-9]+(?:-{HEX256})?")  # nothing of a registry under this prefix
DELETED_AT_ONCE = 8


@dataclass(frozen=True)
class BucketParts:
    """The parts in a bucket; they come through the staging folder of a machine.

    Attributes:
        bucket: The bucket.
        staging: The folder.
        holding: Takes a lock that all machines share; see `Store.holding`.
    """

    bucket: Bucket
    staging: Path
    holding: Callable[[str], AbstractContextManager[bool]]

    def slot(self, upload_id: uuid.UUID, offset: int, size: int, stored: str | None) -> Slot:
        """Return a file for the part alone."""
        return Slot(self.staging / f"put-{os.urandom(16).hex()}", 0, size, stored, apart=True)

    def keep(self, upload_id: uuid.UUID, number: int, slot: Slot, sha256: str) -> None:
        """Put a part into the bucket, unless it was stored before."""
        if slot.stored is None:
            self.bucket.put_file(name_part(upload_id, number, sha256), slot.path, sha256)

    @contextmanager
    def completing(self, upload: Announced) -> Iterator[list[int]]:
        """Put the parts into the bucket as one blob."""
        with self.holding(f"staging/upload-{upload.id.hex}") as locked:
            if not locked:
                raise being_completed()
            yield self.assemble(upload)

    def assemble(self, upload: Announced) -> list[int]:
        """Put the parts of an upload into the bucket as one blob; return the numbers of damaged parts."""
        wrong, whole = list[int](), hashlib.sha256()

        def chunks() -> Iterator[bytes]:
            last = b""
            for number, digest in sorted(upload.digests.items()):
                part = hashlib.sha256()
                try:
                    for chunk in self.bucket.read(name_part(upload.id, number, digest)):
                        part.update(chunk)
                        whole.update(chunk)
                        if last and not wrong:
                            yield last
                        last = chunk
                except NotFound:
                    wrong.append(number)
                    continue
                if part.hexdigest() != digest:
                    wrong.append(number)
            if wrong or whole.hexdigest() != upload.sha256:
                raise DigestMismatch("The parts are not those that were announced.")
            yield last

        try:
            self.bucket.put_chunks(upload.sha256, chunks(), upload.size)
        except DigestMismatch:
            return upload.damaged(wrong, whole.hexdigest())
        return []

    def completed(self, upload_id: uuid.UUID) -> None:
        """Return None: the bytes are in the bucket."""

    def discard(self, upload_id: uuid.UUID) -> None:
        """Do nothing: the next sweep deletes the parts."""

    def collect(self, find_open: Callable[[], set[uuid.UUID]]) -> int:
        """Delete the parts of uploads that are not open, a few at a time."""
        listed = [(item, PART.fullmatch(item.sha256)) for item in self.bucket.list_all(UPLOADS)]
        if not listed:
            return 0
        still = {upload_id.hex for upload_id in find_open()}  # after the list, since a part is younger than its session
        stale = [item for item, match in listed if match and match[1] not in still]
        call_each(self.bucket.delete, [item.sha256 for item in stale], DELETED_AT_ONCE, "parts")
        return sum(item.size for item in stale)


def name_part(upload_id: uuid.UUID, number: int, sha256: str) -> str:
    """Return the name of the object that holds a part."""
    return f"{UPLOADS}{upload_id.hex}/{number}-{sha256}"
