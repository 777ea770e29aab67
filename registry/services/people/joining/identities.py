"""Identities: who a user is at a provider by which they sign in, and the roles that their groups there give here."""

import re
import uuid
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Select, select
from sqlalchemy.orm import Session, joinedload

from registry.db.tables import Identity, Namespace, User, now
from registry.errors import Forbidden, InvalidRequest, NotFound, WrongState
from registry.files.names import LINE
from registry.outside.person import Person
from registry.services.people import namespaces, sign_ins
from registry.services.people.actors import Actor, record
from registry.services.people.names import check_name
from registry.services.people.rules import Role

MOST_TRIES = 50  # of names for a new account
MOST_IDENTITIES = 10  # of a user


@dataclass(frozen=True)
class Policy:
    """What an operator has set of sign-in by a provider.

    Args:
        title: The name of the provider.
        join: Who gets an account by it: `everybody`, `mapped` or `invited`.
        hours: For how long it vouches for those who came by it.
        roles: (group, organisation, role).
    """

    title: str
    join: str
    hours: float
    roles: Sequence[tuple[str, str, str]]


def sign_in(
    session: Session, person: Person, policy: Policy, request_id: str | None = None, agent: str = ""
) -> tuple[str, Actor]:
    """Sign somebody in whom the provider knows, and give them an account if they may have one by that.

    Returns:
        The secret of the browser's sign-in, and their actor.

    Raises:
        Forbidden: No account is linked, and none may be made.
        Unauthenticated: The user is disabled.
    """
    identity = session.scalar(of(person).with_for_update(of=Identity))
    if identity is None:
        identity = join(session, person, policy)
    identity.name, identity.used_at = person.name, now()
    user = identity.user
    if identity.joined:
        user.vouched_until = now() + timedelta(hours=policy.hours)
    session.flush()
    secret, actor = sign_ins.start_without(session, user, f"sign-in by {policy.title}"[:100], request_id, agent)
    if identity.joined:  # of a linked account nothing would take the roles away once its owner stays away
        give_roles(session, actor, user, person.groups, policy.roles)
    return secret, actor


def join(session: Session, person: Person, policy: Policy) -> Identity:
    """Make an account for somebody whom the provider knows, under a name like theirs.

    Raises:
        Forbidden: They may have none by that.
    """
    mapped = any(group in person.groups for group, _, _ in policy.roles)
    if not (policy.join == "everybody" or (policy.join == "mapped" and mapped)):
        raise Forbidden(
            f"No account here is linked to {person.name} at {policy.title}. If you have one, sign in to it by a token, "
            "and link it in your settings; if not, ask for an invitation."
        )
    display = person.display_name if re.fullmatch(LINE, person.display_name) else ""
    user = namespaces.add_user(session, free_name(session, person), display[:100])
    identity = Identity(
        user_id=user.id, issuer=person.issuer, subject=person.subject, name=person.name, joined=True, user=user
    )
    session.add(identity)
    session.flush()
    about = {"issuer": person.issuer, "subject": person.subject, "identity": str(identity.id)}
    record(session, None, "user.join", user.name, after=about)
    return identity


def free_name(session: Session, person: Person) -> str:
    """Return a name that nobody has, as like the person's own as can be.

    Raises:
        Forbidden: There is none.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", person.name.partition("@")[0].lower()).strip("-")[:80].strip("-") or "user"
    for number in range(1, MOST_TRIES + 1):
        name = plain if number == 1 else f"{plain}-{number}"
        try:
            check_name(name, "name")
        except InvalidRequest:
            continue
        if namespaces.find_alike(session, name) is None:
            return name
    raise Forbidden(f"All names like {plain} are taken; ask an admin for an invitation, and choose another.")


def link(session: Session, actor: Actor, person: Person) -> Identity:
    """Let the caller sign in by an account at the provider from now on. Does nothing if they do already.

    Raises:
        WrongState: Another user signs in by it, or the caller has as many identities as anybody may have.
    """
    identity = session.scalar(of(person))
    if identity is not None:
        if identity.user_id != actor.user_id:
            raise WrongState(f"{person.name} signs in to another account here, {identity.user.name}.")
        return identity
    session.get_one(User, actor.user_id, with_for_update={"key_share": True}, populate_existing=True)
    if len(listing(session, actor)) >= MOST_IDENTITIES:
        raise WrongState(f"{MOST_IDENTITIES} accounts are linked to yours, the most that may be; unlink one.")
    identity = Identity(user_id=actor.user_id, issuer=person.issuer, subject=person.subject, name=person.name)
    session.add(identity)
    session.flush()
    about = {"issuer": person.issuer, "subject": person.subject, "identity": str(identity.id)}
    record(session, actor, "identity.link", actor.name, after=about)
    return identity


def unlink(session: Session, actor: Actor, identity_id: uuid.UUID) -> None:
    """Keep the caller from signing in by an account at a provider.

    Raises:
        NotFound: The caller has no such identity.
        WrongState: Their account came by it.
    """
    mine = Identity.id == identity_id, Identity.user_id == actor.user_id
    identity = session.scalar(select(Identity).where(*mine).with_for_update())
    if identity is None:
        raise NotFound("No such account is linked to yours; `crumb session list` shows which are.")
    if identity.joined:
        raise WrongState("Your account came by this one, which vouches for it; it cannot be unlinked.")
    session.delete(identity)
    session.flush()
    before = {"issuer": identity.issuer, "subject": identity.subject, "identity": str(identity.id)}
    record(session, actor, "identity.unlink", actor.name, before=before)


def listing(session: Session, actor: Actor) -> list[Identity]:
    """Return the identities of the caller, oldest first."""
    query = select(Identity).where(Identity.user_id == actor.user_id)
    return list(session.scalars(query.order_by(Identity.created_at, Identity.id)))


def give_roles(
    session: Session, actor: Actor, user: User, groups: Collection[str], roles: Sequence[tuple[str, str, str]]
) -> None:
    """Give a user the greatest role that their groups give in each organisation of the table, and no other there.

    An organisation keeps its last owner, whatever the table says.
    """
    for name in dict.fromkeys(place for _, place, _ in roles):
        space = session.scalar(
            select(Namespace).where(Namespace.name == name, Namespace.kind == "organisation").with_for_update()
        )
        if space is None:
            continue
        given = [role for group, place, role in roles if place == name and group in groups]
        wanted = max(given, key=lambda role: Role[role.upper()], default=None)
        with suppress(WrongState):  # it keeps its last owner
            namespaces.give_role(session, actor, space, user, wanted)


def of(person: Person) -> Select[Identity]:
    """Return the query for the identity of a person, with its user."""
    mine = Identity.issuer == person.issuer, Identity.subject == person.subject
    return select(Identity).join(Identity.user).where(*mine).options(joinedload(Identity.user))
