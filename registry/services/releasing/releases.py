"""Releases: cut from patches, built twice, published once.

    draft ── composition asked for ──> building ── composed ──> candidate ── publish ──> published ── yank ──> yanked

Everything that keeps a release from being published is in one list, `missing`, which people see before they try.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnClause, Subquery, func, literal_column, select
from sqlalchemy.orm import Session, aliased, defer, joinedload

from registry.breadcrumbs.formats import recipe as recipes
from registry.db.tables import Build, Job, Model, PatchRevision, PatchTensor, Recipe, RecipeItem, Release, now
from registry.documents import versions
from registry.errors import WrongState
from registry.files.beside import COMPANION, is_beside
from registry.services.catalog import models, patches
from registry.services.composing import builds, compositions, holding, snapshots
from registry.services.composing.snapshots import PUBLISHED, Snapshot
from registry.services.people import access, paging
from registry.services.people.actors import Actor, record
from registry.services.people.rules import Role
from registry.services.queue import jobs
from registry.services.releasing import dossiers, taking

MOST_CANDIDATES = 100  # in an inbox
MOST_COMPARED, MOST_TENSORS = 16, 100  # patches whose tensors are looked at in a comparison, and tensors that it shows
OUT: ColumnClause[str] = literal_column(
    "'published'"
)  # written out, or the index of what is published would not be found


@dataclass(frozen=True)
class Comparison:
    """How the patches of two recipes differ; `changed` has the scales before and after, as exact decimals.

    `files` are the files beside the weights that differ, but for the card: path, and sha256 before and after. `tensors`
    are those that the patches touch in which the recipes differ, the most touched first: name, how many of the patches
    touch it, and how many weights they do; `touched` is how many such tensors there are, None for too many patches.
    """

    bump: str
    added: list[tuple[RecipeItem, PatchRevision | None]]
    removed: list[tuple[RecipeItem, PatchRevision | None]]
    changed: list[tuple[PatchRevision | None, str, str]]
    files: list[tuple[str, str | None, str | None]]
    tensors: list[tuple[str, int, int]]
    touched: int | None


def composed(session: Session, model: Model, digest: str) -> None:
    """Make candidates of the releases that waited for a composition, and have another worker build it, too."""
    waiting = session.scalars(
        select(Release)
        .where(Release.model_id == model.id, Release.recipe_digest == digest, Release.state == "building")
        .with_for_update()
    ).all()
    for release in waiting:
        release.state, release.commit = "candidate", taking.commit_of(session, model, release)
        session.flush()
        built = builds.builds_of(session, model.id, digest)
        if not builds.confirmed(built):
            key, worker = compositions.rebuild_key(model, digest), built[0].builder if built else None
            payload, more = {"recipe": digest}, compositions.bytes_of_patches(session, digest)
            jobs.enqueue(session, release.creator_id, "rebuild", key, model, digest, payload, worker, more)


def underway(session: Session, model: Model, release: Release) -> Job | None:
    """Return the active job that composes a release, or composes it again; None if there is none."""
    if release.state in PUBLISHED:
        return None
    first = jobs.active(session, compositions.job_key(model, release.recipe_digest))
    return first or jobs.active(session, compositions.rebuild_key(model, release.recipe_digest))


def failed(session: Session, model: Model, digest: str) -> None:
    """Make drafts again of the releases that waited for a composition that failed."""
    for release in session.scalars(
        select(Release)
        .where(Release.model_id == model.id, Release.recipe_digest == digest, Release.state == "building")
        .with_for_update()
    ):
        release.state = "draft"


def find(session: Session, full_name: str, version: str, *, lock: bool = False) -> Release:
    """Return a release with its creator and publisher.

    Raises:
        NotFound: No such release exists.
    """
    model = models.find(session, full_name)
    release = snapshots.find_release(session, model, version)
    query = select(Release).where(Release.id == release.id)
    query = query.options(joinedload(Release.creator), joinedload(Release.publisher))
    query = query.with_for_update(of=Release) if lock else query
    return session.scalars(query.execution_options(populate_existing=True)).one()


def listing(session: Session, full_name: str, before: str | None, limit: int) -> tuple[list[Release], str | None]:
    """Return a page of a model's releases, newest version first, and the cursor of the next page."""
    model = models.find(session, full_name)
    query = (
        select(Release)
        .where(Release.model_id == model.id)
        .options(joinedload(Release.creator), joinedload(Release.publisher))
        .order_by(Release.sort.desc())
    )
    if before:
        query = query.where(Release.sort < versions.parse_version(before).sort_key)
    return paging.cut(session.scalars(query.limit(limit + 1)).all(), limit, lambda release: release.version)


