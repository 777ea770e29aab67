"""Places: where a registry keeps its blobs, on disk or in a bucket, as its database says."""

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from registry.db.tables import RegistryId
from registry.errors import Unavailable
from registry.storage.store import Store


def kept_in(session: Session, *, shared: bool = False, alone: bool = False) -> str | None:
    """Return where the blobs are kept, `disk` or `bucket`; None if the registry has no id yet.

    Args:
        session: A transaction.
        shared: Whether they are not to be moved until it ends.
        alone: Whether nothing is to be stored until it ends.
    """
    query = select(RegistryId.storage)
    if shared or alone:
        query = query.with_for_update(read=shared)
    return session.scalar(query)


def keep_in(session: Session, kind: str) -> None:
    """Record where the blobs are, if the registry has an id."""
    session.execute(update(RegistryId).values(storage=kind))


def is_place(session: Session, store: Store) -> bool:
    """Say whether the blobs are kept in this store, as far as the database knows."""
    return kept_in(session) in (None, store.kind)


def require_place(session: Session, store: Store) -> None:
    """Refuse to store more where the registry no longer keeps its blobs; until the commit they are not moved.

    Raises:
        Unavailable: They were moved while this process was running.
    """
    kept = kept_in(session, shared=True)
    if kept not in (None, store.kind):
        raise Unavailable(
            f"The blobs of this registry were moved to {kept}; its operator must restart it with REGISTRY_STORE={kept}."
        )
