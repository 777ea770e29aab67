"""Mirrors: the registry that this one follows, how far it has come, and the end of that.

    follow ── all models once ──> cursor ── events after it ──> cursor ── … ── promote ──> a primary of its own
                                    └── the primary's past is another one ──> stopped: a person looks at it

What is mirrored cannot be changed here (services/people/access.py), since the next event would overwrite it.
"""

import uuid
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from registry.db.audit import append_later
from registry.db.tables import AuditEvent, Mirror, MirroredFile, MirroredRow, Model, ModeratedRow, now
from registry.errors import HistoryChanged, InvalidRequest, WrongState
from registry.services.mirroring import problems
from registry.services.operating import identity
from registry.services.people.actors import record

MAX_TOLD = 20  # models of which a message or the status has the names


def find(session: Session, *, lock: bool = False) -> Mirror | None:
    """Return which registry this one follows; None if it follows none, or none any more."""
    mirror = session.get(Mirror, 1, with_for_update=lock, populate_existing=lock)
    return mirror if mirror is not None and mirror.promoted_at is None else None


def require(session: Session) -> Mirror:
    """Return which registry this one follows, locked.

    Raises:
        WrongState: It follows none, perhaps since a moment ago.
    """
    mirror = find(session, lock=True)
    if mirror is None:
        raise WrongState("This registry is not a mirror, or was promoted just now.")
    return mirror


def begin(session: Session, url: str, registry_id: uuid.UUID, names: Sequence[str], head: int) -> Mirror:
    """Return the row of a mirror, which is added if this registry has not followed any yet.

    Raises:
        InvalidRequest: It is the registry itself, or a copy of it.
        HistoryChanged: This registry follows another one.
        WrongState: It was stopped, or promoted.
    """
    if identity.read_id(session) == str(registry_id):
        raise InvalidRequest(f"{url} is this registry itself, or a copy of it with the same id; a mirror has its own.")
    mirror = session.get(Mirror, 1, with_for_update=True, populate_existing=True)
    refuse_promoted(mirror)
    if mirror is None:
        mirror = Mirror(id=1, url=url, registry_id=registry_id, names=sorted(names) or None, head=head)
        session.add(mirror)
        session.flush()
        after = {"registry": str(registry_id), "names": mirror.names}
        record(session, None, "mirror.follow", url, after=after)
        return mirror
    if mirror.registry_id != registry_id:
        raise HistoryChanged(
            f"{url} is the registry {registry_id}, and this one follows {mirror.registry_id} ({mirror.url}). If the "
            "primary was replaced for good, make a new mirror in an empty folder."
        )
    if mirror.stopped:
        raise WrongState(
            f"This mirror was stopped: {mirror.problem} Look at the primary; then promote this one (`crumb-server "
            "mirror promote --force`), or take all over anew (`crumb-server mirror anew`)."
        )
    mirror.url = url
    if names and mirror.names != sorted(names):
        mirror.names, mirror.cursor, mirror.hash = sorted(names), None, None  # all of them once more
    elif not names and mirror.names is not None:
        mirror.names, mirror.cursor, mirror.hash = None, None, None
    session.flush()
    return mirror


def refuse_promoted(mirror: Mirror | None) -> None:
    """Refuse to follow again after a promotion.

    Raises:
        WrongState: The registry was promoted.
    """
    if mirror is not None and mirror.promoted_at is not None:
        raise WrongState(
            f"This registry followed {mirror.url} and was promoted at {mirror.promoted_at:%Y-%m-%d %H:%M}; it follows "
            "none any more. Disable the service that starts this; a new mirror begins in an empty folder."
        )


def note(session: Session, head: int | None, problem: str | None, *, stopped: bool = False) -> None:
    """Record how a round went: the newest serial of the primary if it answered, and what was wrong."""
    mirror = require(session)
    mirror.problem, mirror.stopped = problems.one_line(problem) if problem else None, stopped
    if head is not None:
        mirror.head, mirror.asked_at = head, now()
        if mirror.cursor is not None and mirror.cursor >= head and problem is None:
            mirror.current_at = now()
    if stopped:
        record(session, None, "mirror.stop", mirror.url, after={"problem": mirror.problem})
    session.flush()


def advance(session: Session, cursor: int, digest: str, events: Collection[AuditEvent]) -> None:
    """Move the cursor, and write into the log of this registry what was taken over, and the primary's head."""
    mirror = require(session)
    before = mirror.cursor
    mirror.cursor, mirror.hash = cursor, digest
    session.flush()
    for event in events:
        append_later(session, event)
    if cursor != before and (events or before is None):
        record(session, None, "mirror.advance", mirror.url, after={"serial": cursor, "hash": digest})


def shown(session: Session) -> dict[uuid.UUID, str]:
    """Return the full names of the models that are mirrored completely and that somebody may see, by their keys."""
    return named(session, MirroredRow.complete.is_(True))


def not_hidden(session: Session) -> dict[uuid.UUID, str]:
    """Return the full names of all mirrored models but those that were hidden, by their keys."""
    return named(session, or_(MirroredRow.complete, Model.visibility != "private"))


def named(session: Session, condition: ColumnElement[bool]) -> dict[uuid.UUID, str]:
    """Return the full names of the mirrored models of which a condition holds, by their keys."""
    query = select(Model).join(MirroredRow, and_(MirroredRow.kind == "model", MirroredRow.id == Model.id))
    return {model.id: model.full_name for model in session.scalars(query.where(condition))}


