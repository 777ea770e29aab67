"""Patches: numbered per model, immutable per revision, checked by a worker before they can be composed."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, select
from sqlalchemy.orm import Session, joinedload

from registry.db.models import Job, Model, Patch, PatchRevision, PatchTensor, User
from registry.errors import Conflict, InvalidRequest, NotFound
from registry.services import blobs, jobs, models
from registry.services.actors import Actor, record


@dataclass(frozen=True)
class Contribution:
    """What a contributor says of a patch."""

    sha256: str
    title: str
    message: str
    task: str | None


def push(session: Session, actor: Actor, full_name: str, given: Contribution) -> tuple[PatchRevision, Job | None]:
    """Add an uploaded patch file to a model under the next number.

    Returns:
        The revision and its check job; no job when the author had pushed the same file before and it is checked.

    Raises:
        NotFound, Conflict: the model is not there, or not ready; or somebody else pushed the same file.
        InvalidRequest: the bytes are not here.
    """
    model = models.ready(session, full_name, lock=True)
    twin = session.scalar(
        current().where(
            Patch.model_id == model.id, PatchRevision.sha256 == given.sha256, PatchRevision.state != "refused"
        )
    )
    if twin is not None:
        if twin.patch.author_id != actor.user_id:
            raise Conflict(
                f"{full_name}#{twin.patch.number} by {twin.patch.author.name} is the same file.",
                field="sha256",
            )
        return twin, jobs.active(session, f"check:{twin.id}")
    known = blobs.readable(session, actor.user_id, [given.sha256])
    if not known:
        raise InvalidRequest("The bytes of this patch are not here; upload them first.", field="sha256")
    model.patch_count += 1
    patch = Patch(model_id=model.id, number=model.patch_count, author_id=actor.user_id, task=given.task, revision=1)
    session.add(patch)
    session.flush()
    revision = PatchRevision(
        patch_id=patch.id,
        number=1,
        state="checking",
        title=given.title,
        message=given.message,
        base_digest=model.base_digest,
        sha256=given.sha256,
        blob_sha256=given.sha256,
        size=known[given.sha256],
    )
    session.add(revision)
    session.flush()
    job = jobs.enqueue(
        session,
        actor,
        "check",
        f"check:{revision.id}",
        full_name,
        f"#{patch.number}",
        {"revision_id": str(revision.id), "model_id": str(model.id)},
    )
    record(session, actor, "patch.push", f"{full_name}#{patch.number}", sha256=given.sha256)
    return find(session, full_name, patch.number), job


def current() -> Any:
    """Return a query for the newest revision of patches, each with its patch and author."""
    return (
        select(PatchRevision)
        .join(Patch, and_(Patch.id == PatchRevision.patch_id, Patch.revision == PatchRevision.number))
        .options(joinedload(PatchRevision.patch).joinedload(Patch.author))
    )


def find(session: Session, full_name: str, number: int) -> PatchRevision:
    """Return the newest revision of a patch, with its patch and author.

    Raises:
        NotFound: there is no such model or patch.
    """
    model = models.find(session, full_name)
    found: PatchRevision | None = session.scalar(current().where(Patch.model_id == model.id, Patch.number == number))
    if found is None:
        raise NotFound(f"There is no patch {full_name}#{number}.")
    return found


def check_job(session: Session, revision: PatchRevision) -> Job | None:
    """Return the job that checks a revision, while there is one."""
    return jobs.active(session, f"check:{revision.id}") if revision.state == "checking" else None


def listing(
    session: Session, full_name: str, task: str | None, author: str | None, before: int | None, limit: int
) -> tuple[list[PatchRevision], int | None]:
    """Return a page of a model's patches, newest first, and the cursor of the next page."""
    model = models.find(session, full_name)
    query = current().where(Patch.model_id == model.id).order_by(Patch.number.desc())
    if task:
        query = query.where(Patch.task == task)
    if author:
        query = query.join(User, User.id == Patch.author_id).where(User.name == author)
    if before:
        query = query.where(Patch.number < before)
    found = list(session.scalars(query.limit(limit + 1)))
    return found[:limit], found[limit - 1].patch.number if len(found) > limit else None


def tensors(session: Session, revision: PatchRevision) -> Sequence[PatchTensor]:
    """Return what a checked revision does to each tensor, in name order."""
    return session.scalars(
        select(PatchTensor).where(PatchTensor.revision_id == revision.id).order_by(PatchTensor.position)
    ).all()


def file(session: Session, full_name: str, number: int) -> PatchRevision:
    """Return a revision whose bytes may be served.

    Raises:
        NotFound: there is no such patch.
        Conflict: it is not checked.
    """
    revision = find(session, full_name, number)
    if revision.state != "checked":
        raise Conflict(f"{full_name}#{number} is {revision.state}; only checked patches can be downloaded.")
    return revision


def titles(session: Session, model: Model, digests: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Return number and title of a model's patches by file digest."""
    found = session.scalars(
        current().where(Patch.model_id == model.id, PatchRevision.sha256.in_(digests), PatchRevision.state == "checked")
    )
    return {revision.sha256: (revision.patch.number, revision.title) for revision in found}


def by_id(session: Session, revision_id: uuid.UUID) -> PatchRevision:
    """Return a revision by its key, for the worker."""
    return session.get_one(PatchRevision, revision_id, options=[joinedload(PatchRevision.patch)])


def finish_check(session: Session, revision: PatchRevision, subject: str, report: dict[str, Any]) -> None:
    """Write down what a worker found in a sound file, and open the patch for composing."""
    for position, tensor in enumerate(report["tensors"]):
        session.add(PatchTensor(revision_id=revision.id, position=position, **tensor))
    for name in ("nnz", "density", "drop_bottom", "drop_top", "granularity", "value_dtype"):
        setattr(revision, name, report[name])
    revision.state = "checked"
    session.flush()
    record(session, None, "patch.checked", subject, sha256=revision.sha256)


def refuse(session: Session, revision: PatchRevision, subject: str, error: str) -> None:
    """Refuse a revision and let go of its bytes; number, words and reason stay on record."""
    revision.state, revision.refusal, revision.blob_sha256 = "refused", error, None
    session.flush()
    record(session, None, "patch.refused", subject, error=error)
