"""Invitations: how people join, by a link that somebody sent them, or that they asked for and an admin approved."""

import secrets
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session, joinedload

from registry.db.tables import Invitation, Namespace, NamespaceMember, User, now
from registry.errors import Forbidden, NotFound, TooMany, WrongState
from registry.services.people import actors, namespaces, paging, policies, tokens
from registry.services.people.actors import Actor, hash_token, record
from registry.services.people.names import check_name
from registry.services.people.rules import SCOPES, Role

LONGEST_DAYS = 30.0  # that an invitation is good for
ASKED_DAYS = 30  # that a request waits for an admin; one that was approved is good for as long again
MOST_OPEN = 200  # invitations to a namespace, or to the server alone
MOST_ASKED = 1000  # requests that wait for admins
TOKEN_DAYS = 365.0  # of the token that a new user gets
CLOSED = "This registry takes nobody in by itself; ask its operator for an account."


def create(
    session: Session,
    actor: Actor,
    setting: str,
    *,
    namespace: str | None = None,
    role: str | None = None,
    label: str = "",
    expires_days: float = 7,
) -> tuple[str, Invitation]:
    """Invite one person; return the secret of the link, which is shown once, and the invitation.

    Args:
        session: A writing transaction.
        actor: An admin, or an owner of the namespace.
        setting: How people join by the operator's setting.
        namespace: Where the person gets a role; None to let them join without one.
        role: The role there.
        label: Whom it is for, in lists.
        expires_days: Days until it ends.

    Raises:
        Forbidden: Nobody joins this registry.
        WrongState: As many invitations are open as there may be.
    """
    if policies.registration(session, setting) == "closed":
        raise Forbidden("Nobody joins this registry by invitation: it is closed, by its operator or its admins.")
    drop_expired(session)
    space = lock_space(session, namespace) if namespace is not None else None
    key = space.id if space else None
    require_few(session, Invitation.state == "open", Invitation.namespace_id.is_not_distinct_from(key), most=MOST_OPEN)
    require_few(session, Invitation.state == "open", Invitation.created_by_id == actor.user_id, most=MOST_OPEN)
    secret = secrets.token_urlsafe(32)
    row = Invitation(
        secret_hash=hash_token(secret),
        namespace_id=key,
        role=role,
        label=label,
        created_by_id=actor.user_id,
        expires_at=now() + timedelta(days=expires_days),
    )
    session.add(row)
    session.flush()
    about = {"invitation": str(row.id), "role": role, "label": label}
    record(session, actor, "invitation.create", namespace or "the registry", after=about)
    return secret, find(session, row.id)


def ask(session: Session, setting: str, name: str, message: str, request_id: str) -> tuple[str, Invitation]:
    """Ask to join; return the secret of the link that opens once an admin approves.

    Raises:
        Forbidden: Nobody may ask.
        InvalidRequest: The name is malformed or reserved.
        WrongState: The name is taken, or looks like another.
        TooMany: Too many people wait already.
    """
    if (registration := policies.registration(session, setting)) != "open":
        raise Forbidden(CLOSED if registration == "closed" else "This registry takes people in by invitation only.")
    check_name(name, "name")
    namespaces.require_free(session, name)
    drop_expired(session)
    waiting = session.scalar(select(func.count()).select_from(Invitation).where(Invitation.state == "asked"))
    if (waiting or 0) >= MOST_ASKED:
        raise TooMany("Too many people wait for an answer already; ask again in a few days.", retry_after=86400)
    secret = secrets.token_urlsafe(32)
    row = Invitation(
        secret_hash=hash_token(secret),
        state="asked",
        asked_name=name,
        message=message,
        expires_at=now() + timedelta(days=ASKED_DAYS),
    )
    session.add(row)
    session.flush()
    record(session, None, "invitation.ask", name, after={"invitation": str(row.id)}, request_id=request_id)
    return secret, row


