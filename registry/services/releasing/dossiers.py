"""Dossiers: everything known of releases, for many at once: patches, builds, what is missing, and warnings.

A fixed number of queries, whatever the number of releases.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Select, and_, func, select
from sqlalchemy.orm import Session, aliased, joinedload, load_only, selectinload

from registry.db.tables import (
    Build,
    Channel,
    Composition,
    Evaluation,
    Model,
    Patch,
    PatchRevision,
    Recipe,
    RecipeItem,
    Release,
)
from registry.documents import licences, versions
from registry.services.catalog import patches
from registry.services.composing import builds, compositions
from registry.services.composing.snapshots import PUBLISHED
from registry.services.curation import evaluations
from registry.services.people import paging
from registry.services.releasing.taking import TakenFile, taken_by


@dataclass(frozen=True)
class Dossier:
    """A release, and what is known of it; `missing` says what keeps it from being published, a sentence each."""

    release: Release
    recipe: Recipe
    items: list[tuple[RecipeItem, PatchRevision | None]]
    weights_digest: str | None
    builds: Sequence[Build]
    channels: Sequence[str]
    missing: list[str]
    warnings: list[str]
    taken: Sequence[TakenFile]


@dataclass(frozen=True)
class Outline:
    """A release as a list of many shows it: how many patches it holds, and how many of them were yanked."""

    release: Release
    signed: bool
    patches: int
    yanked: int
    channels: Sequence[str]


def dossiers_of(session: Session, model: Model, rows: Sequence[Release]) -> list[Dossier]:
    """Return the dossiers of releases of one model, in their order."""
    digests = {row.recipe_digest for row in rows}
    query = select(Recipe).where(Recipe.digest.in_(digests)).options(selectinload(Recipe.items))
    recipes = {recipe.digest: recipe for recipe in session.scalars(query)}
    known = compositions.held(session, model, digests)
    results_of = select(Composition.recipe_digest, Composition.weights_digest)
    results_of = results_of.where(Composition.model_id == model.id, Composition.recipe_digest.in_(digests))
    composed = dict(session.execute(results_of).all())
    pointing, taken = channels(session, rows), taken_by(session, rows)
    built = builds.builds_by_recipe(session, model.id, digests)
    open_ones = [row for row in rows if row.state not in PUBLISHED]
    before, evaluated = previous(session, model, open_ones), evaluations_by_release(session, model, open_ones)
    results = builds.results(session, model, {row.recipe_digest for row in open_ones})
    dossiers = []
    for row in rows:
        recipe = recipes[row.recipe_digest]
        items = [(item, known.get(item.sha256)) for item in recipe.items]
        missing = []
        if row.state not in PUBLISHED:
            missing = missing_in(row, items, before.get(row.id))
            missing += evaluations.missing_among(model, evaluated.get(row.id, ()))
            subject = f"{model.full_name}@{row.version}"
            dispute = builds.dispute(results[recipe.digest], built[recipe.digest], subject)
            missing += [dispute] if dispute and row.state == "candidate" else []
        held = [revision for _, revision in items if revision]
        warnings = [*yanked(held), *licences.judge(patches.licensed_parts(model, held)).warnings]
        weights = composed.get(recipe.digest)
        known_of = built[recipe.digest], pointing[row.id], missing, warnings, taken[row.id]
        dossiers.append(Dossier(row, recipe, items, weights, *known_of))
    return dossiers


def channels(session: Session, rows: Sequence[Release]) -> dict[UUID, list[str]]:
    """Return the names of the channels that point at releases, by release."""
    by_release: dict[UUID, list[str]] = defaultdict(list)
    query = select(Channel.release_id, Channel.name).where(Channel.release_id.in_([row.id for row in rows]))
    for release_id, name in session.execute(query.order_by(Channel.name)):
        if release_id is not None:
            by_release[release_id].append(name)
    return by_release


def previous(session: Session, model: Model, rows: Sequence[Release]) -> dict[UUID, str | None]:
    """Return the greatest published version below each release."""
    earlier = aliased(Release)
    before = (
        select(earlier.version)
        .where(earlier.model_id == model.id, earlier.state.in_(PUBLISHED), earlier.sort < Release.sort)
        .order_by(earlier.sort.desc())
        .limit(1)
        .scalar_subquery()
    )
    query = select(Release.id, before).where(Release.id.in_([row.id for row in rows]))
    return dict(session.execute(query).all()) if rows else {}


def evaluations_by_release(session: Session, model: Model, rows: Sequence[Release]) -> dict[UUID, set[str]]:
    """Return the evaluations of releases, `dataset:metric`; none if the model requires none."""
    if not (model.required_evaluations and rows):
        return {}
    query = select(Evaluation.release_id, Evaluation.dataset, Evaluation.metric)
    return evaluations.recorded(session, query.where(Evaluation.release_id.in_([row.id for row in rows])))


def missing_in(
    release: Release, items: Sequence[tuple[RecipeItem, PatchRevision | None]], before: str | None
) -> list[str]:
    """Return what of a release's state and patches keeps it from being published, a sentence each.

    Args:
        release: The release.
        items: Its patches, each with its revision.
        before: The published version that it would follow now.
    """
    reasons = [] if release.state == "candidate" else [f"It is {release.state}, and not composed yet."]
    if before is not None and before != release.previous_version:
        reasons.append(f"{before} was published after it was cut; cut it again, to follow that.")
    for item, revision in items:
        if revision is None:
            reasons.append(f"The patch {item.sha256} is no longer listed.")
        elif revision.patch.quarantined_at is not None:
            reasons.append(f"Patch #{revision.patch.number} is quarantined.")
        elif revision.patch.state != "accepted" and not (release.allow_yanked and revision.patch.state == "yanked"):
            reasons.append(f"Patch #{revision.patch.number} is {revision.patch.state}, not accepted.")
        elif revision.number != revision.patch.revision:
            reasons.append(f"Patch #{revision.patch.number} was accepted at revision {revision.patch.revision}.")
    return reasons


def notice(number: int, reason: str | None) -> str:
    """Return the sentence that a release has for a yanked patch."""
    return f"Patch #{number} was yanked: {reason}"


def yanked(revisions: Sequence[PatchRevision]) -> list[str]:
    """Return a sentence for each patch that was yanked."""
    return [
        notice(revision.patch.number, revision.patch.reason)
        for revision in revisions
        if revision.patch.state == "yanked"
    ]


def yanked_by_recipe(session: Session, model: Model, digests: Collection[str] | Select[str]) -> dict[str, list[str]]:
    """Return a sentence for each yanked patch of some recipes, by recipe."""
    listed = and_(PatchRevision.sha256 == RecipeItem.sha256, PatchRevision.state == "checked")
    query = (  # outer joins, or SQLite begins with all yanked patches of the model
        select(RecipeItem.recipe_digest, Patch.number, Patch.state, Patch.reason)
        .outerjoin(PatchRevision, listed)
        .outerjoin(Patch, and_(Patch.id == PatchRevision.patch_id, Patch.model_id == model.id))
        .where(RecipeItem.recipe_digest.in_(digests))
        .order_by(Patch.number)
    )
    by_recipe: dict[str, list[str]] = defaultdict(list)
    for digest, number, state, reason in session.execute(query):
        if state == "yanked":
            by_recipe[digest].append(notice(number, reason))
    return by_recipe


def outlines(session: Session, model: Model, before: str | None, limit: int) -> tuple[list[Outline], str | None]:
    """Return a page of a model's releases, newest version first, and the cursor of the next page.

    Their texts and patches, which may be large, are not read.
    """
    columns = ("version", "sort", "state", "recipe_digest", "created_at", "published_at", "yank_reason", "yanked_at")
    query = (
        select(Release, Release.signature.is_not(None))
        .where(Release.model_id == model.id)
        .options(load_only(*(getattr(Release, name) for name in columns)))
        .options(joinedload(Release.creator), joinedload(Release.publisher))
        .order_by(Release.sort.desc())
    )
    if before:
        query = query.where(Release.sort < versions.parse_version(before).sort_key)
    results, cursor = paging.cut(session.execute(query.limit(limit + 1)).all(), limit, lambda result: result[0].version)
    rows = [row for row, _ in results]
    digests, pointing = [row.recipe_digest for row in rows], channels(session, rows)
    counted = select(RecipeItem.recipe_digest, func.count()).where(RecipeItem.recipe_digest.in_(digests))
    counts = dict(session.execute(counted.group_by(RecipeItem.recipe_digest)).all())
    yanked_query = (
        select(RecipeItem.recipe_digest, func.count())
        .join(PatchRevision, PatchRevision.sha256 == RecipeItem.sha256)
        .join(Patch, Patch.id == PatchRevision.patch_id)
        .where(Patch.model_id == model.id, Patch.state == "yanked", PatchRevision.state == "checked")
        .where(RecipeItem.recipe_digest.in_(digests))
        .group_by(RecipeItem.recipe_digest)
    )
    yanks = dict(session.execute(yanked_query).all())
    page = [
        Outline(row, signed, counts[row.recipe_digest], yanks.get(row.recipe_digest, 0), pointing[row.id])
        for row, signed in results
    ]
    return page, cursor
