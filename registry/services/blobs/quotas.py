"""Quotas: how much of a namespace's quota is used.

used       files of bases of its models, patches that its user has contributed with the files beside them, and what its
           user has pushed for others to be made of, each blob once; not weights of a base that stay at the Hub, nor
           compositions, whose bytes are kept while there is room (services/composing/holding.py)
reserved   what is announced for it, until it expires: sessions that are open, or done with bytes that are not used yet

Bytes count even where the user need not send them because they are here already: the rows that refer to them keep them.

What is reserved is computed from rows. What is used is kept in `namespaces.used_bytes`, since summing thousands of
patches at every look takes long: each transaction that adds rows calls `charge` before, each that removes some calls
`recount` after, under the namespace's lock. `check` compares the kept sums with the rows.
"""

import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, or_, select, union
from sqlalchemy.orm import Session

from registry.db.session import Database
from registry.db.tables import (
    BaseFile,
    Blob,
    Model,
    Namespace,
    Patch,
    PatchRevision,
    PushedFile,
    RevisionFile,
    UploadSession,
    User,
    now,
)
from registry.errors import InvalidRequest, NotFound, TooMany
from registry.services.people.actors import Actor, record

RETRY_SECONDS = 3600  # room is made by a person, not by asking again
AT_ONCE = 500  # keys in one statement


@dataclass(frozen=True)
class Usage:
    """Bytes and upload sessions of a namespace, and how many of each it may have."""

    quota_bytes: int
    quota_uploads: int
    used_bytes: int
    reserved_bytes: int
    open_uploads: int


def sources() -> list[Any]:
    """Return queries for what namespaces use, each with the columns `namespace_id` and `sha256`; a blob may recur."""
    at_the_hub = and_(Model.by_reference, BaseFile.path.endswith(".safetensors"))
    namespace_id = Namespace.id.label("namespace_id")
    bases = (
        select(Model.namespace_id.label("namespace_id"), BaseFile.sha256.label("sha256"))
        .join(Model, Model.id == BaseFile.model_id)
        .where(~at_the_hub)
    )
    by_author = select(namespace_id).join(User, User.name == Namespace.name).join(Patch, Patch.author_id == User.id)
    revisions = by_author.join(PatchRevision, PatchRevision.patch_id == Patch.id)
    patches = revisions.add_columns(PatchRevision.blob_sha256.label("sha256"))
    patches = patches.where(PatchRevision.blob_sha256.is_not(None))
    pushed = by_author.join(PushedFile, PushedFile.patch_id == Patch.id)
    pushed = pushed.add_columns(PushedFile.blob_sha256.label("sha256")).where(PushedFile.blob_sha256.is_not(None))
    beside = revisions.join(RevisionFile, RevisionFile.revision_id == PatchRevision.id)
    beside = beside.add_columns(RevisionFile.sha256.label("sha256"))
    return [bases, patches, pushed, beside]


def uses(space: Any, sha256: Any) -> ColumnElement[bool]:
    """Return the condition that a namespace, by its id, uses a blob; both may be columns of the query around it."""
    conditions = []
    for query in sources():
        owner, blob = query.selected_columns
        conditions.append(query.where(owner == space, blob == sha256).correlate(UploadSession, Blob).exists())
    return or_(*conditions)


def computed(spaces: Sequence[uuid.UUID]) -> Any:
    """Return a query for the bytes that namespaces use, each blob once; a namespace that uses none has no row."""
    narrowed = [query.where(query.selected_columns[0].in_(spaces)) for query in sources()]
    mine = union(*narrowed).subquery()
    total = select(mine.c.namespace_id, func.sum(Blob.size)).join(Blob, Blob.sha256 == mine.c.sha256)
    return total.group_by(mine.c.namespace_id)


def charge(session: Session, space: uuid.UUID, blobs: Collection[str]) -> None:
    """Count blobs that rows are about to make a namespace use; call it before those rows are added.

    The blobs have rows already. The namespace stays locked, so that of two transactions that add the same blob only one
    counts it.
    """
    row = locked(session, space)
    names = sorted(set(blobs))
    for start in range(0, len(names), AT_ONCE):
        size = func.coalesce(func.sum(Blob.size), 0)
        new = select(size).where(Blob.sha256.in_(names[start : start + AT_ONCE]), ~uses(space, Blob.sha256))
        row.used_bytes += int(session.scalars(new).one())
    session.flush()


def recount(session: Session, space: uuid.UUID) -> None:
    """Compute what a namespace uses, after rows that made it use blobs were removed."""
    row = locked(session, space)
    row.used_bytes = next((int(size) for _, size in session.execute(computed([space]))), 0)
    session.flush()


def locked(session: Session, space: uuid.UUID) -> Namespace:
    """Return a namespace as it is now, locked until the transaction ends."""
    return session.get_one(Namespace, space, with_for_update={"key_share": True}, populate_existing=True)


def lock_payer(session: Session, user: uuid.UUID | None) -> None:
    """Lock the namespace that pays for what a user contributes; call it before the blobs are locked, or two may wait.

    Everybody locks namespaces before blobs, and both before the audit log.
    """
    if user is not None:
        locked(session, payer(session, user))