def approve(session: Session, actor: Actor, invitation_id: uuid.UUID) -> Invitation:
    """Let somebody who asked join by their link. Does nothing if they may already.

    Raises:
        NotFound: Nobody asked so, or the request is out of date.
    """
    row = session.scalar(select(Invitation).where(Invitation.id == invitation_id).with_for_update())
    if row is None or row.asked_name is None or row.state == "used" or row.expires_at <= now():
        raise NotFound("There is no such request; `crumb admin user requests` lists those that wait.")
    if row.state == "asked":
        row.state, row.created_by_id = "open", actor.user_id
        row.expires_at = now() + timedelta(days=ASKED_DAYS)
        session.flush()
        record(session, actor, "invitation.approve", row.asked_name, after={"invitation": str(row.id)})
    return find(session, row.id)


def revoke(session: Session, actor: Actor, invitation_id: uuid.UUID, namespace: str | None = None) -> None:
    """Delete an invitation that nobody used, or refuse a request. Does nothing if there is none.

    Args:
        session: A writing transaction.
        actor: The caller.
        invitation_id: Its key.
        namespace: Only if it is for this namespace; None for any.
    """
    query = select(Invitation).where(Invitation.id == invitation_id, Invitation.state != "used").with_for_update()
    row = session.scalar(query)
    space = session.get(Namespace, row.namespace_id) if row and row.namespace_id else None
    if row is None or (namespace is not None and (space is None or space.name != namespace)):
        return
    subject = row.asked_name or (space.name if space else "the registry")
    session.delete(row)
    session.flush()
    before = {"invitation": str(row.id), "state": row.state}
    record(session, actor, "invitation.revoke", subject, before=before)


def refuse_all(session: Session, actor: Actor, until: datetime) -> int:
    """Refuse all requests that were made until a time; return how many.

    Whoever refuses them has seen them: one that was made since stays.
    """
    old = Invitation.state == "asked", Invitation.created_at <= until
    refused = session.scalars(delete(Invitation).where(*old).returning(Invitation.asked_name)).all()
    if refused:
        before = {"requests": len(refused), "names": sorted(filter(None, refused))}
        record(session, actor, "invitation.refuse", "the registry", before=before)
    return len(refused)


def look(session: Session, secret: str) -> Invitation:
    """Return the invitation of a link, which may still wait for approval.

    Raises:
        NotFound: It is unknown, used, revoked or out of date.
    """
    row: Invitation | None = session.scalar(loaded().where(Invitation.secret_hash == hash_token(secret)))
    if row is None or row.state == "used" or row.expires_at <= now():
        raise NotFound("This invitation is unknown, used, revoked or out of date; ask for another.")
    return row


def accept(session: Session, actor: Actor, secret: str) -> Invitation:
    """Give somebody who has an account the role of an invitation, unless theirs is greater.

    Raises:
        NotFound: It is unknown, used, revoked or out of date.
        WrongState: It waits for approval, or holds no role.
    """
    row = take(session, secret)
    if row.namespace_id is None or row.role is None:
        raise WrongState("You have an account, and this invitation only makes one; give it to somebody else.")
    user = session.get_one(User, actor.user_id)
    before = enter(session, row, user)
    about = {"invitation": str(row.id), "role": row.role}
    record(session, actor, "invitation.accept", space_name(row), before={"role": before}, after=about)
    return row


def join(
    session: Session, setting: str, secret: str, name: str, display_name: str, request_id: str
) -> tuple[Invitation, str, Actor]:
    """Make an account for whoever has the link of an invitation; return this, its first token and its actor.

    Raises:
        Forbidden: Nobody joins this registry.
        NotFound: The invitation is unknown, used, revoked or out of date.
        InvalidRequest: The name is malformed or reserved.
        WrongState: The name is taken or looks like another, or is not the one that was approved, or the invitation
            waits for approval.
    """
    if policies.registration(session, setting) == "closed":
        raise Forbidden(CLOSED)
    row = take(session, secret)
    if row.created_by is not None and row.created_by.vouched_until is not None and not row.created_by.is_admin:
        # or somebody whom the provider will not vouch for any more would have made another account in time
        raise Forbidden("This invitation gives a role to who has an account; sign in by the provider for one.")
    if row.asked_name not in (None, name) and namespaces.find_alike(session, row.asked_name or "") is None:
        raise WrongState(f"Your request was approved for the name {row.asked_name}.", field="name")
    user = namespaces.add_user(session, name, display_name)
    enter(session, row, user)
    given, token = tokens.add(session, user, SCOPES, "joined", TOKEN_DAYS)
    token.user = user
    actor = actors.speaker(token, request_id)
    about = {"invitation": str(row.id), "namespace": row.namespace.name if row.namespace else None, "role": row.role}
    record(session, actor, "user.join", name, after={**about, "prefix": token.prefix})
    return row, given, actor


