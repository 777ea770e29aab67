"""Parts of uploads in a bucket, each an object of its own, so that an upload goes on through any server.

    uploads/<id>/<number> ── read in order, hashed, and put under the digest of the whole ──> <digest>
                                └─ some part is missing or damaged: it is sent again

Parts of sessions that are done or gone are deleted by the next sweep.
"""

import hashlib
import uuid
from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.db.session import Database
from registry.db.tables import UploadSession
from registry.errors import DigestMismatch, NotFound
from registry.storage.bucket_store import UPLOADS, BucketStore


def name_part(upload_id: uuid.UUID, number: int) -> str:
    """Return the name of the object that holds a part."""
    return f"{UPLOADS}{upload_id.hex}/{number}"


def assemble(upload: UploadSession, store: BucketStore) -> list[int]:
    """Put the parts of an upload into the bucket as one blob; return the numbers of damaged parts, none if it is there.

    If every part is right but the whole is not, the announced digest is wrong: all parts count as damaged.

    Raises:
        StorageFailed: The bucket failed.
    """
    damaged: list[int] = []
    digests = {part.number: part.sha256 for part in upload.parts}

    def chunks() -> Iterator[bytes]:
        whole, last = hashlib.sha256(), b""
        for number in range(upload.part_count):
            part = hashlib.sha256()
            try:
                for chunk in store.bucket.read(name_part(upload.id, number)):
                    part.update(chunk)
                    whole.update(chunk)
                    if last and not damaged:
                        yield last
                    last = chunk
            except NotFound:
                damaged.append(number)
                continue
            if part.hexdigest() != digests[number]:
                damaged.append(number)
        if damaged or whole.hexdigest() != upload.sha256:
            raise DigestMismatch("The parts are not those that were announced.")
        yield last

    try:
        store.bucket.put_chunks(upload.sha256, chunks(), upload.size)
    except DigestMismatch:
        return damaged or list(range(upload.part_count))
    return []


def collect(database: Database, store: BucketStore) -> int:
    """Delete parts whose upload is done or gone; return how many bytes.

    Raises:
        StorageFailed: The bucket failed.
    """
    listed = list(store.bucket.list_all(UPLOADS))  # before the rows, since a part is younger than its session
    if not listed:
        return 0
    with database.read() as session:
        open_ = find_open(session)
    stale = [item for item in listed if item.sha256.removeprefix(UPLOADS).partition("/")[0] not in open_]
    for item in stale:
        store.bucket.delete(item.sha256)
    return sum(item.size for item in stale)


def find_open(session: Session) -> set[str]:
    """Return the ids of the sessions that take parts."""
    return {
        upload_id.hex for upload_id in session.scalars(select(UploadSession.id).where(UploadSession.state == "open"))
    }
