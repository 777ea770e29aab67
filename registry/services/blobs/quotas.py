"""Quotas: how much of a namespace's quota is used, computed from its rows, so that no counter can drift.

used       files of bases of its models, and patches that its user has contributed, each blob once; weights of a base
           that stay at the Hub do not count
reserved   what is announced for it, until it expires: sessions that are open, or done with bytes that are not used yet

Bytes count even where the user need not send them because they are here already: the rows that refer to them keep them.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, case, func, or_, select, union
from sqlalchemy.orm import Session

from registry.db.tables import BaseFile, Blob, Model, Namespace, Patch, PatchRevision, UploadSession, User, now
from registry.errors import InvalidRequest, NotFound, TooMany
from registry.services.people.actors import Actor, record

RETRY_SECONDS = 3600  # room is made by a person, not by asking again


@dataclass(frozen=True)
class Usage:
    """Bytes and upload sessions of a namespace, and how many of each it may have."""

    quota_bytes: int
    quota_uploads: int
    used_bytes: int
    reserved_bytes: int
    open_uploads: int


def blobs_used(spaces: Sequence[uuid.UUID]) -> Any:
    """Return a query for what namespaces use: each with the digests of its blobs, once."""
    at_the_hub = and_(Model.by_reference, BaseFile.path.endswith(".safetensors"))
    bases = (
        select(Model.namespace_id.label("namespace_id"), BaseFile.sha256.label("sha256"))
        .join(Model, Model.id == BaseFile.model_id)
        .where(Model.namespace_id.in_(spaces), ~at_the_hub)
    )
    patches = (
        select(Namespace.id, PatchRevision.blob_sha256)
        .join(Patch, Patch.id == PatchRevision.patch_id)
        .join(User, User.id == Patch.author_id)
        .join(Namespace, Namespace.name == User.name)
        .where(Namespace.id.in_(spaces), PatchRevision.blob_sha256.is_not(None))
    )
    return union(bases, patches)


def usage(session: Session, space: Namespace, quota_bytes: int, quota_uploads: int) -> Usage:
    """Return the usage of a namespace; the given quotas are the server's, for one that has none of its own."""
    return usages(session, [space], quota_bytes, quota_uploads)[0]


def usages(session: Session, spaces: Sequence[Namespace], quota_bytes: int, quota_uploads: int) -> list[Usage]:
    """Return the usage of each namespace, in their order, as `usage` does.

    It is one statement: between two, a push could move bytes from what is reserved to what is used, and hide them.
    """
    ids = [space.id for space in spaces]
    mine = blobs_used(ids).cte("mine")
    used = (
        select(mine.c.namespace_id, func.sum(Blob.size).label("bytes"))
        .join(Blob, Blob.sha256 == mine.c.sha256)
        .group_by(mine.c.namespace_id)
        .subquery()
    )
    is_open = UploadSession.state == "open"
    ours = and_(mine.c.namespace_id == UploadSession.namespace_id, mine.c.sha256 == UploadSession.sha256)
    announced = (
        select(
            UploadSession.namespace_id,
            func.sum(case((or_(is_open, mine.c.sha256.is_(None)), UploadSession.size), else_=0)).label("bytes"),
            func.sum(case((is_open, 1), else_=0)).label("open"),
        )
        .outerjoin(mine, ours)
        .where(UploadSession.namespace_id.in_(ids), UploadSession.expires_at > now())
        .group_by(UploadSession.namespace_id)
        .subquery()
    )
    query = (
        select(Namespace.id, used.c.bytes, announced.c.bytes, announced.c.open)
        .outerjoin(used, used.c.namespace_id == Namespace.id)
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
    used = blobs_used([space.id]).subquery()
    return session.scalar(select(used.c.sha256).where(used.c.sha256 == sha256).limit(1)) is not None


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