def published(session: Session, model: Model, limit: int) -> Sequence[Release]:
    """Return the releases of a model that were published last, each with its publisher, yanked ones among them."""
    query = select(Release).where(Release.model_id == model.id, Release.state.in_(("published", "yanked")))
    query = query.options(joinedload(Release.publisher)).order_by(Release.published_at.desc(), Release.id)
    return session.scalars(query.limit(limit)).all()


def recent(
    session: Session, actor: Actor | None, before: str | None, limit: int
) -> tuple[list[tuple[Release, Model]], str | None]:
    """Return a page of the published releases of models that the caller may see, newest first, each with its model.

    Yanked ones are left out. See `paging.through` for the cursor.
    """

    def fill(ends: Subquery) -> Any:
        query = select(Release, Model).select_from(ends).join(Release, Release.id == ends.c.key)
        query = query.join(Model, Model.id == Release.model_id).where(access.visible(actor))
        return query.options(joinedload(Release.publisher), defer(Release.manifest), defer(Release.card))

    out = select(Release).where(Release.state == OUT)
    rows, cursor = paging.through(session, out, Release.published_at, Release.id, before, limit, fill)
    return [(row[0], row[1]) for row in rows], cursor


def newest(session: Session, model: Model, states: Sequence[str], limit: int) -> list[str]:
    """Return up to `limit` versions of releases in some states, the newest first."""
    query = select(Release.version).where(Release.model_id == model.id, Release.state.in_(states))
    return list(session.scalars(query.order_by(Release.sort.desc()).limit(limit)))


def edit(session: Session, actor: Actor, full_name: str, version: str, words: str | None, card: str | None) -> Release:
    """Change the changelog or the card of a release that is not published.

    Raises:
        WrongState: The release is published or yanked.
    """
    release = find(session, full_name, version, lock=True)
    if release.state in PUBLISHED:
        raise WrongState(f"{full_name}@{version} is {release.state} and cannot change; cut the next version.")
    changed = {}
    if words is not None and words != release.changelog:
        release.changelog, changed["changelog"] = words, words
    if card is not None and card != release.card:
        release.card, changed["card"] = card, card
    session.flush()
    if changed:
        model = models.find(session, full_name)
        record(session, actor, "release.edit", f"{full_name}@{version}", model, after=changed)
    return release


def inbox(session: Session, actor: Actor, model: Model) -> dict[str, list[str]]:
    """Return the candidates to publish, and the recipes that were composed to different results."""
    if access.role_on(session, actor, model) < Role.MAINTAINER:
        return {"candidates": [], "alarms": []}
    candidates = select(Release.version).where(Release.model_id == model.id, Release.state == "candidate")
    mine = aliased(Build)
    ours = select(mine.id).where(mine.recipe_digest == Recipe.digest, mine.model_id == model.id).exists()
    alarms = (
        select(Build.recipe_digest)
        .where(Build.recipe_digest.in_(select(Recipe.digest).where(Recipe.disputed, ours)), builds.counting(model))
        .group_by(Build.recipe_digest)
        .having(func.count(Build.weights_digest.distinct()) > 1)
        .order_by(Build.recipe_digest)
    )
    return {
        "candidates": list(session.scalars(candidates.order_by(Release.sort).limit(MOST_CANDIDATES))),
        "alarms": list(session.scalars(alarms)),
    }


def missing(session: Session, model: Model, release: Release) -> list[str]:
    """Return what keeps a release from being published, a sentence each."""
    return dossiers.dossiers_of(session, model, [release])[0].missing


def yanked_in(session: Session, model: Model, release: Release) -> list[str]:
    """Return a sentence for each patch of a release that was yanked."""
    return dossiers.yanked_by_recipe(session, model, [release.recipe_digest])[release.recipe_digest]


