"""Quotas: how much of a namespace's quota is used, computed from its rows, so that no counter can drift.

used       files of bases of its models, patches that its user has contributed, and compositions that its user has asked
           for, each blob once; weights of a base that stay at the Hub do not count
reserved   what is announced for it, until it expires: sessions that are open, or done with bytes that are not used yet;
           and what its user's active jobs will add

Bytes count even where the user need not send them because they are here already: the rows that refer to them keep them.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, case, func, or_, select, union
from sqlalchemy.orm import Session

from registry.db.tables import (
    ACTIVE_JOBS,
    BaseFile,
    Blob,
    Composition,
    CompositionFile,
    Job,
    Model,
    Namespace,
    Patch,
    PatchRevision,
    UploadSession,
    User,
    now,
)
from registry.errors import InvalidRequest, NotFound, TooMany
from registry.services.people.actors import Actor, record

RETRY_SECONDS = 3600  # room is made by a person, not by asking again
JOB_SECONDS = 30  # a job ends by itself, soon


@dataclass(frozen=True)
class Usage:
    """Bytes and upload sessions of a namespace, and how many of each it may have."""

    quota_bytes: int
    quota_uploads: int
    used_bytes: int
    reserved_bytes: int
    open_uploads: int


@dataclass(frozen=True)
class JobLimits:
    """Most active jobs of a user and of a model, and the quotas of a namespace without its own."""

    user_jobs: int
    model_jobs: int
    quota_bytes: int
    quota_uploads: int


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
    composed = (
        select(Namespace.id, CompositionFile.sha256)
        .join(Composition, Composition.id == CompositionFile.composition_id)
        .join(User, User.id == Composition.user_id)
        .join(Namespace, Namespace.name == User.name)
        .where(Namespace.id.in_(spaces))
    )
    return union(bases, patches, composed)


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
    asked = (
        select(Namespace.id.label("namespace_id"), func.sum(Job.size).label("bytes"))
        .join(User, User.name == Namespace.name)
        .join(Job, and_(Job.user_id == User.id, Job.state.in_(ACTIVE_JOBS)))
        .where(Namespace.id.in_(ids))
        .group_by(Namespace.id)
        .subquery()
    )
    reserved = func.coalesce(announced.c.bytes, 0) + func.coalesce(asked.c.bytes, 0)
    query = (
        select(Namespace.id, used.c.bytes, reserved, announced.c.open)
        .outerjoin(used, used.c.namespace_id == Namespace.id)
        .outerjoin(announced, announced.c.namespace_id == Namespace.id)
        .outerjoin(asked, asked.c.namespace_id == Namespace.id)
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
            "too many; cancel uploads, delete compositions, or ask the operator for a larger quota.",
            field="size",
            retry_after=RETRY_SECONDS,
        )


def require_room_for(session: Session, job: Job, limits: JobLimits) -> None:
    """Refuse a job that was added to this transaction if its user or model has too many, or no room for its result.

    A job that was there before is counted already, so asking for it again is not refused.

    Raises:
        TooMany: The user or the model has too many active jobs, or the user's quota of bytes is used up.
    """
    space = session.scalars(  # one job of a user at a time
        select(Namespace)
        .join(User, User.name == Namespace.name)
        .where(User.id == job.user_id)
        .with_for_update(key_share=True, of=Namespace)
        .execution_options(populate_existing=True)
    ).one()
    active = select(func.count()).select_from(Job).where(Job.state.in_(ACTIVE_JOBS))
    mine, everybodys = session.execute(
        select(
            active.where(Job.user_id == job.user_id).scalar_subquery(),
            active.where(Job.model == job.model).scalar_subquery(),
        )
    ).one()
    if mine > limits.user_jobs:
        raise TooMany(
            f"You have {mine - 1} jobs queued or running, and {limits.user_jobs} is the most of a user; "
            "wait until some are done, or cancel compositions that you no longer need.",
            retry_after=JOB_SECONDS,
        )
    if everybodys > limits.model_jobs:
        raise TooMany(
            f"{job.model} has {everybodys - 1} jobs queued or running, and {limits.model_jobs} is the most of a "
            "model; wait until some are done.",
            retry_after=JOB_SECONDS,
        )
    if job.size:
        used = usage(session, space, limits.quota_bytes, limits.quota_uploads)
        before = Usage(**{**vars(used), "reserved_bytes": used.reserved_bytes - job.size})
        require_room(space, before, job.size, is_open=False)


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
