"""Accounts: users that admins make, and how users want to be called."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.db.tables import User
from registry.services.people import namespaces, paging, tokens
from registry.services.people.actors import Actor, record
from registry.services.people.rules import SCOPES


def create(session: Session, actor: Actor, name: str, display_name: str, expires_days: float) -> tuple[str, User]:
    """Make a user for somebody; return their first token, which can do all that they may, and the user.

    Raises:
        InvalidRequest: The name is malformed or reserved.
        WrongState: The name is taken, or looks like one that is.
    """
    user = namespaces.add_user(session, name, display_name)
    secret, token = tokens.add(session, user, SCOPES, "first", expires_days)
    record(session, actor, "user.create", name, after={"display_name": display_name, "prefix": token.prefix})
    return secret, user


def rename(session: Session, actor: Actor, display_name: str) -> User:
    """Change how the caller wants to be called. Does nothing if they are called so already."""
    user = session.get_one(User, actor.user_id, with_for_update={"key_share": True}, populate_existing=True)
    if user.display_name != display_name:
        before, user.display_name = {"display_name": user.display_name}, display_name
        session.flush()
        record(session, actor, "user.update", user.name, before=before, after={"display_name": display_name})
    return user


def listing(session: Session, search: str | None, after: str | None, limit: int) -> tuple[list[User], str | None]:
    """Return a page of users by name, of those that contain `search`, and the cursor of the next page."""
    query: Any = select(User).order_by(User.name)
    if search:
        query = query.where(User.name.contains(search.lower(), autoescape=True))
    if after:
        query = query.where(User.name > after)
    rows: Sequence[User] = session.scalars(query.limit(limit + 1)).all()
    return paging.cut(rows, limit, lambda user: user.name)
