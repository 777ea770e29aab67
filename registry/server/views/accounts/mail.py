"""Views of e-mail: where somebody's news go, and the links in mails."""

from sqlalchemy.orm import Session

from registry import schemas
from registry.db.tables import MailAddress
from registry.services.people import mail_addresses
from registry.services.people.actors import Actor


def show(row: MailAddress | None, *, sends: bool) -> schemas.MailSettings:
    """Return the shape of somebody's address; `sends` says whether there is a mail server."""
    if row is None:
        return schemas.MailSettings(address=None, state="none", rhythm="off", answer="", sends=sends)
    found = {name: getattr(row, name) for name in ("address", "state", "rhythm", "answer")}
    return schemas.MailSettings(**found, sends=sends)


def of(session: Session, actor: Actor, *, sends: bool) -> schemas.MailSettings:
    """Return where the caller's news go."""
    return show(mail_addresses.find(session, actor), sends=sends)


def to_confirm(session: Session, actor: Actor, link: str) -> str:
    """Return the caller's address that a link confirms.

    Raises:
        NotFound: The link is not, or no longer, good.
        Forbidden: It was sent for another user.
    """
    row = mail_addresses.find_signed(session, link, "confirm")
    mail_addresses.require_own(row, actor)
    return row.address


def to_unsubscribe(session: Session, link: str) -> str:
    """Return the user whose mails a link ends.

    Raises:
        NotFound: The link is not, or no longer, good.
    """
    return mail_addresses.find_signed(session, link, "unsubscribe").user.name