def compare(session: Session, actor: Actor | None, full_name: str, before: str, after: str) -> Comparison:
    """Compare the recipes of two snapshots.

    Raises:
        NotFound: A snapshot does not exist.
    """
    model = models.ready(session, full_name)
    assert model.base_digest is not None
    named = [snapshots.find(session, actor, model, ref) for ref in (before, after)]
    rows = [snapshots.recipe_of(session, one) for one in named]
    compared = [compositions.to_recipe(row) if row else recipes.make_recipe(model.base_digest, "1", []) for row in rows]
    items = [{item.sha256: item for item in row.items} if row else {} for row in rows]
    old, new = (
        {item.sha256: (versions.effective_scale(one.alpha, item.weight), item.where) for item in one.items}
        for one in compared
    )
    known = patches.by_digest(session, model, [*old, *new])
    unlike = {sha256 for sha256 in old.keys() | new.keys() if old.get(sha256) != new.get(sha256)}
    tensors, touched = touched_tensors(session, [known[sha256] for sha256 in unlike if sha256 in known], len(unlike))
    return Comparison(
        versions.required_bump(compared[0], compared[1]),
        added=[(items[1][sha256], known.get(sha256)) for sha256 in new if sha256 not in old],
        removed=[(items[0][sha256], known.get(sha256)) for sha256 in old if sha256 not in new],
        changed=[
            (known.get(sha256), old[sha256][0], new[sha256][0])
            for sha256 in new
            if sha256 in old and old[sha256] != new[sha256]
        ],
        files=changed_files(*named),
        tensors=tensors,
        touched=touched,
    )


def touched_tensors(
    session: Session, revisions: Sequence[PatchRevision], wanted: int
) -> tuple[list[tuple[str, int, int]], int | None]:
    """Return the tensors that some patches touch, as in a Comparison; `wanted` is how many patches there should be."""
    if wanted > MOST_COMPARED or len(revisions) < wanted:
        return [], None
    inside = PatchTensor.revision_id.in_([row.id for row in revisions])
    weights = func.sum(PatchTensor.nnz)
    query = select(PatchTensor.name, func.count(), weights).where(inside).group_by(PatchTensor.name)
    rows = session.execute(query.order_by(weights.desc(), PatchTensor.name).limit(MOST_TENSORS)).all()
    whole = session.scalars(select(func.count(PatchTensor.name.distinct())).where(inside)).one()
    return [(name, count, int(nnz)) for name, count, nnz in rows], whole


def changed_files(before: Snapshot, after: Snapshot) -> list[tuple[str, str | None, str | None]]:
    """Return the files beside the weights in which two snapshots differ, but for the card."""
    old, new = (
        {file.path: file.sha256 for file in one.files if is_beside(file.path) or file.path == COMPANION}
        for one in (before, after)
    )
    paths = sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path))
    return [(path, old.get(path), new.get(path)) for path in paths]


def yank(session: Session, actor: Actor, full_name: str, version: str, reason: str) -> Release:
    """Yank a published release: it stays pullable by its version, with a warning.

    Raises:
        WrongState: The release is not published.
    """
    release = find(session, full_name, version, lock=True)
    if release.state != "published":
        raise WrongState(f"{full_name}@{version} is {release.state}; only a published release can be yanked.")
    release.state, release.yank_reason, release.yanked_at = "yanked", reason, now()
    session.flush()
    model = models.find(session, full_name)
    after = {"state": "yanked", "reason": reason}
    record(session, actor, "release.yank", f"{full_name}@{version}", model, before={"state": "published"}, after=after)
    return release


def pin(session: Session, actor: Actor, full_name: str, version: str, *, pinned: bool) -> Release:
    """Keep the weights of a release on disk, or no longer. Does nothing if it is so already."""
    model = models.find(session, full_name, lock=True)
    release = find(session, full_name, version, lock=True)
    if release.pinned != pinned:
        release.pinned = pinned
        session.flush()
        before, after = {"pinned": not pinned}, {"pinned": pinned}
        record(session, actor, "release.pin", f"{full_name}@{version}", model, before=before, after=after)
    if pinned:
        holding.hold_recipe(session, model, release.recipe_digest)
    return release