def hide(session: Session, keys: Collection[uuid.UUID]) -> None:
    """Show models to nobody that the primary shows no longer; what is here of them stays, in case it does again."""
    for key in sorted(keys, key=str):
        row, model = session.get_one(MirroredRow, ("model", key)), session.get_one(Model, key)
        row.complete = False
        if model.visibility != "private":
            before, model.visibility = {"visibility": model.visibility}, "private"
            record(session, None, "mirror.hide", model.full_name, model, before=before, after={"visibility": "private"})
    session.flush()


def status(session: Session) -> dict[str, Any] | None:
    """Return which registry is followed, how far, and what is wrong; None if none is followed."""
    mirror = find(session)
    if mirror is None:
        return None
    kinds = select(MirroredRow.complete, func.count()).where(MirroredRow.kind == "model").group_by(MirroredRow.complete)
    counts = {bool(complete): count for complete, count in session.execute(kinds)}
    return {
        "url": mirror.url,
        "registry": str(mirror.registry_id),
        "names": mirror.names,
        "serial": mirror.cursor,
        "head": mirror.head,
        "behind": mirror.head - (mirror.cursor or 0),
        "current_at": mirror.current_at.isoformat() if mirror.current_at else None,
        "asked_at": mirror.asked_at.isoformat() if mirror.asked_at else None,
        "models": counts.get(True, 0),
        "incomplete": counts.get(False, 0),
        "problem": mirror.problem,
        "stopped": mirror.stopped,
        "problems": unfinished(session),
    }


def unfinished(session: Session) -> list[dict[str, Any]]:
    """Return the models that are not all here: the name, what is wrong, how often it was tried, when it is again."""
    return [
        {"name": row.name, "problem": row.problem, "attempts": row.attempts, "retry_at": row.retry_at.isoformat()}
        for row in problems.rows(session)
    ]


def tell(found: dict[str, Any]) -> str:
    """Return what `status` found, as text."""
    hidden = f", and {found['incomplete']} that are hidden or not complete" if found["incomplete"] else ""
    lines = [
        f"Follows {found['url']} (registry {found['registry']})",
        f"Models     {', '.join(found['names'])}" if found["names"] else "Models     all",
        f"Here       {found['models']} models{hidden}",
        f"Log        event {found['serial']} of {found['head']}, {found['behind']} behind",
        f"Current    {found['current_at'] or 'never'}; the primary last answered {found['asked_at'] or 'never'}",
    ]
    if found["problem"]:
        lines.append(f"{'STOPPED' if found['stopped'] else 'Problem'}    {found['problem']}")
    return "\n".join([*lines, *tell_unfinished(found["problems"])])


def tell_unfinished(found: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line for each of the first models that are not all here."""
    lines = [f"Set aside  {one['name']}: {one['problem']}" for one in found[:MAX_TOLD]]
    return [*lines, f"           and {len(found) - MAX_TOLD} more"] if len(found) > MAX_TOLD else lines


def restart(session: Session) -> Mirror:
    """Have everything taken over once more, whatever the primary's past is by now; what is shown stays so meanwhile."""
    mirror = require(session)
    mirror.cursor, mirror.hash, mirror.stopped, mirror.problem = None, None, False, None
    session.execute(update(MirroredRow).where(MirroredRow.kind == "model").values(complete=False))
    problems.hurry(session)
    record(session, None, "mirror.anew", mirror.url)
    session.flush()
    return mirror


def promote(session: Session, *, current: bool, force: bool = False) -> dict[str, Any]:
    """Make this registry a primary: what was mirrored can be changed here from now on, and nothing is followed.

    A model of which not all is here stays as it is: whatever is here of it was verified, so somebody can work with it,
    and one that was never complete stays private. The log and `unfinished` name them.

    Args:
        session: A writing transaction.
        current: Whether the primary has no event that is not taken over here.
        force: Whether somebody has decided to go without what is not here.

    Returns:
        What was followed, how far, and the names of models that are not all here.

    Raises:
        WrongState: This registry is not a mirror, or something may be missing.
    """
    mirror = require(session)
    if not current and not force:
        raise WrongState(
            f"{mirror.head - (mirror.cursor or 0)} events of the primary may be missing here; stop writing there, wait "
            "until `crumb-server mirror status` says that all is here, or give --force to go without them."
        )
    for name in sorted(incomplete(session).values()):
        problems.set_aside(session, name, "Not all of it was here when this registry was promoted.", again=False)
    missing = [row.name for row in problems.rows(session)]
    if missing and not force:
        more = f" and {len(missing) - MAX_TOLD} more" if len(missing) > MAX_TOLD else ""
        raise WrongState(
            f"Not all is here of {', '.join(missing[:MAX_TOLD])}{more}; `crumb-server mirror status` says why. Mend "
            "that and start `crumb-server mirror` once more, or give --force to go without."
        )
    told = {"url": mirror.url, "registry": str(mirror.registry_id), "serial": mirror.cursor, "hash": mirror.hash}
    mirror.promoted_at = now()
    session.execute(delete(MirroredRow))
    session.execute(delete(MirroredFile))
    session.execute(delete(ModeratedRow))
    session.flush()
    record(session, None, "mirror.promote", mirror.url, after={**told, "incomplete": missing})
    return {**told, "incomplete": missing}


def incomplete(session: Session) -> dict[uuid.UUID, str]:
    """Return the full names of models of which not all is here, by their keys; those that were hidden are not."""
    return named(
        session,
        and_(
            MirroredRow.complete.is_(False),
            or_(MirroredRow.completed_at.is_(None), Model.visibility != "private"),
        ),
    )
