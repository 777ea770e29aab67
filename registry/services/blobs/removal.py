"""Removal of what is no longer stored in a bucket: objects go after the transaction that let go of them.

    live, or doomed and due ── row no longer stored, `doomed_at` set ── due: `bucketed_at` set, committed
                                   └─ stored again: the object stays         └─ object deleted ── both unset
                                                                             └─ no answer: again after LATE

While both are set, a request that deletes the object may be under way: nobody stores the bytes then
(`blobs.require_not_removed`). The object is deleted under the lock of its row, which is then still no longer stored. A
kill leaves a row that says what is to be done. The request is sent once: one whose answer was lost may take effect
later, when another has been answered and the bytes have been stored again. So `bucketed_at` says when it was sent, and
for some time afterwards the object is left alone.
"""

from datetime import timedelta

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from registry.db.session import Database
from registry.db.tables import ELSEWHERE, Blob, now
from registry.services.blobs.places import require_place
from registry.storage.store import Store

LATE = timedelta(minutes=10)  # after which a request without an answer no longer takes effect


def run(database: Database, store: Store, delay: timedelta) -> int:
    """Delete the objects of blobs that have not been stored for some time; return how many.

    Raises:
        StorageFailed: The bucket did not delete one.
        Unavailable: The blobs were moved to another place.
    """
    count = 0
    while True:
        with database.write() as session:
            require_place(session, store)
            blob = next_due(session, delay)
            if blob is None:
                return count
            sent_at = blob.bucketed_at = now()
            sha256 = blob.sha256
        with database.write() as session:
            require_place(session, store)
            blob = next_due(session, delay, sha256)
            if blob is not None and blob.bucketed_at == sent_at:
                store.remove(sha256)
                blob.doomed_at = blob.bucketed_at = None
                count += 1


def next_due(session: Session, delay: timedelta, sha256: str | None = None) -> Blob | None:
    """Return a blob whose object is to be deleted, locked, or the one that is named; None if it is not due."""
    query = select(Blob).where(Blob.state.in_(ELSEWHERE), Blob.doomed_at <= now() - delay)
    if sha256 is not None:
        query = query.where(Blob.sha256 == sha256)
    else:
        query = query.where(
            or_(Blob.bucketed_at.is_(None), Blob.bucketed_at <= now() - LATE, Blob.bucketed_at > now() + LATE)
        )
    query = query.order_by(Blob.sha256).limit(1).with_for_update(skip_locked=True)
    return session.scalars(query.execution_options(populate_existing=True)).one_or_none()
