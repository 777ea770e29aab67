"""Views of recipes: what they hold, what came of them, what they would give, and what can be pulled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from registry import schemas
from registry.breadcrumbs.comparing.alpha import AUTO
from registry.db.tables import Build, Composition, Job, Model, PatchRevision, Recipe, RecipeItem
from registry.errors import RevisionNotFound
from registry.server.views import conflicts as conflict_views
from registry.server.views import jobs as job_views
from registry.server.views import patches as patch_views
from registry.services.catalog import choices, patches
from registry.services.composing import alphas, builds, compositions, previews, snapshots
from registry.services.composing.mixes import Ingredient, Mix
from registry.services.composing.previews import Preview
from registry.services.composing.snapshots import Snapshot
from registry.services.people.actors import Actor
from registry.services.queue import jobs

WHOLE = 64  # digits of a recipe


def recipe(session: Session, model: Model, row: Recipe) -> schemas.Recipe:
    """Return a recipe with the numbers that its patches have in a model."""
    return described_recipe(row, compositions.described(session, model, row))


def described_recipe(row: Recipe, items: Sequence[tuple[RecipeItem, PatchRevision | None]]) -> schemas.Recipe:
    """Return the shape of a recipe whose patches are at hand."""
    return schemas.Recipe(
        digest=row.digest,
        base=row.base_digest,
        alpha=row.alpha,
        method=row.method,
        patches=[recipe_item(item, revision) for item, revision in items],
    )


def recipe_item(item: RecipeItem, revision: PatchRevision | None) -> schemas.RecipeItem:
    """Return the shape of one patch of a recipe; little is known of a patch that is no longer listed."""
    return schemas.RecipeItem(
        sha256=item.sha256,
        weight=item.weight,
        where=list(item.where),
        number=revision.patch.number if revision else 0,
        revision=revision.number if revision else 0,
        title=revision.title if revision else "no longer listed",
        author=revision.patch.author.name if revision else None,
        license=revision.license if revision else None,
        state=revision.patch.state if revision else None,
    )


def composition(
    session: Session, model: Model, row: Recipe, result: Composition | None, job: Job | None, asked: str | None = None
) -> schemas.Composition:
    """Return a recipe and its result, or the job that composes it; `asked` is the alpha of the request."""
    items = compositions.described(session, model, row)
    return schemas.Composition(
        recipe=described_recipe(row, items),
        weights_digest=result.weights_digest if result else None,
        device=result.device if result else None,
        seconds=result.seconds if result else None,
        held=result.held if result else False,
        warnings=result.warnings if result else [],
        alpha_rule=alpha_rule(row.method, items, asked),
        left_out=compositions.left_out(session, model, result) if result else [],
        job=job_views.job(job) if job else None,
    )


def alpha_rule(method: str, items: Sequence[tuple[RecipeItem, PatchRevision | None]], asked: str | None) -> str | None:
    """Return the rule that gave the items of a recipe their alpha, if `auto` was asked for."""
    if asked != AUTO:
        return None
    return alphas.rule_for(method, [revision for _, revision in items], [item.weight for item, _ in items])


def auto_rule(session: Session, model: Model, shown: schemas.Recipe) -> str | None:
    """Return the rule of alpha `auto`, if it gives the alpha of a recipe."""
    known = patches.by_digest(session, model, [item.sha256 for item in shown.patches])
    weights = [item.weight for item in shown.patches]
    if len(known) < len(weights):
        return None
    revisions = [known[item.sha256] for item in shown.patches]
    return alphas.found_rule(session, model, shown.method, revisions, weights, shown.alpha)


def build(row: Build) -> schemas.Build:
    """Return the shape of a build."""
    return schemas.Build.model_validate(row)


def build_list(session: Session, model: Model, digest: str) -> list[schemas.Build]:
    """Return the builds of a recipe: who composed it, and with which result."""
    return [build(row) for row in builds.builds_of(session, model.id, digest)]


def snapshot(session: Session, model: Model, found: Snapshot) -> schemas.Snapshot:
    """Return the shape of a snapshot."""
    row = snapshots.recipe_of(session, found)
    return schemas.Snapshot(
        model=model.full_name,
        ref=found.ref,
        release=found.ref if found.release_id else None,
        channel=found.channel,
        fixed=found.fixed,
        commit=found.commit,
        warnings=found.warnings,
        weights_digest=found.weights_digest,
        recipe=recipe(session, model, row) if row else None,
        files=[
            schemas.File(path=file.path, size=file.size, sha256=file.sha256)
            for file in sorted(found.files, key=lambda file: file.path)
        ],
    )


def show_snapshot(session: Session, actor: Actor | None, name: str, ref: str) -> schemas.Snapshot:
    """Return the snapshot that a reference names in a model.

    Raises:
        RevisionNotFound: The reference names nothing.
        WrongState: The base of the model is still being checked.
    """
    return snapshot(session, *snapshots.resolve(session, actor, name, ref))


@dataclass(frozen=True)
class RecipeProgress:
    """A recipe that was asked for: its result, or the job that composes it, and what the caller may do with either.

    `kept` says why nobody can delete the result.
    """

    composition: schemas.Composition
    job: schemas.Job | None
    cancellable: bool
    deletable: bool
    kept: str | None


def progress(session: Session, actor: Actor | None, model: Model, digest: str) -> RecipeProgress:
    """Return a recipe that was asked for on a model.

    Raises:
        RevisionNotFound: Nobody has asked for the recipe.
    """
    row, result, job = compositions.requested(session, model, digest)
    return RecipeProgress(
        composition(session, model, row, result, None),
        job_views.queued(session, job) if job else None,
        job is not None and jobs.cancellable(actor, job),
        result is not None and actor is not None and compositions.may_delete(session, actor, model, result),
        compositions.kept_because(session, model, digest) if result is not None else None,
    )


def preview(session: Session, actor: Actor | None, name: str, body: schemas.RecipeRequest) -> schemas.Preview:
    """Return what a recipe would give; nothing is written."""
    return previewed(previews.preview(session, actor, name, mix(body)))


def mix(body: schemas.RecipeRequest) -> Mix:
    """Return what a body asks for."""
    return Mix(ingredients(body.patches), body.alpha, body.method, body.allow_yanked)


def ingredients(items: Sequence[schemas.RecipeItemRequest]) -> list[Ingredient]:
    """Return the patches that a body names."""
    return [Ingredient(item.number, item.weight, item.revision, item.where) for item in items]


def previewed(found: Preview) -> schemas.Preview:
    """Return the shape of a preview."""
    return schemas.Preview(
        recipe=found.recipe.digest if found.recipe else None,
        alpha=found.recipe.alpha if found.recipe else found.mix.alpha,
        alpha_rule=found.alpha_rule,
        method=found.mix.method,
        composed=found.weights_digest is not None,
        weights_digest=found.weights_digest,
        patches=[
            schemas.PreviewItem(
                sha256=row.sha256,
                weight=weight,
                number=row.patch.number,
                revision=row.number,
                title=row.title,
                author=row.patch.author.name,
                license=row.license,
                state=row.patch.state,
                size=row.size,
                warnings=warnings,
            )
            for row, weight, warnings in found.patches
        ],
        warnings=found.warnings,
        hints=[schemas.Hint.model_validate(hint) for hint in found.hints],
        patch_bytes=sum(row.size for row, _, _ in found.patches),
        model_bytes=found.model_bytes,
        touched=found.touched,
        conflicts=conflict_views.conflicts_among(found.conflicts),
    )


def choice_page(
    session: Session, model: Model, *, words: str, without: Sequence[int], before: str | None, limit: int
) -> tuple[list[schemas.Patch], str | None]:
    """Return a page of the patches that a recipe may take, and the cursor of the next page."""
    rows, cursor = choices.page(session, model, words=words, without=without, before=before, limit=limit)
    return [patch_views.patch(model.full_name, row) for row in rows], cursor


def named_patches(session: Session, model: Model, wanted: Mapping[int, int | None]) -> list[schemas.Patch]:
    """Return patches by number, at a revision or at the newest; those that do not exist are left out."""
    return [patch_views.patch(model.full_name, row) for row in choices.named(session, model, wanted)]


def recipe_at(session: Session, actor: Actor | None, model: Model, ref: str) -> schemas.Recipe | None:
    """Return the recipe that a reference names, composed or not; None for the base.

    Raises:
        RevisionNotFound: The reference names nothing.
        Forbidden: The recipe holds a quarantined patch.
        InvalidRequest: The beginning of a digest is too short or not unique.
    """
    try:
        row = snapshots.recipe_of(session, snapshots.find(session, actor, model, ref))
    except RevisionNotFound:
        if len(ref) < WHOLE:
            raise
        row = compositions.requested(session, model, ref)[0]
    return recipe(session, model, row) if row else None
