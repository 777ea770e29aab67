"""Releases: cut from patches, built twice, published once and for ever.

    draft ── composition asked for ──> building ── composed ──> candidate ── publish ──> published ── yank ──> yanked

Whatever keeps a release from being published is in one list, `missing`, which people see before they try.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session, joinedload

from registry.breadcrumbs.formats import recipe as recipes
from registry.db.tables import Build, Job, Model, PatchRevision, Recipe, RecipeItem, Release, now
from registry.documents import changelog, licences, versions
from registry.errors import InvalidRequest, WrongState
from registry.services.catalog import models, patches
from registry.services.composing import builds, compositions, snapshots
from registry.services.composing.compositions import Ingredient
from registry.services.composing.snapshots import PUBLISHED
from registry.services.people import access
from registry.services.people.actors import Actor, record
from registry.services.people.rules import Role
from registry.services.queue import jobs
from registry.services.releasing import dossiers


@dataclass(frozen=True)
class Cut:
    """What a release is to hold: these patches, or those of another revision with some more and without some."""

    version: str
    patches: Sequence[Ingredient] = ()
    from_ref: str | None = None
    add: Sequence[Ingredient] = ()
    without: Sequence[int] = ()
    alpha: str | None = None
    allow_yanked: bool = False


@dataclass(frozen=True)
class Comparison:
    """What became of the patches between two recipes; `changed` has the scales before and after, exact decimals."""

    bump: str
    added: list[tuple[RecipeItem, PatchRevision | None]]
    removed: list[tuple[RecipeItem, PatchRevision | None]]
    changed: list[tuple[PatchRevision | None, str, str]]


def cut(session: Session, actor: Actor, full_name: str, given: Cut) -> tuple[Release, Job | None]:
    """Cut a release and have it composed; cutting the same again changes nothing.

    Raises:
        InvalidRequest: the version does not say what changed, or licences do not go together; names the pair.
        InvalidRecipe: a patch cannot be composed.
        WrongState: the version is published already.
    """
    model = models.ready(session, full_name, lock=True)
    made = choose(session, actor, model, given)
    before = previous(session, model, given.version)
    old = compositions.load(session, before.recipe_digest) if before else None
    versions.check_version(given.version, before.version if before else None, science(old) if old else None, made)
    recipe = compositions.save(session, made)
    described = compositions.described(session, model, recipe)
    require_licences(model, [revision for _, revision in described if revision])
    release = session.scalar(
        select(Release).where(Release.model_id == model.id, Release.version == given.version).with_for_update()
    )
    if release is not None and release.state in PUBLISHED:
        raise WrongState(f"{full_name}@{given.version} is {release.state} and closed for ever; take the next version.")
    asked = recipe.digest, before.version if before else None, given.allow_yanked
    same = release is not None and asked == (release.recipe_digest, release.previous_version, release.allow_yanked)
    if release is not None and same and release.state != "draft":
        return release, jobs.active(session, compositions.job_key(model, recipe.digest))
    changes = changelog.changes_between(entries(session, model, old), entries(session, model, recipe))
    if release is None:
        release = Release(model_id=model.id, version=given.version, creator_id=actor.user_id)
    release.sort, release.state = versions.parse_version(given.version).sort_key, "draft"
    release.recipe_digest, release.allow_yanked = recipe.digest, given.allow_yanked
    release.previous_version, release.card = before.version if before else None, None
    release.changelog = changelog.render_changelog(given.version, now().date(), changes)
    session.add(release)
    session.flush()
    composition, job = compositions.ensure(session, actor.user_id, model, recipe)
    release.state = "building"
    session.flush()
    if composition is not None:
        composed(session, model, recipe.digest)
    after = {"recipe": recipe.digest, "previous": release.previous_version}
    record(session, actor, "release.cut", f"{full_name}@{given.version}", model, after=after)
    return release, job


def choose(session: Session, actor: Actor, model: Model, given: Cut) -> recipes.Recipe:
    """Return the recipe that a cut asks for.

    Raises:
        InvalidRequest: patches are named beside a revision to start from, or one to leave out is not in it.
    """
    items, alpha = {item.number: item for item in given.patches}, given.alpha or recipes.ALPHA
    if len(items) < len(given.patches):
        raise InvalidRequest("A patch is named twice; give it one weight.", field="patches")
    if given.from_ref is not None:
        if given.patches:
            raise InvalidRequest("Name patches or --from, not both; --add puts patches to those of --from.")
        start = snapshots.find(session, actor, model, given.from_ref).recipe
        for item, revision in compositions.described(session, model, start) if start else []:
            if revision is None:
                raise InvalidRequest(f"The patch {item.sha256} of {given.from_ref} is no longer listed.")
            items[revision.patch.number] = Ingredient(revision.patch.number, item.weight, revision.number)
        alpha = given.alpha or (start.alpha if start else alpha)
    items |= {item.number: item for item in given.add}
    for number in given.without:
        if items.pop(number, None) is None:
            raise InvalidRequest(f"Patch #{number} is not there to be left out.", field="without")
    if not items:
        raise InvalidRequest("A release needs a patch; name some, or --from a revision that has some.", field="patches")
    return compositions.choose(session, model, alpha, list(items.values()), allow_yanked=given.allow_yanked)


def science(row: Recipe) -> recipes.Recipe:
    """Return a recipe's row as what is computed with."""
    return recipes.make_recipe(row.base_digest, row.alpha, [(item.sha256, item.weight) for item in row.items])