def payer(session: Session, user: uuid.UUID) -> uuid.UUID:
    """Return the namespace that pays for what a user contributes: their own."""
    query = select(Namespace.id).join(User, User.name == Namespace.name).where(User.id == user)
    return session.scalars(query).one()


def check(database: Database) -> Iterator[str]:
    """Yield a sentence for every namespace whose used bytes are not what its rows say, and correct them."""
    with database.read() as session:
        kept = session.execute(select(Namespace.id, Namespace.used_bytes).order_by(Namespace.name)).all()
    for start in range(0, len(kept), AT_ONCE):
        with database.read() as session:
            ids = [key for key, _ in kept[start : start + AT_ONCE]]
            sizes = {key: int(size) for key, size in session.execute(computed(ids))}
            spaces = session.scalars(select(Namespace).where(Namespace.id.in_(ids))).all()
        for space in spaces:
            size = sizes.get(space.id, 0)
            if space.used_bytes != size:
                with database.write() as session:
                    recount(session, space.id)
                yield f"{space.name} was counted as using {space.used_bytes} bytes, not {size}; that is corrected."


def usage(session: Session, space: Namespace, quota_bytes: int, quota_uploads: int) -> Usage:
    """Return the usage of a namespace; the given quotas are the server's, for one that has none of its own."""
    return usages(session, [space], quota_bytes, quota_uploads)[0]


def usages(session: Session, spaces: Sequence[Namespace], quota_bytes: int, quota_uploads: int) -> list[Usage]:
    """Return the usage of each namespace, in their order, as `usage` does.

    It is one statement: between two, a push could move bytes from what is reserved to what is used, and hide them.
    """
    ids = [space.id for space in spaces]
    is_open = UploadSession.state == "open"
    unused = ~uses(UploadSession.namespace_id, UploadSession.sha256)
    announced = (
        select(
            UploadSession.namespace_id,
            func.sum(case((or_(is_open, unused), UploadSession.size), else_=0)).label("bytes"),
            func.sum(case((is_open, 1), else_=0)).label("open"),
        )
        .where(UploadSession.namespace_id.in_(ids), UploadSession.expires_at > now())
        .group_by(UploadSession.namespace_id)
        .subquery()
    )
    query = (
        select(Namespace.id, Namespace.used_bytes, announced.c.bytes, announced.c.open)
        .outerjoin(announced, announced.c.namespace_id == Namespace.id)
        .where(Namespace.id.in_(ids))
    )
    amounts = {row[0]: [int(amount or 0) for amount in row[1:]] for row in session.execute(query)}
    return [
        Usage(
            quota_bytes if space.quota_bytes is None else space.quota_bytes,
            quota_uploads if space.quota_uploads is None else space.quota_uploads,
            *amounts[space.id],
        )
        for space in spaces
    ]


def counts_against(session: Session, space: Namespace, sha256: str) -> bool:
    """Say whether bytes count as used by a namespace."""
    return bool(session.scalar(select(uses(space.id, sha256))))


def require_room(space: Namespace, used: Usage, size: int, *, is_open: bool) -> None:
    """Refuse bytes that a namespace has no room for; the caller holds the namespace's lock, and adds the session.

    Raises:
        TooMany: The quota of bytes or of open uploads is used up; the message says which.
    """
    if is_open and used.open_uploads >= used.quota_uploads:
        raise TooMany(
            f"{space.name} has {used.open_uploads} open uploads; complete or cancel some first.",
            retry_after=RETRY_SECONDS,
        )
    taken = used.used_bytes + used.reserved_bytes
    if taken + size > used.quota_bytes:
        raise TooMany(
            f"{space.name} has room for {used.quota_bytes} bytes, {taken} are used or announced, and {size} more are "
            "too many; cancel uploads, or ask the operator for a larger quota.",
            field="size",
            retry_after=RETRY_SECONDS,
        )


def set_quota(session: Session, name: str, quotas: dict[str, int | None], actor: Actor | None = None) -> Namespace:
    """Give a namespace quotas of its own, or the server's (None). Does nothing if they are already set.

    Args:
        session: A writing transaction.
        name: The namespace's name.
        quotas: `quota_bytes` and `quota_uploads`, as far as they change.
        actor: The caller; None for the operator.

    Raises:
        NotFound: No such namespace exists.
        InvalidRequest: A quota is out of bounds.
    """
    for field, most in (("quota_bytes", 2**63 - 1), ("quota_uploads", 2**31 - 1)):
        value = quotas.get(field)
        if value is not None and not 0 <= value <= most:
            raise InvalidRequest(f"A quota is a number from 0 to {most}, not {value}.", field=field)
    space = session.scalar(select(Namespace).where(Namespace.name == name).with_for_update(key_share=True))
    if space is None:
        raise NotFound(f"There is no user or organisation {name}.")
    before = {field: getattr(space, field) for field in quotas}
    if before != quotas:
        for field, value in quotas.items():
            setattr(space, field, value)
        session.flush()
        record(session, actor, "namespace.quota", name, before=before, after=quotas)
    return space
