"""Patches: numbered per model, immutable per revision; found, listed, and read from. See revisions.py for pushing."""

import uuid
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import exists, false, func, select, update
from sqlalchemy.orm import Session, joinedload

from registry.db.tables import BaseTensor, Check, Job, Model, Patch, PatchRevision, PatchTensor, PushedFile, User
from registry.errors import Forbidden, NotFound, WrongState
from registry.services.blobs import quotas
from registry.services.catalog import models
from registry.services.people import paging
from registry.services.people.access import AnyModel
from registry.services.people.actors import Actor
from registry.services.queue import jobs

MOST_LOOKUPS = 100  # of tensors of a revision by name, before all of its tensors are gone through
REVISABLE = ("draft", "proposed", "changes_requested")


def revisions() -> Any:
    """Return a query for revisions of patches, each with its patch and author."""
    return (
        select(PatchRevision)
        .join(Patch, Patch.id == PatchRevision.patch_id)
        .options(joinedload(PatchRevision.patch).joinedload(Patch.author))
    )


def current() -> Any:
    """Return a query for the newest revision of patches, each with its patch and author."""
    return revisions().where(Patch.revision == PatchRevision.number)


def numbered(session: Session, model: AnyModel, numbers: Collection[int]) -> Any:
    """Return the condition for patches of a model by their numbers."""
    # Their keys are read first. Joined at once, PostgreSQL expects of a large model a share of all patches that have
    # these numbers in any model, thousands of rows, and reads whole tables for twenty.
    keys = session.scalars(select(Patch.id).where(Patch.model_id == model.id, Patch.number.in_(numbers))).all()
    return Patch.id.in_(keys)


def find(
    session: Session, full_name: str, number: int, revision: int | None = None, *, lock: bool = False
) -> PatchRevision:
    """Return a revision of a patch, the newest unless one is named, with its patch and author.

    Args:
        session: A transaction.
        full_name: `namespace/name`; the caller has been admitted to it.
        number: The patch's number.
        revision: The revision's number.
        lock: Whether to lock the patch's row until the transaction ends.

    Raises:
        NotFound: There is no such patch or revision.
    """
    return find_in(session, models.find(session, full_name), number, revision, lock=lock)


def find_in(
    session: Session, model: Model, number: int, revision: int | None = None, *, lock: bool = False
) -> PatchRevision:
    """Return a revision of a patch as `find` does, in a model that is at hand.

    Raises:
        NotFound: No such patch or revision exists.
    """
    if lock:
        session.scalar(select(Patch.id).where(Patch.model_id == model.id, Patch.number == number).with_for_update())
    query = current() if revision is None else revisions().where(PatchRevision.number == revision)
    found: PatchRevision | None = session.scalar(
        query.where(Patch.model_id == model.id, Patch.number == number).execution_options(populate_existing=lock)
    )
    if found is None:
        dot = "" if revision is None else f".{revision}"
        raise NotFound(f"There is no patch {model.full_name}#{number}{dot}; see `crumb log {model.full_name}`.")
    return found


def check_job(session: Session, revision: PatchRevision) -> Job | None:
    """Return the job that checks a revision, until it ends."""
    return jobs.active(session, f"check:{revision.id}") if revision.state == "checking" else None


def listing(
    session: Session,
    full_name: str,
    *,
    task: str | None = None,
    author: str | None = None,
    state: str | None = None,
    density_min: float | None = None,
    density_max: float | None = None,
    tensor: str | None = None,
    before: int | None = None,
    limit: int = 100,
) -> tuple[list[PatchRevision], int | None]:
    """Return a page of a model's patches, newest first, and the cursor of the next page.

    Densities and tensors are compared patch by patch, so such a page goes through a bounded number of patches: it may
    have few items, or none, and still be followed by another.

    Args:
        session: A transaction.
        full_name: `namespace/name`; the caller has been admitted to it.
        task: Only patches for this task.
        author: Only patches by this user.
        state: Only patches in this state.
        density_min: Only checked patches that change at least this fraction of all weights, between 0 and 1.
        density_max: Only checked patches that change at most this fraction.
        tensor: Only checked patches that change a tensor whose name contains this, ignoring case.
        before: The cursor of the previous page.
        limit: Most patches of a page.

    Raises:
        NotFound: No such model exists.
    """
    model = models.find(session, full_name)
    query = current().where(Patch.model_id == model.id).order_by(Patch.number.desc())
    if task:
        query = query.where(Patch.task == task)
    if author:
        query = query.join(User, User.id == Patch.author_id).where(User.name == author)
    if state:
        query = query.where(Patch.state == state)
    if density_min is not None:
        query = query.where(PatchRevision.density >= density_min)
    if density_max is not None:
        query = query.where(PatchRevision.density <= density_max)
    if tensor:
        query = query.where(touches(session, model, tensor))
    first, end = min(before or model.patch_count + 1, model.patch_count + 1), 1
    if tensor or density_min is not None or density_max is not None:
        rows, end = paging.rows_within(session, query, Patch.number, first, limit)
    else:
        rows = list(session.scalars(query.where(Patch.number < first).limit(limit + 1)))
    page, cursor = paging.cut(rows, limit, lambda row: row.patch.number)
    return page, cursor or (end if end > 1 else None)


