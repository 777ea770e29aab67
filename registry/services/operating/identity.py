"""Identity: the id of a registry, in its database and where its blobs are, so that neither is taken for another's.

    neither has an id ── the first server or worker ──> both have the same one
    one lacks it, or has another ──> refused, before anything is read, written or deleted

A database of a version without ids takes the one that its folder has, or a new one, if the folder holds blobs that it
knows. The folder is marked within the transaction that adds the row, so a kill in between leaves a marked folder, whose
id the next start takes.
"""

import uuid
from contextlib import suppress
from itertools import islice

from sqlalchemy import inspect, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.db.session import Database
from registry.db.tables import STORED, Blob, RegistryId
from registry.errors import WrongState
from registry.services.blobs import places
from registry.storage.bucket import Bucket
from registry.storage.store import MARK, Store

SAMPLE = 100  # blobs that are looked for in a folder that has no id, or of which the database has none


def claim(database: Database, store: Store) -> str:
    """Give a new registry an id, in database and folder; refuse a folder that is not the one of the database.

    Returns:
        The id.

    Raises:
        WrongState: The folder belongs to another registry, or to none.
    """
    own = require_own(database, store)
    if own is None:
        give_id(database, store)
        own = require_own(database, store)
    assert own is not None
    store.claim(own)
    return own


def give_id(database: Database, store: Store) -> None:
    """Give a database that has no id the one of its store, or both a new one.

    Raises:
        WrongState: Another process gave the store another id at the same moment.
    """
    with suppress(IntegrityError), database.write() as session:  # another process may be faster
        if read_id(session) is None:
            registry_id = store.owner() or str(uuid.uuid4())
            session.add(RegistryId(id=1, registry_id=uuid.UUID(registry_id), storage=store.kind))
            session.flush()
            store.own(registry_id)
            if store.owner() != registry_id:
                raise WrongState(f"{store.place} was given an id by another process just now; start again.")


def require_own(database: Database, store: Store) -> str | None:
    """Refuse a store that is not the one of the database; neither is changed.

    Returns:
        The id that both have; None if the database has none yet, and what is stored is what it knows.

    Raises:
        WrongState: The store belongs to another registry, or to none.
    """
    with database.read() as session:
        own = read_id(session)
        require_kind(session, store)
        owner = store.owner()
        if own is None:
            require_known(session, store, owner)
            return None
    if own == owner:
        return own
    if owner is None:
        raise WrongState(
            f"{store.place} is not the one of this registry: it has no {MARK}. Mount that folder, or name it with "
            "--data (a bucket: REGISTRY_BUCKET). If this is a copy of it without that file, write it: "
            f"echo {own} > {store.root / MARK}"
        )
    raise WrongState(
        f"{store.place} belongs to the registry {owner}, and the database to {own}. Set DATABASE_URL, and --data or "
        "REGISTRY_BUCKET, to those of one registry."
    )


def require_known(session: Session, store: Store, owner: str | None) -> None:
    """Refuse a store for a database without an id, unless that knows some of what is stored, or nothing is.

    Raises:
        WrongState: The store holds blobs, or the database knows some, and none of them are the same.
    """
    held = holds(session, store)
    if held is False and owner is None:
        raise WrongState(
            f"{store.place} holds none of the files that the database knows. Set --data or REGISTRY_BUCKET to where "
            "the blobs of this registry are, or DATABASE_URL to the other database."
        )
    if held is False or (held is None and any(True for _ in store.digests())):
        whose = f"belongs to the registry {owner}" if owner else "holds the blobs of a registry"
        raise WrongState(
            f"{store.place} {whose}, and this database knows nothing that is in it. Set DATABASE_URL to the database "
            "of that registry, or --data or REGISTRY_BUCKET to another place."
        )


def require_not_foreign(database: Database, bucket: Bucket) -> None:
    """Refuse a bucket that says of no registry that it belongs to it, if it has blobs that the database does not know.

    Raises:
        StorageFailed: It has, or did not answer.
    """
    if bucket.owner() is not None:
        return
    there = [item.sha256 for item in islice(bucket.list(), SAMPLE)]
    with database.read() as session:
        known = session.scalar(select(Blob.sha256).where(Blob.sha256.in_(there)).limit(1))
    if there and known is None:
        raise bucket.foreign()


def has_ids(database: Database) -> bool:
    """Say whether the database is of a version that knows ids; an older one is migrated first."""
    return inspect(database.reader).has_table(RegistryId.__tablename__)


def require_kind(session: Session, store: Store) -> None:
    """Refuse a store of another kind than that in which the blobs are.

    Raises:
        WrongState: The blobs are on disk and the store is a bucket, or the other way round.
    """
    kept = places.kept_in(session)
    if kept not in (None, store.kind):
        raise WrongState(
            f"The blobs of this registry are kept on {kept}, and REGISTRY_STORE is {store.kind}. Set it to "
            f"{kept}, or move them: crumb-server storage move {store.kind}"
        )


def read_id(session: Session) -> str | None:
    """Return the id that the database has; None if it has none yet."""
    row = session.get(RegistryId, 1)
    return None if row is None else str(row.registry_id)


def holds(session: Session, store: Store) -> bool | None:
    """Say whether a folder holds some of the blobs that the database knows; None if it knows none."""
    known = session.scalars(
        select(Blob.sha256).where(Blob.state.in_(STORED), Blob.damaged_at.is_(None)).order_by(Blob.sha256).limit(SAMPLE)
    ).all()
    return any(store.exists(sha256) for sha256 in known) if known else None
