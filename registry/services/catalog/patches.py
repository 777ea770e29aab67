"""Patches: numbered per model, immutable per revision, checked by a worker before they can be composed."""

import math
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import exists, false, func, insert, select, update
from sqlalchemy.orm import Session, joinedload

from registry.db.tables import BaseTensor, Check, Job, Model, Patch, PatchRevision, PatchTensor, PushedFile, User
from registry.errors import Forbidden, InvalidRequest, NotFound, WrongState
from registry.services.blobs import blobs, quotas
from registry.services.catalog import beside, models, norms
from registry.services.people import paging, policies
from registry.services.people.access import AnyModel
from registry.services.people.actors import Actor, record
from registry.services.queue import jobs

MOST_LOOKUPS = 100  # of tensors of a revision by name, before all of its tensors are gone through
REVISABLE = ("draft", "proposed", "changes_requested")
ADVICE = ("norms", beside.CHECK)  # checks that are not required


@dataclass(frozen=True)
class Contribution:
    """What a contributor sends for a patch; `files` are (path, sha256) of files beside its weights."""

    sha256: str
    title: str
    message: str
    task: str | None = None
    license: str | None = None
    files: tuple[tuple[str, str], ...] = ()


def push(
    session: Session, actor: Actor, full_name: str, contribution: Contribution, propose: bool = False
) -> tuple[PatchRevision, Job | None]:
    """Add an uploaded patch file to a model under the next number, as a draft or, if asked, proposed.

    Returns:
        The revision and its check job; no job if the author pushed the same file before and it is checked.

    Raises:
        NotFound, WrongState: The model does not exist or is not ready, or another user has pushed the same file.
        InvalidRequest: The bytes were not uploaded, or a file or the licence cannot come with a patch.
    """
    model = models.ready(session, full_name, lock=True)
    if (twin := find_twin(session, model, contribution.sha256)) is not None:
        if twin.patch.author_id != actor.user_id:
            raise WrongState(
                f"{full_name}#{twin.patch.number} by {twin.patch.author.name} is the same file.", field="sha256"
            )
        return twin, jobs.active(session, f"check:{twin.id}")
    policies.require_license(session, contribution.license, "The patch")
    quotas.lock_payer(session, actor.user_id)
    sizes = require_bytes(session, actor, model, contribution)
    model.patch_count += 1
    patch = Patch(
        model_id=model.id,
        number=model.patch_count,
        author_id=actor.user_id,
        task=contribution.task,
        state="proposed" if propose else "draft",
    )
    session.add(patch)
    session.flush()
    job = add_revision(session, actor.user_id, model, patch, contribution, sizes, actor.token.origin)
    subject = f"{full_name}#{patch.number}"
    after = {**logged(contribution), "state": patch.state}
    record(session, actor, "patch.push", subject, model, after=after)
    return find(session, full_name, patch.number), job


def revise(
    session: Session, actor: Actor, full_name: str, number: int, contribution: Contribution
) -> tuple[PatchRevision, Job | None]:
    """Add the next revision to the author's patch: it is another file, so checks and approvals start again.

    Raises:
        WrongState: The patch has been decided on, or another revision is the same file.
        InvalidRequest: The bytes were not uploaded, or a file or the licence cannot come with a patch.
    """
    model = models.ready(session, full_name, lock=True)
    before = find(session, full_name, number, lock=True)  # or it could be accepted meanwhile
    patch = before.patch
    if before.sha256 == contribution.sha256 and before.state != "refused":
        return before, jobs.active(session, f"check:{before.id}")
    if (twin := find_twin(session, model, contribution.sha256)) is not None:
        raise WrongState(f"{full_name}#{twin.patch.number}.{twin.number} is the same file.", field="sha256")
    if patch.state not in REVISABLE:
        raise WrongState(f"{full_name}#{number} is {patch.state} and takes no more revisions; push a new patch.")
    policies.require_license(session, contribution.license, "The patch")
    quotas.lock_payer(session, patch.author_id)
    sizes = require_bytes(session, actor, model, contribution)
    patch.revision += 1
    job = add_revision(session, actor.user_id, model, patch, contribution, sizes, actor.token.origin)
    old = {"revision": before.number, "sha256": before.sha256}
    new = {"revision": patch.revision, **logged(contribution)}
    record(session, actor, "patch.revise", f"{full_name}#{number}", model, before=old, after=new)
    return find(session, full_name, number), job