def take(session: Session, secret: str) -> Invitation:
    """Return an open invitation, locked, which only this transaction can use."""
    session.execute(select(Invitation.id).where(Invitation.secret_hash == hash_token(secret)).with_for_update())
    row = look(session, secret)
    if row.state == "asked":
        raise WrongState("An admin has not approved your request yet; come back to this address later.")
    if not may_invite(session, row):
        raise NotFound("Whoever sent this invitation may not invite any more; ask somebody else for another.")
    return row


def may_invite(session: Session, row: Invitation) -> bool:
    """Say whether whoever made an invitation, or approved it, could still do so."""
    maker = row.created_by
    if maker is None or not maker.is_active or (maker.vouched_until is not None and maker.vouched_until <= now()):
        return False
    if maker.is_admin:
        return True
    member = session.get(NamespaceMember, (row.namespace_id, maker.id)) if row.namespace_id else None
    return member is not None and member.role == "owner"


def enter(session: Session, row: Invitation, user: User) -> str | None:
    """Mark an invitation as used by a user, and give them its role; return the role that they had."""
    row.state, row.used_by_id, row.message = "used", user.id, ""
    before = None
    if row.namespace_id is not None and row.role is not None:
        member = session.get(NamespaceMember, (row.namespace_id, user.id), with_for_update=True)
        before = member.role if member else None
        if member is None:
            session.add(NamespaceMember(namespace_id=row.namespace_id, user_id=user.id, role=row.role))
        elif Role[row.role.upper()] > Role[member.role.upper()]:
            member.role = row.role
    session.flush()
    return before


def listing(
    session: Session, *, namespace: str | None = None, asked: bool = False, before: str | None = None, limit: int
) -> tuple[list[Invitation], str | None]:
    """Return a page of the invitations that nobody used, or of the requests that wait, newest first, and its cursor."""
    query = loaded().where(Invitation.state == ("asked" if asked else "open"), Invitation.expires_at > now())
    if namespace is not None:
        query = query.where(Invitation.namespace_id == namespaces.find(session, namespace).id)
    rows: Sequence[Invitation] = session.scalars(
        paging.newest(query, Invitation.created_at, Invitation.id, before, limit)
    ).all()
    return paging.cut(rows, limit, lambda row: paging.write(row.created_at, row.id))


def find(session: Session, invitation_id: uuid.UUID) -> Invitation:
    """Return an invitation with its namespace and who made it."""
    query = loaded().where(Invitation.id == invitation_id).execution_options(populate_existing=True)
    row: Invitation = session.scalars(query).one()
    return row


def loaded() -> Any:
    """Return a query for invitations, each with its namespace and who made it."""
    return select(Invitation).options(joinedload(Invitation.namespace), joinedload(Invitation.created_by))


def space_name(row: Invitation) -> str:
    """Return the name of the namespace that an invitation is to."""
    assert row.namespace is not None
    return row.namespace.name


def lock_space(session: Session, name: str) -> Namespace:
    """Return a namespace, locked, so that its invitations are counted one by one."""
    space = session.scalar(select(Namespace).where(Namespace.name == name).with_for_update(key_share=True))
    return space or namespaces.find(session, name)


def require_few(session: Session, *conditions: Any, most: int) -> None:
    """Refuse another invitation if as many are open as there may be.

    Raises:
        WrongState: There are.
    """
    count = session.scalar(select(func.count()).select_from(Invitation).where(*conditions))
    if (count or 0) >= most:
        raise WrongState(f"{most} invitations are open, the most that there may be; revoke some that nobody used.")


def drop_expired(session: Session) -> None:
    """Delete invitations and requests that are out of date."""
    session.execute(delete(Invitation).where(Invitation.state != "used", Invitation.expires_at <= now()))
