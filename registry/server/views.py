"""From rows to the shapes on the wire."""

from sqlalchemy.orm import Session

from registry import schemas
from registry.db.models import Composition, Job, Model, PatchRevision, PatchTensor, Recipe, UploadSession
from registry.services import compositions, uploads
from registry.services.actors import Actor


def whoami(actor: Actor) -> schemas.Whoami:
    """Show who a token speaks for."""
    return schemas.Whoami(
        user=actor.name,
        admin=actor.admin,
        scopes=sorted(actor.scopes),
        token=actor.token.prefix,
        expires_at=actor.token.expires_at,
    )


def upload(row: UploadSession) -> schemas.Upload:
    """Show an upload session."""
    return schemas.Upload(
        id=str(row.id),
        state="done" if row.state == "done" else "open",
        sha256=row.sha256,
        size=row.size,
        part_size=row.part_size,
        missing=uploads.missing(row),
        expires_at=row.expires_at,
    )


def job(row: Job) -> schemas.Job:
    """Show a job."""
    return schemas.Job.model_validate(
        {
            "id": str(row.id),
            **{name: getattr(row, name) for name in schemas.Job.model_fields if name != "id"},
        }
    )


def model(row: Model, job_row: Job | None = None, *, card: bool = True) -> schemas.Model:
    """Show a model."""
    return schemas.Model(
        name=row.full_name,
        owner=row.owner.name,
        state="ready" if row.state == "ready" else "importing",
        base=row.base_digest,
        parameters=row.parameters,
        size=row.size,
        patches=row.patch_count,
        card=row.card if card else None,
        job=job(job_row) if job_row else None,
        created_at=row.created_at,
    )


def patch(full_name: str, row: PatchRevision, job_row: Job | None = None) -> schemas.Patch:
    """Show a patch at its newest revision."""
    same = ("state", "refusal", "title", "message", "sha256", "size", "nnz", "density")
    mask = ("drop_bottom", "drop_top", "granularity", "value_dtype", "created_at")
    return schemas.Patch.model_validate(
        {
            "model": full_name,
            "number": row.patch.number,
            "revision": row.number,
            "author": row.patch.author.name,
            "task": row.patch.task,
            "base": row.base_digest,
            "job": job(job_row) if job_row else None,
            **{name: getattr(row, name) for name in (*same, *mask)},
        }
    )


def tensor(row: PatchTensor) -> schemas.TensorStats:
    """Show what a patch does to one tensor."""
    return schemas.TensorStats.model_validate(row)


def recipe(session: Session, row: Model, found: Recipe) -> schemas.Recipe:
    """Show a recipe with the numbers its patches have in this model."""
    return schemas.Recipe(
        digest=found.digest,
        base=found.base_digest,
        alpha=found.alpha,
        patches=[
            schemas.RecipeItem(sha256=item.sha256, weight=item.weight, number=number, title=title)
            for item, number, title in compositions.view_items(session, row, found)
        ],
    )


def composition(
    session: Session, row: Model, found: Recipe, made: Composition | None, job_row: Job | None
) -> schemas.Composition:
    """Show a recipe and, once composed, its result."""
    return schemas.Composition(
        recipe=recipe(session, row, found),
        weights_digest=made.weights_digest if made else None,
        device=made.device if made else None,
        seconds=made.seconds if made else None,
        job=job(job_row) if job_row else None,
    )


def revision(session: Session, row: Model, found: compositions.Revision) -> schemas.Revision:
    """Show a model that can be pulled."""
    return schemas.Revision(
        model=row.full_name,
        ref=found.ref,
        weights_digest=found.weights_digest,
        recipe=recipe(session, row, found.recipe) if found.recipe else None,
        files=[
            schemas.File(path=file.path, size=file.blob.size, sha256=file.sha256)
            for file in sorted(found.files, key=lambda file: file.path)
        ],
    )
