"""What happened, read from the audit log: changes for everybody, in order, and the log itself for those who may.

Serials follow commits, so whoever has seen everything up to a serial misses nothing before it, ever.
"""

from typing import Any

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from registry.db.tables import AuditEvent, AuditHead, Model
from registry.services.people import access
from registry.services.people.actors import Actor

NOUNS = ("channel", "evaluation", "model", "patch", "recipe", "release")
HIDDEN = ("model.member",)
WINDOW = 10_000  # serials that one answer looks through


def changes(
    session: Session, actor: Actor | None, since: int, limit: int
) -> tuple[list[tuple[AuditEvent, Model]], int]:
    """Return the next events that are public knowledge, of models that somebody may see, and where to go on.

    Args:
        session: A transaction.
        actor: Who asks; None for anybody.
        since: The serial up to which they know everything.
        limit: Most events.

    Returns:
        Events after `since` with their models, oldest first; and the serial to ask with next time, which moves on over
        what they may not see, and never beyond the head of the log.
    """
    head = session.scalars(select(AuditHead.serial).where(AuditHead.id == 1)).one()
    end = min(head, since + WINDOW)
    query = (
        select(AuditEvent, Model)
        .join(Model, Model.id == AuditEvent.model_id)
        .where(
            AuditEvent.serial > since,
            AuditEvent.serial <= end,
            or_(*(AuditEvent.action.startswith(f"{noun}.") for noun in NOUNS)),
            AuditEvent.action.not_in(HIDDEN),
            access.visible(actor),
        )
        .order_by(AuditEvent.serial)
        .limit(limit)
    )
    found = [(event, model) for event, model in session.execute(query)]
    return found, found[-1][0].serial if len(found) == limit else end


def audit(
    session: Session,
    *,
    model: Model | None = None,
    action: str | None = None,
    user: str | None = None,
    since: int = 0,
    before: int | None = None,
    limit: int = 100,
) -> tuple[list[AuditEvent], int | None]:
    """Return a page of the audit log, newest first, and the serial to ask before for the next page.

    Args:
        session: A transaction.
        model: Only what is about it.
        action: Only this, or with `noun.*` all of a noun.
        user: Only what somebody of that name did.
        since: Only what came after this serial.
        before: Only what came before this serial.
        limit: Most events.
    """
    wanted: list[Any] = [AuditEvent.serial > since]
    if model is not None:
        wanted.append(AuditEvent.model_id == model.id)
    if action is not None and action.endswith(".*"):
        wanted.append(AuditEvent.action.startswith(action.removesuffix("*")))
    elif action is not None:
        wanted.append(AuditEvent.action == action)
    if user is not None:
        wanted.append(AuditEvent.user_name == user)
    if before is not None:
        wanted.append(AuditEvent.serial < before)
    query = select(AuditEvent).where(and_(*wanted)).order_by(AuditEvent.serial.desc()).limit(limit + 1)
    found = list(session.scalars(query))
    return found[:limit], found[limit - 1].serial if len(found) > limit else None