def find_twin(session: Session, model: Model, sha256: str) -> PatchRevision | None:
    """Return the revision of any patch of a model that is this same file, unless it was refused."""
    twin: PatchRevision | None = session.scalar(
        revisions()
        .where(Patch.model_id == model.id, PatchRevision.sha256 == sha256, PatchRevision.state != "refused")
        .limit(1)
    )
    return twin


def logged(contribution: Contribution) -> dict[str, Any]:
    """Return what the audit log says of a contribution: the digests of its bytes."""
    return {"sha256": contribution.sha256, **({"files": dict(contribution.files)} if contribution.files else {})}


def require_bytes(session: Session, actor: Actor, model: Model, contribution: Contribution) -> dict[str, int]:
    """Return the sizes of the uploaded bytes of a contribution, by digest.

    Raises:
        InvalidRequest: Bytes were not uploaded, or a file cannot come with a patch of this model.
    """
    files = beside.named_once(contribution.files)
    known = blobs.readable(session, actor, [contribution.sha256, *files.values()])
    if contribution.sha256 not in known:
        raise InvalidRequest("The bytes of this patch are missing; upload them first.", field="sha256")
    for path, sha256 in files.items():
        if sha256 not in known:
            raise InvalidRequest(f"The bytes of {path} are missing; upload them first.", field="files")
    if files:
        beside.check(session, model, {path: known[sha256] for path, sha256 in files.items()})
    return known


def add_revision(
    session: Session,
    user: uuid.UUID,
    model: Model,
    patch: Patch,
    contribution: Contribution,
    sizes: Mapping[str, int],
    origin: dict[str, Any] | None = None,
) -> Job:
    """Add a patch's newest revision and enqueue its check; `sizes` are of its bytes, by digest."""
    quotas.charge(session, quotas.payer(session, patch.author_id), sizes)
    revision = PatchRevision(
        patch_id=patch.id,
        number=patch.revision or 1,
        state="checking",
        title=contribution.title,
        message=contribution.message,
        license=contribution.license,
        base_digest=model.base_digest,
        sha256=contribution.sha256,
        blob_sha256=contribution.sha256,
        size=sizes[contribution.sha256],
        origin=origin,
    )
    session.add(revision)
    session.flush()
    beside.add(session, revision, dict(contribution.files), sizes)
    payload = {"revision_id": str(revision.id)}
    subject = f"#{patch.number}" if revision.number == 1 else f"#{patch.number}.{revision.number}"
    return jobs.enqueue(session, user, "check", f"check:{revision.id}", model, subject, payload)


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
    columns = (column for column in PatchTensor.__table__.c if column.name != "revision_id")
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


def finish_check(
    session: Session, model: Model, revision: PatchRevision, subject: str, contents: dict[str, Any]
) -> None:
    """Record what a worker read in a sound file, and open the patch for composing."""
    verdicts = record_contents(session, model, revision, contents)
    revision.state = "checked"
    session.flush()
    record(session, None, "patch.checked", subject, model, after={"sha256": revision.sha256, "checks": verdicts})


def record_contents(
    session: Session, model: Model, revision: PatchRevision, contents: dict[str, Any]
) -> dict[str, str]:
    """Record what was read in a sound file; return the verdict of each check."""
    rows = [{"revision_id": revision.id, "position": at, **tensor} for at, tensor in enumerate(contents["tensors"])]
    session.execute(insert(PatchTensor), rows)
    for name in ("nnz", "density", "drop_bottom", "drop_top", "granularity", "value_dtype", "rounding", "base_norm"):
        setattr(revision, name, contents[name])
    beside.finish_check(session, revision, contents["beside"])
    revision.norm = math.sqrt(math.fsum(tensor["l2"] ** 2 for tensor in contents["tensors"]))
    checks = [*contents["checks"], norms.check(session, model, revision, contents["tensors"])]
    for position, check in enumerate(checks):
        required = check["name"] not in ADVICE
        session.add(Check(revision_id=revision.id, position=position, required=required, **check))
    session.flush()
    return {check["name"]: check["status"] for check in checks}


def refuse(session: Session, model: Model, revision: PatchRevision, subject: str, error: str) -> None:
    """Refuse a revision and release its bytes; its number, texts and the reason are kept."""
    revision.state, revision.refusal, revision.blob_sha256 = "refused", error, None
    beside.let_go(session, revision)
    session.flush()
    quotas.recount(session, quotas.payer(session, revision.patch.author_id))
    record(session, None, "patch.refused", subject, model, after={"error": error})


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
