"""Views of releases and channels."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from registry import schemas
from registry.db.tables import Channel, ChannelMove, Job, Model, Release
from registry.documents import provenance as provenance_documents
from registry.documents.manifest import manifest_digest, read_manifest
from registry.server.views import jobs as job_views
from registry.server.views import recipes as recipe_views
from registry.server.views import reviews as review_views
from registry.services.composing import compositions, snapshots
from registry.services.curation import comparisons, evaluations
from registry.services.curation.comparisons import MetricRow as MetricRow
from registry.services.curation.evaluations import Subject
from registry.services.people.actors import Actor
from registry.services.queue import jobs
from registry.services.releasing import channels, dossiers, publishing, releases, taking
from registry.services.releasing.channels import Pointer
from registry.services.releasing.dossiers import Dossier, Outline
from registry.services.releasing.releases import Comparison
from registry.services.releasing.taking import Offer, TakenFile

COMPOSED = ("candidate", "published", "yanked")  # states of releases that can be pulled
CHOICES = 100  # releases or channels in a list to choose from


def release(
    session: Session, model: Model, row: Release, job: Job | None = None, asked: str | None = None
) -> schemas.Release:
    """Return a release; `asked` is the alpha that it was just cut with."""
    return described_release(model, dossiers.dossiers_of(session, model, [row])[0], job, asked)


def described_release(
    model: Model, dossier: Dossier, job: Job | None = None, asked: str | None = None
) -> schemas.Release:
    """Return the shape of a release whose dossier is at hand."""
    row = dossier.release
    return schemas.Release.model_validate(
        {
            "model": model.full_name,
            "version": row.version,
            "state": row.state,
            "previous": row.previous_version,
            "recipe": recipe_views.described_recipe(dossier.recipe, dossier.items),
            "weights_digest": dossier.weights_digest,
            "changelog": row.changelog,
            "card": row.card,
            "creator": row.creator.name,
            "created_at": row.created_at,
            "publisher": row.publisher.name if row.publisher else None,
            "published_at": row.published_at,
            "yank_reason": row.yank_reason,
            "yanked_at": row.yanked_at,
            "pinned": row.pinned,
            "manifest_digest": manifest_digest(row.manifest.encode("utf-8")) if row.manifest else None,
            "signed": row.signature is not None,
            "builds": [recipe_views.build(build) for build in dossier.builds],
            "channels": dossier.channels,
            "missing": dossier.missing,
            "warnings": dossier.warnings,
            "taken_files": [taken_file(file) for file in dossier.taken],
            "alpha_rule": recipe_views.alpha_rule(dossier.recipe.method, dossier.items, asked),
            "job": job_views.job(job) if job else None,
        }
    )


def taken_file(file: TakenFile) -> schemas.TakenFile:
    """Return the shape of a file that a release takes from a patch."""
    return schemas.TakenFile(
        path=file.path, size=file.size, sha256=file.sha256, patch=file.number, revision=file.revision
    )


def offers(session: Session, model: Model) -> Sequence[Offer]:
    """Return the newest accepted patches that files came with, which a release may take."""
    return taking.offers(session, model)


def offers_in(session: Session, model: Model, recipe: schemas.Recipe) -> Sequence[Offer]:
    """Return the accepted patches of a recipe that files came with, which a release of it may take."""
    held = {item.sha256: item.number for item in recipe.patches if item.number}
    found = taking.offers(session, model, list(held.values()))
    return [offer for offer in found if offer.revision.sha256 in held]


def release_page(session: Session, model: Model, before: str | None, limit: int) -> schemas.ReleasePage:
    """Return a page of the releases of a model, newest version first."""
    rows, cursor = releases.listing(session, model.full_name, before, limit)
    items = [described_release(model, dossier) for dossier in dossiers.dossiers_of(session, model, rows)]
    return schemas.ReleasePage(items=items, next=cursor)


def show(session: Session, model: Model, version: str) -> schemas.Release:
    """Return a release, with the job that composes it."""
    row = releases.find(session, model.full_name, version)
    return release(session, model, row, jobs.active(session, compositions.job_key(model, row.recipe_digest)))


def card(session: Session, model: Model, version: str) -> str:
    """Return the card of a release: as published or edited, else as it would be generated now."""
    return publishing.card(session, model, releases.find(session, model.full_name, version))


def provenance(session: Session, model: Model, version: str) -> schemas.Provenance:
    """Return where a published release comes from."""
    row = releases.find(session, model.full_name, version)
    return schemas.Provenance(
        release=release(session, model, row),
        approvals=publishing.approvals(session, model, row),
        evaluations=review_views.evaluations_of(session, model, Subject(release=row), newest=None),
        statement=publishing.statement(session, model.full_name, row.version),
    )


def compare(session: Session, actor: Actor | None, name: str, before: str, after: str) -> schemas.ReleaseDiff:
    """Return what changed between the recipes of two references."""
    return comparison(before, after, releases.compare(session, actor, name, before, after))


def comparison(before: str, after: str, found: Comparison) -> schemas.ReleaseDiff:
    """Return the shape of a comparison of two recipes."""
    return schemas.ReleaseDiff(
        before=before,
        after=after,
        bump=found.bump,
        added=[recipe_views.recipe_item(*pair) for pair in found.added],
        removed=[recipe_views.recipe_item(*pair) for pair in found.removed],
        changed=[
            schemas.RecipeChange(
                number=revision.patch.number if revision else 0,
                title=revision.title if revision else "no longer listed",
                before=old,
                after=new,
            )
            for revision, old, new in found.changed
        ],
        files=[schemas.ChangedFile(path=path, before=old, after=new) for path, old, new in found.files],
        tensors=[schemas.TouchedTensor(name=name, patches=count, nnz=nnz) for name, count, nnz in found.tensors],
        touched=found.touched,
    )


@dataclass(frozen=True)
class PublishedRelease:
    """What a feed says of a release.

    Args:
        version: Its version.
        published_at: When.
        publisher: By whom.
        changelog: What is new in it.
        yanked: Whether it was yanked since.
    """

    version: str
    published_at: datetime
    publisher: str | None
    changelog: str
    yanked: bool


def published(session: Session, model: Model, limit: int) -> list[PublishedRelease]:
    """Return the releases of a model that were published last."""
    return [
        PublishedRelease(
            row.version,
            row.published_at,
            row.publisher.name if row.publisher else None,
            row.changelog,
            row.state == "yanked",
        )
        for row in releases.published(session, model, limit)
        if row.published_at is not None
    ]


@dataclass(frozen=True)
class ReleaseDocuments:
    """The documents of a published release: its manifest, the manifest as people read it, and its provenance."""

    manifest: dict[str, Any]
    pretty: str
    statement: dict[str, Any]


@dataclass(frozen=True)
class ReleaseOverview:
    """A release with what its page shows beside it.

    Args:
        release: The release.
        job: The job that composes it, the first or the second time.
        approvals: Who approved each patch, by `number.revision`.
        evaluations: Of the base, of the previous release if `previous`, and of this one, by metric.
        previous: Whether there is a previous release.
        card: The card, once the release is composed.
        documents: Its documents, once it is published.
    """

    release: schemas.Release
    job: schemas.Job | None
    approvals: Mapping[str, list[str]]
    evaluations: Sequence[MetricRow]
    previous: bool
    card: str | None
    documents: ReleaseDocuments | None


def overview(session: Session, model: Model, version: str) -> ReleaseOverview:
    """Return a release with what its page shows beside it."""
    row = releases.find(session, model.full_name, version)
    job, shown = releases.underway(session, model, row), release(session, model, row)
    previous = snapshots.find_release(session, model, row.previous_version) if row.previous_version else None
    older = [Subject(release=previous)] if previous else []
    return ReleaseOverview(
        shown,
        job_views.queued(session, job) if job else None,
        publishing.approved(session, model, row),
        comparisons.compare(session, model, [Subject(), *older, Subject(release=row)])[0],
        previous is not None,
        publishing.card(session, model, row) if shown.weights_digest else None,
        documents(row),
    )


def documents(row: Release) -> ReleaseDocuments | None:
    """Return the documents of a release, once it is published."""
    if row.manifest is None:
        return None
    manifest = json.loads(row.manifest)
    statement = provenance_documents.statement(read_manifest(row.manifest.encode("utf-8")))
    return ReleaseDocuments(manifest, json.dumps(manifest, indent=2, ensure_ascii=False), statement)


def compare_evaluations(
    session: Session, actor: Actor | None, model: Model, refs: Sequence[str]
) -> Sequence[MetricRow]:
    """Return the evaluations of what some references name, by metric."""
    subjects = [evaluations.find_subject(session, actor, model, ref) for ref in refs]
    return comparisons.compare(session, model, subjects)[0]


def outlines(session: Session, model: Model, before: str | None, limit: int) -> tuple[Sequence[Outline], str | None]:
    """Return a page of releases in a few words each, newest version first, and the cursor of the next page."""
    return dossiers.outlines(session, model, before, limit)


def versions(session: Session, model: Model, states: Sequence[str] = COMPOSED) -> list[str]:
    """Return the newest versions in some states, to choose from."""
    return releases.newest(session, model, states, CHOICES)


def channel(session: Session, model: Model, row: Channel) -> schemas.Channel:
    """Return a channel."""
    return described_channel(channels.pointers(session, model, row)[0])


def described_channel(pointer: Pointer) -> schemas.Channel:
    """Return the shape of a channel."""
    row = pointer.channel
    return schemas.Channel(
        name=row.name,
        release=pointer.version,
        role=row.role,
        approvals=row.approvals,
        allow_yanked=row.allow_yanked,
        asked=pointer.asked,
        warnings=pointer.warnings,
    )


def target_of(session: Session, row: Channel) -> Release | None:
    """Return the release that a channel points at."""
    return session.get(Release, row.release_id) if row.release_id else None


def channel_move(row: ChannelMove) -> schemas.ChannelMove:
    """Return the shape of one step of a channel's history."""
    return schemas.ChannelMove.model_validate(
        {
            "number": row.number,
            "kind": row.kind,
            "release": row.release.version,
            "user": row.user.name,
            "reason": row.reason,
            "created_at": row.created_at,
        }
    )


