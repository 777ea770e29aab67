"""News: where somebody was mentioned, and what happened in the models that they watch, since they last looked.

Mentions are written with the comment or verdict that holds them, one row for a user and a patch. What happened in
watched models is read from the log, so that a release writes nothing for each of those who watch.
"""

import re
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, SQLColumnExpression, String, cast, exists, func, literal, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, joinedload

from registry.db.audit import newest_serial
from registry.db.tables import AuditEvent, Mention, Model, Patch, User, WatchedModel, now
from registry.errors import WrongState
from registry.files.names import NAME
from registry.services.catalog import models
from registry.services.people import access
from registry.services.people.actors import Actor
from registry.services.people.paging import EPOCH
from registry.services.people.rules import Role

NAMED = re.compile(rf"(?<![\w@/.-])@({NAME})")
UNREAD = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|^ {0,3}>[^\n]*", re.DOTALL | re.MULTILINE)  # code and quotes
MOST_NAMED = 20  # people in one message
MOST_WATCHED = 200  # models of one user
SHOWN = 50  # mentions, and events
REACH = 50_000  # newest events of the log that are gone through
Event = tuple[AuditEvent, Model]
TOLD = ("patch.push", "patch.propose", "release.publish", "release.yank", "channel.move", "channel.rollback")


def mention(session: Session, actor: Actor, model: Model, patch: Patch, message: str, before: str = "") -> None:
    """Tell those whom a message in the thread of a patch names as `@name`, if they may see the model.

    Code and quotes name nobody; nor does an edited message those whom it named `before`.
    """
    known = named(before)
    names = [name for name in named(message) if name not in known]
    query = select(User).where(User.name.in_(names), User.id != actor.user_id, User.is_active, ~User.is_program)
    for user in session.scalars(query.order_by(User.id)) if names else ():
        if access.role_held(session, user.id, model, user.is_admin) < Role.CONTRIBUTOR:
            continue
        mine = Mention.user_id == user.id, Mention.patch_id == patch.id
        row = session.scalar(select(Mention).where(*mine).with_for_update())
        if row is None:
            try:
                with session.begin_nested():
                    session.add(Mention(user_id=user.id, patch_id=patch.id, by_id=actor.user_id))
            except IntegrityError:  # somebody else mentions them at this moment
                row = session.scalars(select(Mention).where(*mine).with_for_update()).one()
        if row is not None:
            row.by_id, row.at, row.seen, row.mailed = actor.user_id, now(), False, False
    session.flush()


def named(message: str) -> list[str]:
    """Return the first names that a message holds as `@name`."""
    return list(dict.fromkeys(NAMED.findall(UNREAD.sub("", message))))[:MOST_NAMED]


def mentions(session: Session, actor: Actor) -> Sequence[Mention]:
    """Return the newest mentions of the caller that they have not read, in models that they may see."""
    query = (
        select(Mention)
        .join(Patch, Patch.id == Mention.patch_id)
        .join(Model, Model.id == Patch.model_id)
        .where(Mention.user_id == actor.user_id, ~Mention.seen, access.visible(actor))
        .options(joinedload(Mention.patch).joinedload(Patch.model), joinedload(Mention.by))
        .order_by(Mention.at.desc(), Mention.id)
    )
    return session.scalars(query.limit(SHOWN)).all()


def events(session: Session, actor: Actor, after: int = 0, until: int | None = None) -> list[Event]:
    """Return the newest events of others in watched models since the caller last looked, as `events_of` does."""
    watched = exists().where(
        WatchedModel.user_id == actor.user_id,
        WatchedModel.model_id == AuditEvent.model_id,
        WatchedModel.seen_serial < AuditEvent.serial,
    )
    return events_of(session, actor, after, newest_serial(session) if until is None else until, TOLD, watched)


def events_of(
    session: Session, actor: Actor, after: int, until: int, actions: Sequence[str], where: ColumnElement[bool]
) -> list[Event]:
    """Return the newest events of others after a serial and up to another, in models that a user may see.

    Args:
        session: A transaction.
        actor: The user.
        after, until: The serials; what is further back than REACH from the second is left out.
        actions: Those that are wanted.
        where: What holds of them besides.
    """
    query = (
        select(AuditEvent, Model)
        .join(Model, Model.id == AuditEvent.model_id)
        .where(
            AuditEvent.serial > max(after, until - REACH),
            AuditEvent.serial <= until,
            AuditEvent.action.in_(actions),
            AuditEvent.user_id.is_distinct_from(actor.user_id),
            access.visible(actor),
            where,
        )
        .order_by(AuditEvent.serial.desc())
    )
    return [(event, model) for event, model in session.execute(query.limit(SHOWN))]


def number_of(event: AuditEvent) -> int | None:
    """Return the number of the patch or card that an event is about; None if it is about another thing."""
    match = re.search(r"#([0-9]{1,9})(?:\.[0-9]{1,9})?$", event.subject)
    return int(match[1]) if match else None


def is_about(number: SQLColumnExpression[int]) -> ColumnElement[bool]:
    """Return the condition that `number_of` an event is that of a column."""
    ending = literal("%#").concat(cast(number, String))
    return or_(AuditEvent.subject.like(ending), AuditEvent.subject.like(ending.concat(".%")))


def see(session: Session, actor: Actor, serial: int, at: datetime) -> None:
    """Mark as read what the caller was shown: events up to a serial, and mentions up to a time."""
    watched = WatchedModel.user_id == actor.user_id, WatchedModel.seen_serial < serial
    session.execute(update(WatchedModel).where(*watched).values(seen_serial=min(serial, newest_serial(session))))
    until = min(max(at, EPOCH), now())
    unread = Mention.user_id == actor.user_id, ~Mention.seen, Mention.at <= until
    session.execute(update(Mention).where(*unread).values(seen=True))


def watch(session: Session, actor: Actor, full_name: str, *, watching: bool) -> None:
    """Watch a model from now on, or no longer. Does nothing if that is so already.

    Raises:
        WrongState: The caller watches as many models as anybody may.
    """
    model = models.find(session, full_name)
    session.get_one(User, actor.user_id, with_for_update={"key_share": True}, populate_existing=True)
    row = session.get(WatchedModel, (actor.user_id, model.id))
    if row is not None and not watching:
        session.delete(row)
    if row is None and watching:
        count = (
            session.scalar(select(func.count()).select_from(WatchedModel).where(WatchedModel.user_id == actor.user_id))
            or 0
        )
        if count >= MOST_WATCHED:
            raise WrongState(f"You watch {MOST_WATCHED} models, the most that anybody may; stop watching one.")
        session.add(WatchedModel(user_id=actor.user_id, model_id=model.id, seen_serial=newest_serial(session)))
    session.flush()


def watches(session: Session, actor: Actor | None, model: Model) -> bool:
    """Say whether the caller watches a model."""
    return actor is not None and session.get(WatchedModel, (actor.user_id, model.id)) is not None
