"""E-mail addresses of users: set, confirmed by a link, unsubscribed by a link, forgotten.

Links are signed with the secret of an address. It is made anew whenever another address is set, or the same one again
that nobody has confirmed, so that all older links end then. What a user may see is told to nobody else: whoever
confirms an address has to be signed in as that user.
"""

import hmac
import re
import secrets
import uuid
from datetime import UTC, datetime, time, timedelta
from hashlib import sha256
from typing import Literal

from sqlalchemy import select, update
from sqlalchemy.orm import Session, joinedload

from registry.db.audit import newest_serial
from registry.db.tables import MailAddress, Mention, User, now
from registry.errors import Forbidden, NotFound
from registry.services.people.actors import Actor, record

CONFIRM_WITHIN = timedelta(days=3)
LINK = re.compile(r"([0-9a-f]{32})-([0-9a-f]{64})")
Purpose = Literal["confirm", "unsubscribe"]


def choose(session: Session, actor: Actor, address: str, rhythm: str, hour: int) -> MailAddress:
    """Have the caller's news sent to an address; one that is not confirmed yet is first sent a link.

    Args:
        session: A writing transaction.
        actor: The caller.
        address: The address.
        rhythm: `at_once`, `daily` or `off`.
        hour: The hour of daily mails, in UTC.
    """
    session.get_one(User, actor.user_id, with_for_update={"key_share": True}, populate_existing=True)
    row = session.get(MailAddress, actor.user_id, with_for_update=True, populate_existing=True)
    if row is not None and row.state == "verified" and row.address == address:
        if row.rhythm == "off" != rhythm:
            skip_older(session, row)
        row.rhythm, row.due_at = rhythm, next_due(rhythm, hour)
    else:
        row = row or MailAddress(user_id=actor.user_id)
        row.address, row.rhythm, row.state = address, rhythm, "asked"
        row.secret, row.cursor = secrets.token_urlsafe(32), newest_serial(session)
        row.attempts, row.answer, row.asked_at, row.due_at = 0, "", now(), now()
        session.add(row)
    session.flush()
    record(session, actor, "mail.set", actor.name, after={"rhythm": rhythm, "state": row.state})  # the log is for ever
    return row


def is_confirmed(session: Session, actor: Actor, address: str) -> bool:
    """Say whether the caller has confirmed an address."""
    row = find(session, actor)
    return row is not None and row.state == "verified" and row.address == address


def find(session: Session, actor: Actor) -> MailAddress | None:
    """Return the caller's address, if they have set one."""
    return session.get(MailAddress, actor.user_id)


def forget(session: Session, actor: Actor) -> None:
    """Delete the caller's address. Does nothing if there is none."""
    row = session.get(MailAddress, actor.user_id, with_for_update=True, populate_existing=True)
    if row is not None:
        session.delete(row)
        session.flush()
        record(session, actor, "mail.forget", actor.name)


def confirm(session: Session, actor: Actor, link: str, hour: int) -> MailAddress:
    """Confirm the caller's address by the link that was sent there; news from now on go to it.

    Raises:
        NotFound: The link is not, or no longer, good.
        Forbidden: It was sent for another user.
    """
    row = find_signed(session, link, "confirm", lock=True)
    require_own(row, actor)
    if row.state != "verified":
        skip_older(session, row)
        row.state, row.attempts, row.answer, row.due_at = "verified", 0, "", next_due(row.rhythm, hour)
        session.flush()
        record(session, actor, "mail.confirm", actor.name)
    return row


def unsubscribe(session: Session, link: str, request_id: str | None) -> MailAddress:
    """Send no more mails to an address, by the link in each of them. Does nothing if none are sent.

    Raises:
        NotFound: The link is not, or no longer, good.
    """
    row = find_signed(session, link, "unsubscribe", lock=True)
    if row.rhythm != "off":
        row.rhythm, row.due_at = "off", None
        session.flush()
        record(session, None, "mail.unsubscribe", row.user.name, request_id=request_id)
    return row


def require_own(row: MailAddress, actor: Actor) -> None:
    """Refuse an address of somebody else.

    Raises:
        Forbidden: The address is not the caller's.
    """
    if row.user_id != actor.user_id:
        raise Forbidden("This link was sent for another account; sign in with that one, and open it again.")


def find_signed(session: Session, link: str, purpose: Purpose, *, lock: bool = False) -> MailAddress:
    """Return the address that a link was sent to, with its user.

    Raises:
        NotFound: The link is not, or no longer, good.
    """
    wrong = NotFound(
        "This link is not, or no longer, good; set your address at /settings/mail, or by `crumb mail set`."
    )
    match = LINK.fullmatch(link)
    if match is None:
        raise wrong
    query = select(MailAddress).where(MailAddress.user_id == uuid.UUID(match[1])).options(joinedload(MailAddress.user))
    row = session.scalar(query.with_for_update(of=MailAddress) if lock else query)
    if row is None or not hmac.compare_digest(sign(row, purpose), link):
        raise wrong
    if purpose == "confirm" and row.state in ("asked", "sent") and row.asked_at + CONFIRM_WITHIN <= now():
        raise wrong
    if purpose == "confirm" and row.state == "refused":
        raise wrong
    return row


def sign(row: MailAddress, purpose: Purpose) -> str:
    """Return the last part of the link that is mailed to an address for a purpose."""
    signature = hmac.new(row.secret.encode(), f"{purpose}:{row.address}".encode(), sha256).hexdigest()
    return f"{row.user_id.hex}-{signature}"


def next_due(rhythm: str, hour: int) -> datetime | None:
    """Return when somebody is to be told next: now, at an hour of the day in UTC, or never."""
    if rhythm == "off":
        return None
    if rhythm == "at_once":
        return now()
    today = datetime.combine(now().date(), time(hour, tzinfo=UTC))
    return today if today > now() else today + timedelta(days=1)


def skip_older(session: Session, row: MailAddress) -> None:
    """Begin with what happens from now on."""
    row.cursor = newest_serial(session)
    session.execute(update(Mention).where(Mention.user_id == row.user_id, ~Mention.mailed).values(mailed=True))