def channel_list(session: Session, model: Model) -> list[schemas.Channel]:
    """Return the channels of a model, by name."""
    return [described_channel(pointer) for pointer in channels.pointers(session, model)]


def history(session: Session, model: Model, name: str) -> list[schemas.ChannelMove]:
    """Return the moves of a channel, oldest first."""
    return [channel_move(row) for row in channels.history(session, channels.find(session, model, name))]


@dataclass(frozen=True)
class ChannelOverview:
    """A channel with what its page shows beside it.

    Args:
        channel: The channel.
        state: The state of the release that it points at.
        yank_reason: Why that release was yanked.
        moves: A page of its moves, newest first.
        next: The cursor of the next page.
        back: The version that a rollback leads to.
    """

    channel: schemas.Channel
    state: str | None
    yank_reason: str | None
    moves: Sequence[schemas.ChannelMove]
    next: int | None
    back: str | None


def channel_overview(session: Session, model: Model, name: str, before: int | None, limit: int) -> ChannelOverview:
    """Return a channel with what its page shows beside it.

    Raises:
        NotFound: The model has no such channel.
    """
    row = channels.find(session, model, name)
    target, back = target_of(session, row), channels.target_of_rollback(session, row)
    moves, cursor = channels.moves(session, row, before, limit)
    return ChannelOverview(
        channel(session, model, row),
        target.state if target else None,
        target.yank_reason if target else None,
        [channel_move(move) for move in moves],
        cursor,
        back.version if back else None,
    )


def pointers(session: Session, model: Model) -> list[tuple[str, str | None]]:
    """Return the first channels of a model by name, each with the version that it points at."""
    return channels.pointing(session, model, CHOICES)
