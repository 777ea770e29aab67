"""How much of a namespace's quota is used: computed from what is there, so that nothing has to be given back.

used       files of bases of its models, and patches that its user has contributed, each blob once; weights that a base
           has at the Hub count for nobody
reserved   what is announced for it, until it expires: sessions that are open, or done and not among what is used

Bytes that somebody need not send because they are here count all the same: who refers to them keeps them.
"""

import uuid
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select, union
from sqlalchemy.orm import Session

from registry.db.models import BaseFile, Blob, Model, Namespace, Patch, PatchRevision, UploadSession, User, now
from registry.errors import InvalidRequest, NotFound, TooMany
from registry.services.actors import record

WAIT = 3600  # seconds; room comes by somebody's doing, not by asking again


@dataclass(frozen=True)
class Usage:
    """Bytes and upload sessions of a namespace, and how many of each it may have."""

    quota_bytes: int
    quota_uploads: int
    used_bytes: int
    reserved_bytes: int
    open_uploads: int


def own(namespace_id: uuid.UUID, name: str) -> Any:
    """Return a query for the digests of what a namespace uses."""
    at_the_hub = and_(Model.by_reference, BaseFile.path.endswith(".safetensors"))
    bases = (
        select(BaseFile.sha256)
        .join(Model, Model.id == BaseFile.model_id)
        .where(Model.namespace_id == namespace_id, ~at_the_hub)
    )
    patches = (
        select(PatchRevision.blob_sha256)
        .join(Patch, Patch.id == PatchRevision.patch_id)
        .join(User, User.id == Patch.author_id)
        .where(User.name == name, PatchRevision.blob_sha256.is_not(None))
    )
    return select(union(bases, patches).subquery().c[0])


def usage(session: Session, space: Namespace, quota_bytes: int, quota_uploads: int) -> Usage:
    """Return what a namespace uses; the quotas given are those of the server, where the namespace has none.

    It is one statement: between two, a push would move bytes from what is reserved to what is used, and to neither.
    """
    mine = own(space.id, space.name)
    alive: list[ColumnElement[bool]] = [UploadSession.namespace_id == space.id, UploadSession.expires_at > now()]
    used = select(func.coalesce(func.sum(Blob.size), 0)).where(Blob.sha256.in_(mine))
    reserved = select(func.coalesce(func.sum(UploadSession.size), 0)).where(
        *alive, or_(UploadSession.state == "open", UploadSession.sha256.not_in(mine))
    )
    count = select(func.count()).select_from(UploadSession).where(*alive, UploadSession.state == "open")
    found = session.execute(select(used.scalar_subquery(), reserved.scalar_subquery(), count.scalar_subquery())).one()
    return Usage(
        quota_bytes if space.quota_bytes is None else space.quota_bytes,
        quota_uploads if space.quota_uploads is None else space.quota_uploads,
        int(found[0]),
        int(found[1]),
        int(found[2]),
    )


def counts(session: Session, space: Namespace, sha256: str) -> bool:
    """Say whether bytes are among what a namespace uses."""
    found = own(space.id, space.name).subquery()
    return session.scalar(select(found).where(found.c[0] == sha256).limit(1)) is not None


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


def set_quota(session: Session, name: str, given: dict[str, int | None]) -> Namespace:
    """Give a namespace quotas of its own, or the server's (None); what is so already changes nothing.

    Args:
        session: A writing transaction.
        name: Of the namespace.
        given: `quota_bytes` and `quota_uploads`, as far as they change.

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
        record(session, None, "namespace.quota", name, before=before, after=given)
    return space