def previous(session: Session, model: Model, version: str) -> Release | None:
    """Return the greatest published release below a version."""
    return session.scalar(
        select(Release)
        .where(
            Release.model_id == model.id,
            Release.state.in_(PUBLISHED),
            Release.sort < versions.parse_version(version).sort_key,
        )
        .order_by(Release.sort.desc())
        .limit(1)
    )


def entries(session: Session, model: Model, recipe: Recipe | None) -> list[changelog.Entry]:
    """Return what a changelog says of a recipe's patches."""
    if recipe is None:
        return []
    return [
        changelog.Entry(
            number=revision.patch.number if revision else 0,
            title=revision.title if revision else item.sha256,
            author=revision.patch.author.name if revision else "unknown",
            scale=versions.effective_scale(recipe.alpha, item.weight),
            revision=revision.number if revision else 1,
        )
        for item, revision in compositions.described(session, model, recipe)
    ]


def require_licences(model: Model, found: Sequence[PatchRevision]) -> None:
    """Refuse to join what its licences keep apart.

    Raises:
        InvalidRequest: names the pair.
    """
    for pair in licences.judge(patches.licensed_parts(model, found)).incompatible:
        raise InvalidRequest(pair.sentence, field="patches")


def composed(session: Session, model: Model, digest: str) -> None:
    """Make candidates of the releases that waited for a composition, and ask another worker to build it, too."""
    waiting = session.scalars(
        select(Release)
        .where(Release.model_id == model.id, Release.recipe_digest == digest, Release.state == "building")
        .with_for_update()
    ).all()
    for release in waiting:
        release.state = "candidate"
        session.flush()
        found = builds.builds_of(session, model.id, digest)
        if len(found) < builds.ENOUGH:
            key, worker = rebuild_key(model, digest), found[0].builder if found else None
            payload = {"recipe": digest}
            jobs.enqueue(session, release.creator_id, "rebuild", key, model, digest, payload, not_worker=worker)


def rebuild_key(model: Model, digest: str) -> str:
    """Return the key of the job that composes a recipe once more, to compare."""
    return f"rebuild:{model.id}:{digest}"


def underway(session: Session, model: Model, release: Release) -> Job | None:
    """Return the job that composes a release, or composes it once more, while there is one."""
    if release.state in PUBLISHED:
        return None
    first = jobs.active(session, compositions.job_key(model, release.recipe_digest))
    return first or jobs.active(session, rebuild_key(model, release.recipe_digest))


def failed(session: Session, model: Model, digest: str) -> None:
    """Make drafts again of the releases that waited for a composition which did not come."""
    for release in session.scalars(
        select(Release)
        .where(Release.model_id == model.id, Release.recipe_digest == digest, Release.state == "building")
        .with_for_update()
    ):
        release.state = "draft"


