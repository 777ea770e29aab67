"""How much of a namespace's quota is used: computed from what is there, so that nothing has to be given back.

used       files of bases of its models, and patches that its user has contributed, each blob once; weights that a base
           has at the Hub count for nobody
reserved   what is announced for it, until it expires: sessions that are open, or done and not among what is used

Bytes that somebody need not send because they are here count all the same: who refers to them keeps them.
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

WAIT = 3600  # seconds; room comes by somebody's doing, not by asking again


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
    """Return what a namespace uses; the quotas given are those of the server, where the namespace has none."""
    return usages(session, [space], quota_bytes, quota_uploads)[0]


def usages(session: Session, spaces: Sequence[Namespace], quota_bytes: int, quota_uploads: int) -> list[Usage]:
    """Return what each of some namespaces uses, in their order, as `usage` does.

    It is one statement: between two, a push would move bytes from what is reserved to what is used, and to neither.
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
    found = {row[0]: [int(amount or 0) for amount in row[1:]] for row in session.execute(query)}
    return [
        Usage(
            quota_bytes if space.quota_bytes is None else space.quota_bytes,
            quota_uploads if space.quota_uploads is None else space.quota_uploads,
            *found[space.id],
        )
        for space in spaces
    ]


def counts_against(session: Session, space: Namespace, sha256: str) -> bool:
    """Say whether bytes are among what a namespace uses."""
    found = blobs_used([space.id]).subquery()
    return session.scalar(select(found.c.sha256).where(found.c.sha256 == sha256).limit(1)) is not None


def require_room(space: Namespace, found: Usage, size: int, *, is_open: bool) -> None:
    """Refuse bytes that a namespace has no room for; the caller adds the session, and holds the namespace's lock.

    Raises:
        TooMany: names what is full, and what helps.
    """
    if is_open and found.open_uploads >= found.quota_uploads:
        raise TooMany(
            f"{space.name} has {found.open_uploads} open uploads; complete or cancel some first.", retry_after=WAIT
        )
    taken = found.used_bytes + found.reserved_bytes
    if taken + size > found.quota_bytes:
        raise TooMany(
            f"{space.name} has room for {found.quota_bytes} bytes, {taken} are taken or announced, and {size} more are "
            "too many; cancel uploads, or ask the operator for a greater quota.",
            field="size",
            retry_after=WAIT,
        )


def set_quota(session: Session, name: str, given: dict[str, int | None], actor: Actor | None = None) -> Namespace:
    """Give a namespace quotas of its own, or the server's (None); what is so already changes nothing.

    Args:
        session: A writing transaction.
        name: Of the namespace.
        given: `quota_bytes` and `quota_uploads`, as far as they change.
        actor: Who; None for the operator.

    Raises:
        NotFound: there is no such namespace.
        InvalidRequest: a quota is out of bounds.
    """
    for field, most in (("quota_bytes", 2**63 - 1), ("quota_uploads", 2**31 - 1)):
        value = given.get(field)
        if value is not None and not 0 <= value <= most:
            raise InvalidRequest(f"A quota is a number from 0 to {most}, not {value}.", field=field)
    space = session.scalar(select(Namespace).where(Namespace.name == name).with_for_update(key_share=True))
    if space is None:
        raise NotFound(f"There is no user or organisation {name}.")
    before = {field: getattr(space, field) for field in given}
    if before != given:
        for field, value in given.items():
            setattr(space, field, value)
        session.flush()
        record(session, actor, "namespace.quota", name, before=before, after=given)
    return space
