"""Removal of what is no longer stored in a bucket: objects go after the transaction that let go of them.

    live, or doomed and due ── row no longer stored, `doomed_at` set ── object deleted, `doomed_at` unset
                                   └─ stored again by anybody: the object stays, or is put again

The object is deleted under the lock of its row, which is then still no longer stored. Whoever stores the bytes again
takes that lock first, and sees whether the object is there. A kill leaves a row that says what is to be done.
"""

from sqlalchemy import select

from registry.db.session import Database
from registry.db.tables import ELSEWHERE, Blob
from registry.storage.bucket_store import BucketStore


def run(database: Database, store: BucketStore) -> int:
    """Delete the objects of blobs that are no longer stored; return how many.

    Raises:
        StorageFailed: The bucket did not delete one.
    """
    count = 0
    due = Blob.state.in_(ELSEWHERE), Blob.doomed_at.is_not(None)
    while True:
        with database.write() as session:
            query = select(Blob).where(*due).order_by(Blob.sha256).limit(1)
            blob = session.scalars(query.with_for_update(skip_locked=True)).one_or_none()
            if blob is None:
                return count
            store.remove(blob.sha256)
            blob.doomed_at = None
        count += 1