def touches(session: Session, model: Model, words: str) -> Any:
    """Return the condition for revisions that change a tensor of a model whose name contains some words."""
    named = select(BaseTensor.name).where(
        BaseTensor.model_id == model.id, func.lower(BaseTensor.name).contains(words.lower(), autoescape=True)
    )
    once = named.cte("named").prefix_with("MATERIALIZED", dialect="postgresql")
    here = PatchTensor.revision_id == PatchRevision.id, PatchTensor.nnz > 0
    names = session.scalars(select(func.count()).select_from(named.subquery())).one()
    if names == 0:
        return false()
    if names > MOST_LOOKUPS:
        return exists().where(*here, PatchTensor.name.in_(select(once.c.name)))
    # Few names are looked up one by one, by the key of `patch_tensors`, a large table, until one is found. PostgreSQL
    # expects one name, and would make a join of EXISTS, for which it goes through all tensors of each revision; a
    # subquery of one value stays what it is.
    found = select(PatchTensor.nnz).join_from(once, PatchTensor, PatchTensor.name == once.c.name).where(*here)
    return found.limit(1).correlate(PatchRevision).scalar_subquery().is_not(None)


def history(session: Session, patch: Patch, limit: int) -> Sequence[PatchRevision]:
    """Return the newest revisions of a patch, oldest first."""
    query = revisions().where(Patch.id == patch.id).order_by(PatchRevision.number.desc()).limit(limit)
    rows: Sequence[PatchRevision] = session.scalars(query).all()
    return rows[::-1]


def tensors(session: Session, revision: PatchRevision) -> Sequence[Any]:
    """Return what a checked revision does to each tensor, in name order, as rows of a PatchTensor's columns."""
    columns = (column for column in PatchTensor.__table__.c if column.name not in ("revision_id", "extents"))
    query = select(*columns).where(PatchTensor.revision_id == revision.id).order_by(PatchTensor.position)
    return session.execute(query).all()


def checks(session: Session, revision: PatchRevision) -> Sequence[Check]:
    """Return what the checks found in a revision, in the order they ran."""
    return session.scalars(select(Check).where(Check.revision_id == revision.id).order_by(Check.position)).all()


def file(
    session: Session, actor: Actor | None, full_name: str, number: int, revision: int | None = None
) -> PatchRevision:
    """Return a revision whose bytes may be downloaded.

    Raises:
        NotFound: No such patch or revision exists.
        WrongState: The revision is not checked.
        Forbidden: The patch is quarantined, and the caller is not an admin.
    """
    row = find(session, full_name, number, revision)
    if row.patch.quarantined_at is not None and not (actor and actor.admin):
        raise Forbidden(f"{full_name}#{number} is quarantined; only an admin may download it.")
    if row.state != "checked":
        raise WrongState(f"{full_name}#{number} is {row.state}; only checked patches can be downloaded.")
    return row


def by_digest(session: Session, model: AnyModel, digests: Sequence[str]) -> dict[str, PatchRevision]:
    """Return a model's checked revisions, by the digest of their file."""
    rows = session.scalars(
        revisions().where(
            Patch.model_id == model.id, PatchRevision.sha256.in_(digests), PatchRevision.state == "checked"
        )
    )
    return {revision.sha256: revision for revision in rows}


def by_id(session: Session, revision_id: uuid.UUID) -> PatchRevision:
    """Return a revision by its key, for the worker."""
    return session.get_one(PatchRevision, revision_id, options=[joinedload(PatchRevision.patch)])


def close(session: Session, patch: Patch) -> None:
    """Let go of what tools of the Hub have sent for a patch that takes no more revisions."""
    held = update(PushedFile).where(PushedFile.patch_id == patch.id, PushedFile.blob_sha256.is_not(None))
    session.flush()
    if session.execute(held.values(blob_sha256=None).returning(PushedFile.path)).all():
        quotas.recount(session, quotas.payer(session, patch.author_id))


def licensed_parts(model: Model, chosen: Sequence[PatchRevision]) -> list[tuple[str, str | None]]:
    """Return the base and some patches of a model, named as people name them, each with its licence."""
    parts = ((f"patch #{revision.patch.number}", revision.license) for revision in chosen)
    return [("the base", model.license), *parts]
