"""The feed: public changes in the order in which they happened, and pages of the audit log that they are read from.

Serials follow commits, so a reader who has seen everything up to a serial never misses an earlier event.
"""

from typing import Any

from sqlalchemy import false, func, or_, select, union_all
from sqlalchemy.orm import Session

from registry.db.audit import newest_serial
from registry.db.tables import AuditEvent, Model
from registry.services.people import access, paging
from registry.services.people.actors import Actor

NOUNS = ("card", "channel", "evaluation", "model", "patch", "recipe", "release")
HIDDEN_ACTIONS = ("model.member",)
VERBS = {  # of public events, by noun
    "card": "accept propose reject revise withdraw",
    "channel": "ask move protect rollback",
    "evaluation": "add",
    "model": "create expire mirrored ready refuse reserve update",
    "patch": "accept checked comment delete_comment edit_comment hide_comment propose push quarantine refused reject "
    "release_from_quarantine review revise unhide_comment unyank withdraw yank",
    "recipe": "alarm compose composed delete rebuilt",
    "release": "cut edit pin publish sign yank",
}
ACTIONS = frozenset(f"{noun}.{verb}" for noun, verbs in VERBS.items() for verb in verbs.split())
SERIALS_PER_ANSWER = 10_000  # that one answer goes through


def changes(
    session: Session, actor: Actor | None, since: int, limit: int
) -> tuple[list[tuple[AuditEvent, Model]], int]:
    """Return the next public events, of models that the caller may see, and the serial to continue from.

    Args:
        session: A transaction.
        actor: The caller; None without a token.
        since: The serial up to which the caller has seen everything.
        limit: Most events.

    Returns:
        Events after `since` with their models, oldest first; and the `since` of the next call, which skips events that
        the caller may not see, and is never beyond the head of the log.
    """
    head = newest_serial(session)
    end = min(head, since + SERIALS_PER_ANSWER)
    query = (
        select(AuditEvent, Model)
        .join(Model, Model.id == AuditEvent.model_id)
        .where(
            AuditEvent.serial > since,
            AuditEvent.serial <= end,
            or_(*(AuditEvent.action.startswith(f"{noun}.") for noun in NOUNS)),
            AuditEvent.action.not_in(HIDDEN_ACTIONS),
            access.visible(actor),
        )
        .order_by(AuditEvent.serial)
        .limit(limit)
    )
    events = [(event, model) for event, model in session.execute(query)]
    return events, events[-1][0].serial if len(events) == limit else end


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
    """Return a page of the audit log, newest first, and the `before` of the next page.

    Args:
        session: A transaction.
        model: Only events about this model.
        action: Only events with this action; `noun.*` matches all actions of a noun.
        user: Only events of the user with this name.
        since: Only events after this serial.
        before: Only events before this serial.
        limit: Most events of a page.
    """
    wanted: list[Any] = [AuditEvent.serial > since]
    if model is not None:
        wanted.append(AuditEvent.model_id == model.id)
    if action is not None and not action.endswith(".*"):
        wanted.append(AuditEvent.action == action)
    if user is not None:
        wanted.append(AuditEvent.user_name == user)
    if before is not None:
        wanted.append(AuditEvent.serial < before)
    query = select(AuditEvent).order_by(AuditEvent.serial.desc()).limit(limit + 1)
    if action is not None and action.endswith(".*"):
        newest = [
            select(AuditEvent.serial).where(*wanted, AuditEvent.action == one).order_by(AuditEvent.serial.desc())
            for one in actions(session)
            if one.startswith(action.removesuffix("*"))
        ]
        pages = [select(one.limit(limit + 1).subquery().c.serial) for one in newest]
        query = query.where(AuditEvent.serial.in_(union_all(*pages)) if pages else false())
    else:
        query = query.where(*wanted)
    events = session.scalars(query).all()
    return paging.cut(events, limit, lambda event: event.serial)


def actions(session: Session) -> list[str]:
    """Return every action in the log, by one look into the index for each instead of a walk through all events."""
    seen = select(func.min(AuditEvent.action).label("action")).cte("seen", recursive=True)
    after = select(func.min(AuditEvent.action)).where(AuditEvent.action > seen.c.action).scalar_subquery()
    seen = seen.union_all(select(after).where(seen.c.action.is_not(None)))
    return [action for action in session.scalars(select(seen.c.action)) if action is not None]
