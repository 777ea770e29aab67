"""Whether a user may do anything at all: the operator's switch."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.db.tables import User
from registry.errors import NotFound
from registry.services.people.actors import record


def set_active(session: Session, name: str, active: bool) -> bool:
    """Let a user in or keep them out, from their next request on; return whether that changed anything.

    Raises:
        NotFound: there is no such user.
    """
    user = session.scalar(select(User).where(User.name == name).with_for_update(key_share=True))
    if user is None:
        raise NotFound(f"There is no user {name}.")
    if user.is_active == active:
        return False
    user.is_active = active
    session.flush()
    action = "user.enable" if active else "user.disable"
    record(session, None, action, name, before={"active": not active}, after={"active": active})
    return True
