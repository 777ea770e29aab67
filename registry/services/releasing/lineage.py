"""Lineage of a model: who contributed to it, and which patches went into which releases."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session, joinedload

from registry.db.tables import Channel, Model, Patch, PatchRevision, RecipeItem, Release, User
from registry.services.composing.snapshots import PUBLISHED

MOST_RELEASES, MOST_PATCHES, MOST_PEOPLE = 6, 24, 50  # that are shown; the newest


@dataclass(frozen=True)
class Contributor:
    """Somebody who pushed patches to a model, and how many of them are accepted."""

    name: str
    accepted: int
    patches: int


@dataclass(frozen=True)
class Lineage:
    """The newest releases of a model, what each holds, and the channels that point at them.

    `holds` is pairs of a patch's number and a version, `channels` pairs of a name and a version.
    """

    releases: Sequence[Release]
    patches: dict[int, str]
    holds: list[tuple[int, str]]
    channels: list[tuple[str, str]]
    left_out: int


def contributors(session: Session, model: Model) -> list[Contributor]:
    """Return who contributed to a model, those with the most accepted patches first."""
    accepted = func.count().filter(Patch.state == "accepted").label("accepted")
    counted = (
        select(Patch.author_id, accepted, func.count().label("patches"))
        .where(Patch.model_id == model.id)  # by its index alone, so that pull requests without a patch count, too
        .group_by(Patch.author_id)
        .order_by(accepted.desc(), func.count().desc(), Patch.author_id)
        .limit(MOST_PEOPLE)
        .subquery()
    )
    counts = counted.c.accepted, counted.c.patches
    rows = session.execute(
        select(User.name, *counts)
        .join(counted, counted.c.author_id == User.id)
        .order_by(*(count.desc() for count in counts), User.name)
    )
    return [Contributor(*row) for row in rows]


def lineage_of(session: Session, model: Model) -> Lineage:
    """Return how patches became releases; `left_out` is how many patches of these releases are not shown."""
    releases = session.scalars(
        select(Release)
        .where(Release.model_id == model.id, Release.state.in_(PUBLISHED))
        .order_by(Release.sort.desc())
        .limit(MOST_RELEASES)
        .options(joinedload(Release.creator), joinedload(Release.publisher))
    ).all()
    named = {release.id: release.version for release in releases}
    rows = session.execute(
        select(Patch.number, PatchRevision.title, Release.version)
        .join(PatchRevision, PatchRevision.patch_id == Patch.id)
        .join(RecipeItem, RecipeItem.sha256 == PatchRevision.sha256)
        .join(Release, Release.recipe_digest == RecipeItem.recipe_digest)
        .where(Patch.model_id == model.id, Release.id.in_(named), PatchRevision.state == "checked")
        .order_by(Patch.number.desc())
    ).all()
    titles = {number: title for number, title, _ in rows}
    patches = dict(sorted(list(titles.items())[:MOST_PATCHES]))
    channels = session.execute(
        select(Channel.name, Channel.release_id).where(Channel.release_id.in_(named)).order_by(Channel.name)
    ).all()
    return Lineage(
        releases,
        patches,
        [(number, version) for number, _, version in rows if number in patches],
        [(name, named[release_id]) for name, release_id in channels if release_id],
        len(titles) - len(patches),
    )