def find(session: Session, full_name: str, version: str, *, lock: bool = False) -> Release:
    """Return a release with the people in it.

    Raises:
        NotFound: there is none.
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
    found = list(session.scalars(query.limit(limit + 1)))
    return found[:limit], found[limit - 1].version if len(found) > limit else None


def newest(session: Session, model: Model, states: Sequence[str], limit: int) -> list[str]:
    """Return the newest versions in some states, the newest first."""
    query = select(Release.version).where(Release.model_id == model.id, Release.state.in_(states))
    return list(session.scalars(query.order_by(Release.sort.desc()).limit(limit)))


def edit(session: Session, actor: Actor, full_name: str, version: str, words: str | None, card: str | None) -> Release:
    """Change the changelog or the card of a release that is not published.

    Raises:
        WrongState: it is.
    """
    release = find(session, full_name, version, lock=True)
    if release.state in PUBLISHED:
        raise WrongState(f"{full_name}@{version} is {release.state} and closed for ever.")
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
    """Return the releases that wait to be published, and the recipes that were composed to different results."""
    if access.role_on(session, actor, model) < Role.MAINTAINER:
        return {"candidates": [], "alarms": []}
    waiting = select(Release.version).where(Release.model_id == model.id, Release.state == "candidate")
    alarms = (
        select(Build.recipe_digest)
        .where(Build.recipe_digest.in_(select(Build.recipe_digest).where(Build.model_id == model.id)))
        .where(builds.counting(model))
        .group_by(Build.recipe_digest)
        .having(func.count(Build.weights_digest.distinct()) > 1)
        .order_by(Build.recipe_digest)
    )
    return {
        "candidates": list(session.scalars(waiting.order_by(Release.sort))),
        "alarms": list(session.scalars(alarms)),
    }


def missing(session: Session, model: Model, release: Release) -> list[str]:
    """Return what keeps a release from being published, a sentence each."""
    return dossiers.dossiers_of(session, model, [release])[0].missing


def yanked_in(session: Session, model: Model, release: Release) -> list[str]:
    """Return a sentence for each patch of a release that was yanked."""
    recipe = compositions.load(session, release.recipe_digest)
    return dossiers.yanked([found for _, found in compositions.described(session, model, recipe) if found])


def compare(session: Session, actor: Actor | None, full_name: str, before: str, after: str) -> Comparison:
    """Compare the recipes of two revisions.

    Raises:
        NotFound: one of them is not there.
    """
    model = models.ready(session, full_name)
    assert model.base_digest is not None
    rows = [snapshots.find(session, actor, model, ref).recipe for ref in (before, after)]
    made = [science(row) if row else recipes.make_recipe(model.base_digest, "1", []) for row in rows]
    items = [{item.sha256: item for item in row.items} if row else {} for row in rows]
    old, new = ({item.sha256: versions.effective_scale(one.alpha, item.weight) for item in one.items} for one in made)
    known = patches.by_digest(session, model, [*old, *new])
    return Comparison(
        versions.required_bump(made[0], made[1]),
        added=[(items[1][sha256], known.get(sha256)) for sha256 in new if sha256 not in old],
        removed=[(items[0][sha256], known.get(sha256)) for sha256 in old if sha256 not in new],
        changed=[
            (known.get(sha256), old[sha256], new[sha256])
            for sha256 in new
            if sha256 in old and old[sha256] != new[sha256]
        ],
    )


def yank(session: Session, actor: Actor, full_name: str, version: str, reason: str) -> Release:
    """Yank a published release: it stays pullable by its version, with a warning.

    Raises:
        WrongState: it is not published.
    """
    release = find(session, full_name, version, lock=True)
    if release.state != "published":
        raise WrongState(f"{full_name}@{version} is {release.state}; only what is published can be yanked.")
    release.state, release.yank_reason, release.yanked_at = "yanked", reason, now()
    session.flush()
    model = models.find(session, full_name)
    after = {"state": "yanked", "reason": reason}
    record(session, actor, "release.yank", f"{full_name}@{version}", model, before={"state": "published"}, after=after)
    return release
