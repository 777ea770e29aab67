"""News mails: what each user is told by e-mail, claimed by mailers one mail at a time.

    verified, due ── anything new since `cursor`? ── no ──> looked at again later
                                   └── claimed for a while ── sent ──> cursor and mentions moved, due later
                                              ^                └── refused ──> due ever later, in the end never
                                              └── the mailer died: due again when the time is over

An event is in one mail. If a mailer dies after the server took its mail and before that is written down, the mail goes
out once more, with what else is new by then; with nothing else, it has the same Message-ID. While the mail server is
away, nothing is lost and nothing piles up: the next mail has what would have been in several.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from urllib.parse import urlsplit
from uuid import UUID

from sqlalchemy import ColumnElement, and_, exists, or_, select, update
from sqlalchemy.orm import Session, contains_eager

from registry.db.audit import newest_serial
from registry.db.tables import AuditEvent, MailAddress, Mention, Model, Patch, User, now
from registry.services.curation import letters, news
from registry.services.curation.letters import Item
from registry.services.curation.news import SHOWN, Event, number_of
from registry.services.people import access, mail_addresses
from registry.services.people.actors import Actor, reader
from registry.services.people.rules import Role

LEASE = timedelta(minutes=10)  # longer than a mail takes to be handed over
LOOK_EVERY = timedelta(minutes=1)  # at news of those who want them at once
LOOKED_AT = 50  # addresses in one transaction
FIRST_PAUSE, LONGEST_PAUSE = timedelta(minutes=15), timedelta(days=1)
MOST_REFUSALS, MOST_ATTEMPTS = 3, 8  # in a row, if the mail server says for good, or for now
PROPOSED = ("patch.propose", "card.propose")
DECIDED = (
    *("patch.comment", "patch.review", "patch.accept", "patch.reject", "patch.yank", "patch.unyank"),
    *("patch.quarantine", "card.accept", "card.reject"),
)
WORDS = {
    "patch.push": "pushed",
    "patch.propose": "proposed",
    "patch.comment": "commented on",
    "patch.review": "reviewed",
    "patch.accept": "accepted",
    "patch.reject": "rejected",
    "patch.yank": "yanked",
    "patch.unyank": "took back the yank of",
    "patch.quarantine": "quarantined",
    "card.propose": "proposed the card",
    "card.accept": "accepted the card",
    "card.reject": "rejected the card",
    "release.publish": "published",
    "release.yank": "yanked",
    "channel.move": "moved",
    "channel.rollback": "rolled back",
}


@dataclass(frozen=True)
class DueMail:
    """A mail that a mailer has claimed, and what is written down once it is sent.

    Args:
        user_id: Whom it is for.
        secret: Of the address, which may be another one by the time the mail is sent.
        confirms: Whether it asks for a confirmation of the address.
        to, subject, text, message_id, unsubscribe: The mail.
        serial: The event of the log up to which it tells.
        mentions: The mentions that it tells of.
        at: When they were read.
    """

    user_id: UUID
    secret: str
    confirms: bool
    to: str
    subject: str
    text: str
    message_id: str
    unsubscribe: str
    serial: int
    mentions: tuple[UUID, ...]
    at: datetime


def due() -> ColumnElement[bool]:
    """Return the condition for the addresses that something is due for, given their users."""
    vouched = or_(User.vouched_until.is_(None), User.vouched_until > now())
    return and_(MailAddress.due_at <= now(), User.is_active, vouched)


def waiting(session: Session) -> bool:
    """Say whether anything is due, without taking locks."""
    query = select(MailAddress.user_id).join(MailAddress.user).where(due())
    return session.scalar(query.limit(1)) is not None


def claim(session: Session, root: str, hour: int) -> DueMail | None:
    """Claim the next mail that has something to say; None if none of the addresses that were looked at has.

    Args:
        session: A writing transaction.
        root: The address at which people reach the registry.
        hour: The hour of daily mails, in UTC.
    """
    query = select(MailAddress).join(MailAddress.user).where(due()).order_by(MailAddress.due_at)
    locked = query.limit(LOOKED_AT).with_for_update(skip_locked=True, of=MailAddress)
    rows = session.scalars(locked.options(contains_eager(MailAddress.user))).all()
    serial = newest_serial(session)  # what is written from now on is for the next mails
    for row in rows:
        mail = confirmation(row, root) if row.state == "asked" else news_mail(session, row, root, serial)
        if mail is not None:
            row.due_at = now() + LEASE
            session.flush()
            return mail
        row.cursor, row.due_at = serial, later(row, hour)
    session.flush()
    return None


def confirmation(row: MailAddress, root: str) -> DueMail:
    """Return the mail that asks for the confirmation of an address."""
    link, host = mail_addresses.sign(row, "confirm"), host_of(root)
    days = mail_addresses.CONFIRM_WITHIN.days
    subject, text = letters.confirmation(host, row.user.name, f"{root}/settings/mail/confirm?link={link}", days)
    key = f"{row.user_id.hex}.{link[-16:]}@{host}"
    return DueMail(row.user_id, row.secret, True, row.address, subject, text, key, "", row.cursor, (), now())


def news_mail(session: Session, row: MailAddress, root: str, serial: int) -> DueMail | None:
    """Return the mail with what is new for a user since the last one, up to a serial; None if nothing is."""
    actor, at = reader(row.user), now()
    if row.cursor >= serial:
        return None
    mentions = [found for found in news.mentions(session, actor) if not found.mailed]
    named = {(found.patch.model_id, found.patch.number) for found in mentions}
    decided = on_own_patches(session, actor, row.cursor, serial)
    own = [found for found in decided if not tells(found, named)]
    proposed = to_review(session, actor, row.cursor, serial)
    told = {event.serial for event, _ in (*own, *proposed)}
    followed = news.events(session, actor, row.cursor, serial)
    watched = [found for found in followed if found[0].serial not in told]
    sections: list[tuple[str, Sequence[Item]]] = [
        ("You were mentioned", [mentioned(found, root) for found in mentions]),
        ("Your patches", items(own, root)),
        ("For your review", items(proposed, root)),
        ("In models that you watch", items(watched, root)),
    ]
    whole = sum(len(listed) for _, listed in sections)
    shown = [(heading, listed) for heading, listed in cut(sections) if listed]
    if not shown:
        return None
    unsubscribe = f"{root}/settings/mail/unsubscribe?link={mail_addresses.sign(row, 'unsubscribe')}"
    links = {"inbox": f"{root}/inbox", "settings": f"{root}/settings/mail", "unsubscribe": unsubscribe}
    more = whole > SHOWN or any(len(listed) >= SHOWN for listed in (mentions, decided, proposed, followed))
    subject, text = letters.news(host_of(root), row.user.name, shown, more, links)
    said = repr([(heading, list(listed)) for heading, listed in shown]).encode()
    key = f"{row.user_id.hex}.{row.cursor}.{sha256(said).hexdigest()[:16]}@{host_of(root)}"
    keys = tuple(found.id for found in mentions)
    return DueMail(row.user_id, row.secret, False, row.address, subject, text, key, unsubscribe, serial, keys, at)


def on_own_patches(session: Session, actor: Actor, after: int, until: int) -> list[Event]:
    """Return what others did to the patches and cards that a user proposed, as `news.events_of` does."""
    own = Patch.author_id == actor.user_id, Patch.model_id == AuditEvent.model_id, news.is_about(Patch.number)
    return news.events_of(session, actor, after, until, DECIDED, exists().where(*own))


def to_review(session: Session, actor: Actor, after: int, until: int) -> list[Event]:
    """Return what others proposed in models that a user reviews, as `news.events_of` does."""
    reviewed = AuditEvent.model_id.in_(access.models_with(actor.user_id, Role.REVIEWER))
    return news.events_of(session, actor, after, until, PROPOSED, reviewed)


def tells(found: Event, named: set[tuple[UUID, int]]) -> bool:
    """Say whether an event is the message of which a mention tells already."""
    event, model = found
    return event.action in ("patch.comment", "patch.review") and (model.id, number_of(event)) in named


def items(found: Sequence[Event], root: str) -> list[Item]:
    """Return events as news, each sentence once."""
    said = [
        Item(f"{event.user_name or 'The registry'} {WORDS[event.action]} {event.subject}", place(event, model, root))
        for event, model in found
    ]
    return list(dict.fromkeys(said))


def mentioned(row: Mention, root: str) -> Item:
    """Return a mention as a piece of news."""
    name, number = row.patch.model.full_name, row.patch.number
    return Item(f"{row.by.name} mentioned you in {name}#{number}", f"{root}/{name}/patches/{number}")


def place(event: AuditEvent, model: Model, root: str) -> str:
    """Return the address of the page about an event."""
    home = f"{root}/{model.full_name}"
    if (number := number_of(event)) is not None:
        return f"{home}/patches/{number}"
    tail = event.subject.rpartition("@")[2]
    return f"{home}/{'channels' if event.action.startswith('channel.') else 'releases'}/{tail}"


def cut(sections: Sequence[tuple[str, Sequence[Item]]]) -> list[tuple[str, Sequence[Item]]]:
    """Return the first news of all sections together that fit into a mail."""
    room, kept = SHOWN, list[tuple[str, Sequence[Item]]]()
    for heading, listed in sections:
        kept.append((heading, listed[:room]))
        room -= len(kept[-1][1])
    return kept


def finish(session: Session, mail: DueMail, hour: int) -> None:
    """Write down that a mail was sent. Does nothing if the address is another one by now."""
    row = current(session, mail)
    if row is None:
        return
    row.attempts, row.answer = 0, ""
    if mail.confirms:
        row.state, row.due_at = ("sent" if row.state == "asked" else row.state), None
    else:
        row.cursor, row.due_at = max(row.cursor, mail.serial), later(row, hour)
        told = Mention.id.in_(mail.mentions), Mention.at <= mail.at
        session.execute(update(Mention).where(*told).values(mailed=True))
    session.flush()


def refuse(session: Session, mail: DueMail, answer: str, *, lasting: bool) -> str | None:
    """Write down that the mail server refused a mail; return the state of the address, None if it is another by now."""
    row = current(session, mail)
    if row is None:
        return None
    row.attempts, row.answer = row.attempts + 1, answer
    if row.attempts >= (MOST_REFUSALS if lasting else MOST_ATTEMPTS):
        row.state, row.due_at = "refused", None
    elif row.rhythm != "off" or mail.confirms:
        row.due_at = now() + min(FIRST_PAUSE * 4.0 ** (row.attempts - 1), LONGEST_PAUSE)
    session.flush()
    return row.state


def give_back(session: Session, mail: DueMail) -> None:
    """Have a mail due again at once: the mail server took none at all."""
    row = current(session, mail)
    if row is not None and row.due_at is not None:
        row.due_at = now()
        session.flush()


def current(session: Session, mail: DueMail) -> MailAddress | None:
    """Return the address of a mail, locked; None if it was set anew or forgotten since."""
    row = session.get(MailAddress, mail.user_id, with_for_update=True, populate_existing=True)
    return row if row is not None and row.secret == mail.secret else None


def later(row: MailAddress, hour: int) -> datetime | None:
    """Return when to look again at what is new for a user."""
    return now() + LOOK_EVERY if row.rhythm == "at_once" else mail_addresses.next_due(row.rhythm, hour)


def hurry(session: Session) -> int:
    """Make due what is due further ahead than any pause is long: the clock has gone back since."""
    wrong = MailAddress.due_at > now() + max(LEASE, LONGEST_PAUSE) + timedelta(minutes=1)
    return len(
        session.scalars(update(MailAddress).where(wrong).values(due_at=now()).returning(MailAddress.user_id)).all()
    )


def host_of(root: str) -> str:
    """Return the host of an address, as it stands in mails."""
    return urlsplit(root).hostname or "localhost"
