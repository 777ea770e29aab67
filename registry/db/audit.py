"""The audit log: appended last in its transaction, in commit order, each row hashed over the one before.

    hash = sha256(canonical JSON of the row without its hash, with previous_hash)

A transaction that appends locks the one row of `audit_heads` last, just before its commit, so serials follow commits
and nobody waits long. The head repeats the last serial and hash, so rows deleted at the end are noticed, too.
"""

import hashlib
import json
from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.db.tables import AuditEvent, AuditHead, now

PENDING = "audit"
FIRST_HASH = "0" * 64  # before the first row
ROWS_AT_ONCE = 1000


def append_later(session: Session, event: AuditEvent) -> None:
    """Add an event to the transaction; it is written, with serial and hash, when the transaction commits."""
    session.info.setdefault(PENDING, []).append(event)


def append_pending(session: Session) -> None:
    """Write the events that were added to the transaction. The caller commits next."""
    events: list[AuditEvent] = session.info.pop(PENDING, [])
    if not events:
        return
    session.flush()
    head = session.get_one(AuditHead, 1, with_for_update=True, populate_existing=True)
    for event in events:
        event.serial, event.at, event.previous_hash = head.serial + 1, now(), head.hash
        event.hash = hash_event(event)
        head.serial, head.hash = event.serial, event.hash
        session.add(event)
    session.flush()


def hash_event(event: AuditEvent) -> str:
    """Return the hash of a row."""
    row = {
        "serial": event.serial,
        "at": event.at.isoformat(),
        "user_id": str(event.user_id) if event.user_id else None,
        "user_name": event.user_name,
        "token_prefix": event.token_prefix,
        "action": event.action,
        "subject": event.subject,
        "model_id": str(event.model_id) if event.model_id else None,
        "before": event.before,
        "after": event.after,
        "request_id": event.request_id,
        "previous_hash": event.previous_hash,
    }
    return hashlib.sha256(json.dumps(row, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_head(session: Session) -> dict[str, int | str]:
    """Return serial and hash of the last row that was written; 0 if the head is missing."""
    head = session.get(AuditHead, 1)
    return {"serial": head.serial, "hash": head.hash} if head else {"serial": 0, "hash": FIRST_HASH}


def newest_serial(session: Session) -> int:
    """Return the serial of the newest event of the log."""
    return session.scalars(select(AuditHead.serial).where(AuditHead.id == 1)).one()


def check_chain(session: Session) -> Iterator[str]:
    """Yield a sentence for the first row that was changed, removed or added by hand, if there is one.

    Events may be appended meanwhile: the head that is compared was read just before the query that found no more rows.
    """
    serial, before = 0, FIRST_HASH
    while True:
        head = session.get(AuditHead, 1)
        query = select(AuditEvent).order_by(AuditEvent.serial).limit(ROWS_AT_ONCE)
        events = session.scalars(query.where(AuditEvent.serial > serial) if serial else query).all()
        if not events:
            break
        for event in events:
            if event.serial != serial + 1:
                yield f"The audit log is missing the row after serial {serial}: the next is {event.serial}."
                return
            if event.previous_hash != before or event.hash != hash_event(event):
                yield f"Row {event.serial} of the audit log ({event.action}, {event.subject}) was changed by hand."
                return
            serial, before = event.serial, event.hash
        session.expunge_all()
    if head is None:
        yield f"The audit log has {serial} rows, but no head that says how many were written."
    elif (head.serial, head.hash) != (serial, before):
        yield f"The audit log ends at serial {serial}, but {head.serial} were written."
