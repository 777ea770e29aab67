"""Views of what happened: changes, new releases and proposed patches of all models, and the audit log."""

from sqlalchemy.orm import Session

from registry import schemas
from registry.db.tables import AuditEvent, Model
from registry.services.catalog import contributions
from registry.services.events import feed
from registry.services.people.actors import Actor
from registry.services.releasing import releases


def change(row: AuditEvent, model: Model) -> schemas.Change:
    """Return the shape of an event that everybody may see who sees its model."""
    same = {name: getattr(row, name) for name in ("serial", "at", "action", "subject", "before", "after")}
    return schemas.Change(model=model.full_name, user=row.user_name, **same)


def event(row: AuditEvent) -> schemas.AuditEvent:
    """Return the shape of a row of the audit log, complete, so that its hash can be computed from it."""
    same = ("serial", "at", "action", "subject", "before", "after", "request_id", "previous_hash", "hash")
    return schemas.AuditEvent(
        user_id=str(row.user_id) if row.user_id else None,
        user=row.user_name,
        token=row.token_prefix,
        model_id=str(row.model_id) if row.model_id else None,
        **{name: getattr(row, name) for name in same},
    )


def changes(session: Session, actor: Actor | None, since: int, limit: int) -> schemas.ChangePage:
    """Return a page of the changes after a serial, in order."""
    rows, cursor = feed.changes(session, actor, since, limit)
    return schemas.ChangePage(items=[change(*row) for row in rows], next=cursor)


def recent_releases(session: Session, actor: Actor | None, before: str | None, limit: int) -> schemas.RecentReleasePage:
    """Return a page of the releases that were published last, of all models that the caller may see."""
    rows, cursor = releases.recent(session, actor, before, limit)
    items = [
        schemas.RecentRelease(
            model=model.full_name,
            version=row.version,
            publisher=row.publisher.name if row.publisher else None,
            published_at=row.published_at,
        )
        for row, model in rows
        if row.published_at is not None
    ]
    return schemas.RecentReleasePage(items=items, next=cursor)


def waiting_patches(session: Session, actor: Actor | None, before: str | None, limit: int) -> schemas.WaitingPatchPage:
    """Return a page of the patches that were proposed last, of all models that the caller may see."""
    rows, cursor = contributions.proposed(session, actor, before, limit)
    items = [
        schemas.WaitingPatch(
            model=model.full_name,
            number=row.patch.number,
            revision=row.number,
            title=row.title,
            author=row.patch.author.name,
            task=row.patch.task,
            created_at=row.patch.created_at,
        )
        for row, model in rows
    ]
    return schemas.WaitingPatchPage(items=items, next=cursor)


def audit(
    session: Session,
    *,
    model: Model | None = None,
    action: str | None = None,
    user: str | None = None,
    since: int = 0,
    before: int | None = None,
    limit: int,
) -> schemas.AuditPage:
    """Return a page of the audit log, newest first: of the whole server, or of one model."""
    rows, cursor = feed.audit(session, model=model, action=action, user=user, since=since, before=before, limit=limit)
    return schemas.AuditPage(items=[event(row) for row in rows], next=cursor)
