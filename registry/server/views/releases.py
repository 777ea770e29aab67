"""From rows to the shapes on the wire: releases and channels."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from registry import schemas
from registry.db.tables import Channel, ChannelMove, Job, Model, Release
from registry.documents.manifest import manifest_digest
from registry.server.views import models as model_views
from registry.server.views import patches as patch_views
from registry.services.curation import evaluations
from registry.services.releasing import channels, dossiers, publishing
from registry.services.releasing import releases as release_service
from registry.services.releasing.dossiers import Dossier


def release(session: Session, model: Model, row: Release, job: Job | None = None) -> schemas.Release:
    """Show a release."""
    return of_dossier(model, dossiers.dossiers_of(session, model, [row])[0], job)


def releases(session: Session, model: Model, rows: Sequence[Release]) -> list[schemas.Release]:
    """Show releases of one model, in their order."""
    return [of_dossier(model, found) for found in dossiers.dossiers_of(session, model, rows)]


def of_dossier(model: Model, found: Dossier, job: Job | None = None) -> schemas.Release:
    """Show what is known of a release."""
    row = found.release
    return schemas.Release.model_validate(
        {
            "model": model.full_name,
            "version": row.version,
            "state": row.state,
            "previous": row.previous_version,
            "recipe": model_views.recipe_of(found.recipe, found.items),
            "weights_digest": found.weights_digest,
            "changelog": row.changelog,
            "card": row.card,
            "creator": row.creator.name,
            "created_at": row.created_at,
            "publisher": row.publisher.name if row.publisher else None,
            "published_at": row.published_at,
            "yank_reason": row.yank_reason,
            "yanked_at": row.yanked_at,
            "manifest_digest": manifest_digest(row.manifest.encode("utf-8")) if row.manifest else None,
            "signed": row.signature is not None,
            "builds": [model_views.build(build) for build in found.builds],
            "channels": found.channels,
            "missing": found.missing,
            "warnings": found.warnings,
            "job": model_views.job(job) if job else None,
        }
    )


def provenance(session: Session, model: Model, row: Release) -> schemas.Provenance:
    """Show where a published release comes from."""
    subject = evaluations.Subject(release=row)
    return schemas.Provenance(
        release=release(session, model, row),
        approvals=publishing.approvals(session, model, row),
        evaluations=[
            patch_views.evaluation(found, subject) for found in evaluations.evaluations_of(session, model, subject)
        ],
        statement=publishing.statement(session, model.full_name, row.version),
    )


def comparison(before: str, after: str, found: release_service.Comparison) -> schemas.ReleaseDiff:
    """Show what changed between two revisions."""
    return schemas.ReleaseDiff(
        before=before,
        after=after,
        bump=found.bump,
        added=[model_views.recipe_item(*pair) for pair in found.added],
        removed=[model_views.recipe_item(*pair) for pair in found.removed],
        changed=[
            schemas.RecipeChange(
                number=revision.patch.number if revision else 0,
                title=revision.title if revision else "no longer listed",
                before=old,
                after=new,
            )
            for revision, old, new in found.changed
        ],
    )


def channel(session: Session, model: Model, row: Channel) -> schemas.Channel:
    """Show a channel."""
    target = session.get(Release, row.release_id) if row.release_id else None
    return schemas.Channel(
        name=row.name,
        release=target.version if target else None,
        role=row.role,
        approvals=row.approvals,
        allow_yanked=row.allow_yanked,
        asked=channels.pending_moves(session, row),
        warnings=release_service.yanked_in(session, model, target) if target else [],
    )


def channel_move(row: ChannelMove) -> schemas.ChannelMove:
    """Show one step of a channel's history."""
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
