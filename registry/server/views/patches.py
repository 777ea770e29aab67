"""Views of patches: as a list, one revision, its tensors and checks; and of proposed cards."""

from typing import cast

from sqlalchemy.orm import Session

from registry import schemas
from registry.db.tables import CardProposal, Check, Job, Model, PatchRevision, Push, RevisionFile
from registry.files.collector import paused_collector
from registry.server.views import jobs as job_views
from registry.services.catalog import beside, patches
from registry.services.curation import cards
from registry.services.curation.reviews import Affected
from registry.services.hub import pushes
from registry.services.queue import jobs


def patch(
    full_name: str, row: PatchRevision, job_row: Job | None = None, affected: Affected | None = None
) -> schemas.Patch:
    """Return the shape of a patch at a revision."""
    words = ("title", "message", "license", "sha256", "size", "refusal", "nnz", "density")
    mask = ("drop_bottom", "drop_top", "granularity", "value_dtype", "norm", "rounding", "base_norm", "created_at")
    return schemas.Patch.model_validate(
        {
            "model": full_name,
            "number": row.patch.number,
            "revision": row.number,
            "newest": row.patch.revision,
            "state": row.patch.state,
            "reason": row.patch.reason,
            "superseded_by": row.patch.superseded_by,
            "quarantined": row.patch.quarantine_reason,
            "check": row.state,
            "author": row.patch.author.name,
            "task": row.patch.task,
            "base": row.base_digest,
            "job": job_views.job(job_row) if job_row else None,
            "affected": affected,
            "origin": row.origin,
            **{name: getattr(row, name) for name in (*words, *mask)},
        }
    )


def push(session: Session, model: Model, number: int) -> schemas.Push | None:
    """Return what tools of the Hub have sent for a patch; None if it came in another way."""
    row = pushes.find(session, model, number)
    if row is None:
        return None
    return described_push(session, row)


def upcoming(session: Session, row: PatchRevision) -> schemas.Push | None:
    """Return what was pushed for the next revision of a patch, while there is none; None if nothing was."""
    found = pushes.unfinished(session, row.patch_id)
    return described_push(session, found) if found else None


def described_push(session: Session, row: Push) -> schemas.Push:
    """Return the shape of a push of a patch, with the job that compares it."""
    job_row = jobs.active(session, pushes.key_of(row.patch_id)) if row.state == "diffing" else None
    words = {name: getattr(row, name) for name in ("state", "title", "message", "error", "created_at")}
    job = job_views.queued(session, job_row) if job_row else None
    return schemas.Push.model_validate(
        {"number": row.patch.number, "author": row.patch.author.name, "job": job, **words}
    )


def patch_file(row: RevisionFile) -> schemas.PatchFile:
    """Return the shape of a file that came with a patch."""
    keys = None if row.keys is None else [schemas.KeyChange(key=a, before=b, after=c) for a, b, c in row.keys["keys"]]
    more = 0 if row.keys is None else row.keys["more"]
    return schemas.PatchFile(path=row.path, size=row.size, sha256=row.sha256, keys=keys, more=more)


def check(row: Check) -> schemas.Check:
    """Return the shape of what a check found."""
    return schemas.Check.model_validate(row)


def find(session: Session, model: Model, ref: tuple[int, int | None]) -> PatchRevision:
    """Return the row of a patch at a revision, for other views.

    Raises:
        NotFound: No such patch or revision exists.
    """
    return patches.find_in(session, model, *ref)


def show(session: Session, model: Model, row: PatchRevision) -> schemas.Patch:
    """Return a patch at a revision, with its files and the job that checks it."""
    return with_files(session, patch(model.full_name, row, patches.check_job(session, row)), row)


def with_files(session: Session, shown: schemas.Patch, row: PatchRevision) -> schemas.Patch:
    """Return the shape of a patch with the files that came with it."""
    return shown.model_copy(update={"files": [patch_file(file) for file in beside.files_of(session, row)]})


def listing(
    session: Session,
    name: str,
    *,
    task: str | None = None,
    author: str | None = None,
    state: str | None = None,
    density_min: float | None = None,
    density_max: float | None = None,
    tensor: str | None = None,
    before: int | None = None,
    limit: int,
) -> schemas.PatchPage:
    """Return a page of a model's patches, newest first; see `services.catalog.patches.listing` for the filters."""
    rows, cursor = patches.listing(
        session,
        name,
        task=task,
        author=author,
        state=state,
        density_min=density_min,
        density_max=density_max,
        tensor=tensor,
        before=before,
        limit=limit,
    )
    return schemas.PatchPage(items=[patch(name, row) for row in rows], next=cursor)


def tensors(session: Session, row: PatchRevision) -> list[schemas.TensorStats]:
    """Return what a checked revision does to each tensor, in name order."""
    with paused_collector():
        return [schemas.TensorStats.model_validate(found) for found in patches.tensors(session, row)]


def card_proposal(model: Model, row: CardProposal, *, whole: bool = True) -> schemas.CardProposal:
    """Return the shape of a proposed card, with its text and a diff if `whole`."""
    words = {name: getattr(row, name) for name in ("title", "message", "created_at")}
    return schemas.CardProposal(
        model=model.full_name,
        number=row.patch.number,
        state=cast(schemas.PatchState, row.patch.state),
        reason=row.patch.reason,
        author=row.patch.author.name,
        sha256=cards.digest(row.card),
        card=row.card if whole else None,
        diff=cards.diff(model, row) if whole else None,
        license=cards.other_license(model, row),
        **words,
    )


def card_page(session: Session, model: Model, state: str | None, before: int | None, limit: int) -> schemas.CardPage:
    """Return a page of the proposals of a model's card, newest first."""
    rows, cursor = cards.listing(session, model, state, before, limit)
    return schemas.CardPage(items=[card_proposal(model, row, whole=False) for row in rows], next=cursor)


def proposed_card(session: Session, model: Model, number: int) -> schemas.CardProposal | None:
    """Return a proposal of a model's card by its number; None if the number is not that of one."""
    row = cards.seek(session, model, number)
    return card_proposal(model, row) if row else None
