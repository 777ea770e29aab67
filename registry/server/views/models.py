"""From rows to the shapes on the wire: uploads, jobs, models, and what can be pulled of them."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from registry import schemas
from registry.db.tables import Build, Composition, Job, Model, PatchRevision, Recipe, RecipeItem, UploadSession
from registry.services.blobs import uploads
from registry.services.composing import compositions
from registry.services.composing.snapshots import Snapshot
from registry.services.people.rules import Role


def upload(row: UploadSession) -> schemas.Upload:
    """Show an upload session."""
    return schemas.Upload(
        id=str(row.id),
        state="done" if row.state == "done" else "open",
        sha256=row.sha256,
        size=row.size,
        part_size=row.part_size,
        missing=uploads.missing_parts(row),
        expires_at=row.expires_at,
    )


def job(row: Job, ahead: int | None = None) -> schemas.Job:
    """Show a job, and how many are queued before it."""
    return schemas.Job.model_validate(
        {
            "id": str(row.id),
            "ahead": ahead,
            **{name: getattr(row, name) for name in schemas.Job.model_fields if name not in ("id", "ahead")},
        }
    )


def model(row: Model, job_row: Job | None = None, *, card: bool = True, role: Role | None = None) -> schemas.Model:
    """Show a model, and what the caller is to it."""
    return schemas.Model(
        name=row.full_name,
        creator=row.creator.name,
        visibility="public" if row.visibility == "public" else "private",
        license=row.license,
        min_approvals=row.min_approvals,
        required_evaluations=row.required_evaluations,
        state="ready" if row.state == "ready" else "importing",
        base=row.base_digest,
        source=row.source,
        by_reference=row.by_reference,
        parameters=row.parameters,
        size=row.size,
        patches=row.patch_count,
        role=role.word if role is not None else None,
        card=row.card if card else None,
        job=job(job_row) if job_row else None,
        created_at=row.created_at,
    )


def recipe(session: Session, row: Model, found: Recipe) -> schemas.Recipe:
    """Show a recipe with the numbers its patches have in this model."""
    return recipe_of(found, compositions.described(session, row, found))


def recipe_of(found: Recipe, items: Sequence[tuple[RecipeItem, PatchRevision | None]]) -> schemas.Recipe:
    """Show a recipe whose patches are known."""
    return schemas.Recipe(
        digest=found.digest,
        base=found.base_digest,
        alpha=found.alpha,
        patches=[recipe_item(item, revision) for item, revision in items],
    )


def recipe_item(item: RecipeItem, revision: PatchRevision | None) -> schemas.RecipeItem:
    """Show one patch of a recipe, as far as it is still listed."""
    return schemas.RecipeItem(
        sha256=item.sha256,
        weight=item.weight,
        number=revision.patch.number if revision else 0,
        revision=revision.number if revision else 0,
        title=revision.title if revision else "no longer listed",
        author=revision.patch.author.name if revision else None,
        license=revision.license if revision else None,
        state=revision.patch.state if revision else None,
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


def build(row: Build) -> schemas.Build:
    """Show who composed a recipe, and what came out."""
    return schemas.Build.model_validate(row)


def snapshot(session: Session, row: Model, snapshot: Snapshot) -> schemas.Snapshot:
    """Show a model that can be pulled."""
    return schemas.Snapshot(
        model=row.full_name,
        ref=snapshot.ref,
        release=snapshot.release.version if snapshot.release else None,
        channel=snapshot.channel,
        fixed=snapshot.fixed,
        commit=snapshot.commit,
        warnings=snapshot.warnings,
        weights_digest=snapshot.weights_digest,
        recipe=recipe(session, row, snapshot.recipe) if snapshot.recipe else None,
        files=[
            schemas.File(path=file.path, size=file.blob.size, sha256=file.sha256)
            for file in sorted(snapshot.files, key=lambda file: file.path)
        ],
    )
