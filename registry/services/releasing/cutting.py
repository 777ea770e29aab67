"""Cutting releases: from patches and the recipe of another snapshot to a draft that is composed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.breadcrumbs.comparing.alpha import AUTO
from registry.breadcrumbs.formats import recipe as recipes
from registry.db.tables import Job, Model, PatchRevision, Recipe, Release, now
from registry.documents import changelog, licences, versions
from registry.errors import InvalidRequest, WrongState
from registry.services.catalog import models, patches
from registry.services.composing import compositions, mixes, snapshots
from registry.services.composing.mixes import Ingredient, Mix
from registry.services.composing.snapshots import PUBLISHED
from registry.services.people import policies
from registry.services.people.actors import Actor, record
from registry.services.queue import jobs
from registry.services.releasing import releases, taking


@dataclass(frozen=True)
class Cut:
    """What a release is to hold: these patches, or those of another snapshot with some added and some left out.

    `files_of` are the patches whose files it takes; None for those that the release to start from took.
    """

    version: str
    patches: Sequence[Ingredient] = ()
    from_ref: str | None = None
    add: Sequence[Ingredient] = ()
    without: Sequence[int] = ()
    alpha: str | None = None
    method: str | None = None
    allow_yanked: bool = False
    files_of: Sequence[int] | None = None


def cut(session: Session, actor: Actor, full_name: str, wanted: Cut) -> tuple[Release, Job | None]:
    """Cut a release and have it composed. Does nothing if the same release was cut before.

    Raises:
        InvalidRequest: The version's step is too small, two licences are incompatible, or files cannot be taken.
        InvalidRecipe: A patch cannot be composed.
        WrongState: The version is published already.
    """
    model = models.ready(session, full_name, lock=True)
    new_recipe = choose(session, actor, model, wanted)
    before = previous(session, model, wanted.version)
    old = compositions.load(session, before.recipe_digest) if before else None
    versions.check_version(
        wanted.version, before.version if before else None, compositions.to_recipe(old) if old else None, new_recipe
    )
    recipe = compositions.save(session, new_recipe)
    described = compositions.described(session, model, recipe)
    require_licences(session, model, [revision for _, revision in described if revision])
    held = {revision.patch.number: revision for _, revision in described if revision}
    files = taking.choose(session, model, held, wanted.files_of, start_of(session, actor, model, wanted))
    release = session.scalar(
        select(Release).where(Release.model_id == model.id, Release.version == wanted.version).with_for_update()
    )
    if release is not None and release.state in PUBLISHED:
        raise WrongState(f"{full_name}@{wanted.version} is {release.state} and cannot change; cut the next version.")
    settings = recipe.digest, before.version if before else None, wanted.allow_yanked
    before_files = (
        {file.path: file.sha256 for file in taking.taken_by(session, [release])[release.id]} if release else {}
    )
    same_files = before_files == {path: file.sha256 for path, file in files.items()}
    same = (
        release is not None
        and same_files
        and settings == (release.recipe_digest, release.previous_version, release.allow_yanked)
    )
    if release is not None and same and release.state != "draft":
        return release, jobs.active(session, compositions.job_key(model, recipe.digest))
    changes = changelog.changes_between(entries(session, model, old), entries(session, model, recipe))
    if release is None:
        release = Release(model_id=model.id, version=wanted.version, creator_id=actor.user_id)
    release.sort, release.state = versions.parse_version(wanted.version).sort_key, "draft"
    release.recipe_digest, release.allow_yanked = recipe.digest, wanted.allow_yanked
    release.previous_version, release.card = before.version if before else None, None
    release.commit = None
    named = [(path, file.number) for path, file in sorted(files.items())]
    release.changelog = changelog.render_changelog(wanted.version, now().date(), changes, files=named)
    session.add(release)
    session.flush()
    taking.replace(session, release, files)
    composition, job = compositions.ensure(session, actor.user_id, model, recipe)
    release.state = "building"
    session.flush()
    if composition is not None:
        releases.composed(session, model, recipe.digest)
    after: dict[str, Any] = {"recipe": recipe.digest, "previous": release.previous_version}
    if files:
        after["files"] = {path: {"patch": file.number, "sha256": file.sha256} for path, file in sorted(files.items())}
    record(session, actor, "release.cut", f"{full_name}@{wanted.version}", model, after=after)
    return release, job


def choose(session: Session, actor: Actor, model: Model, wanted: Cut) -> recipes.Recipe:
    """Return the recipe that a cut asks for.

    Raises:
        InvalidRequest: Patches are named beside a snapshot to start from, or one to leave out is not in it.
    """
    items, start = {item.number: item for item in wanted.patches}, None
    if len(items) < len(wanted.patches):
        raise InvalidRequest("A patch is named twice; name it once, with one weight.", field="patches")
    if wanted.from_ref is not None:
        if wanted.patches:
            raise InvalidRequest("Name patches or --from, not both; --add adds patches to those of --from.")
        start = snapshots.recipe_of(session, snapshots.find(session, actor, model, wanted.from_ref))
        for item, revision in compositions.described(session, model, start) if start else []:
            if revision is None:
                raise InvalidRequest(
                    f"The patch {item.sha256} of {wanted.from_ref} is no longer listed; start from another revision."
                )
            items[revision.patch.number] = Ingredient(revision.patch.number, item.weight, revision.number, item.where)
    items |= {item.number: item for item in wanted.add}
    for number in wanted.without:
        if items.pop(number, None) is None:
            raise InvalidRequest(f"Patch #{number} is not in the recipe, so it cannot be left out.", field="without")
    if not items:
        raise InvalidRequest("A release needs a patch; name some, or --from a revision that has some.", field="patches")
    alpha = wanted.alpha or (start.alpha if start else AUTO)
    method = wanted.method or (start.method if start else "sum")
    return mixes.choose(session, model, Mix(list(items.values()), alpha, method, wanted.allow_yanked))


def start_of(session: Session, actor: Actor, model: Model, wanted: Cut) -> Release | None:
    """Return the release that a cut starts from; None if it starts from nothing, or from what is not a release."""
    if wanted.from_ref is None:
        return None
    key = snapshots.find(session, actor, model, wanted.from_ref).release_id
    return session.get_one(Release, key) if key else None


def asked_alpha(wanted: Cut) -> str | None:
    """Return the alpha that a cut asks for; None for that of the snapshot it starts from."""
    return wanted.alpha or (AUTO if wanted.from_ref in (None, "base") else None)


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
    """Return the changelog entries of a recipe's patches."""
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


def require_licences(session: Session, model: Model, revisions: Sequence[PatchRevision]) -> None:
    """Refuse to combine pieces whose licences are incompatible, or that the policy of admins does not allow.

    Raises:
        InvalidRequest: Two licences are incompatible, or one is not allowed; the message names the pieces.
    """
    parts, policy = patches.licensed_parts(model, revisions), policies.read(session)
    for name, license in parts:
        if fault := policies.license_fault(policy, license, name):
            raise InvalidRequest(fault, field="patches")
    for pair in licences.judge(parts).incompatible:
        raise InvalidRequest(pair.sentence, field="patches")
