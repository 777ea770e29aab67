"""Namespaces: users, organisations, and the roles of their members."""

import uuid

from sqlalchemy import func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, joinedload

from registry.db.tables import ROLES, Namespace, NamespaceMember, User, now
from registry.errors import InvalidRequest, NotFound, WrongState
from registry.services.people import paging
from registry.services.people.actors import Actor, record
from registry.services.people.names import check_name, skeleton


def ensure_user(session: Session, name: str, *, admin: bool = False) -> User:
    """Return a user; a new one is created, with a namespace of the same name.

    Raises:
        InvalidRequest: The name is malformed or reserved.
        WrongState: The name is an organisation's, or looks like another.
    """
    user = session.scalar(select(User).where(User.name == name).with_for_update())
    if user is None:
        user = add_user(session, name, reserved=not admin)
    user.is_admin = user.is_admin or admin
    session.flush()
    return user


def add_user(session: Session, name: str, display_name: str = "", *, reserved: bool = True) -> User:
    """Add a user, with a namespace of the same name.

    Args:
        session: A writing transaction.
        name: Their name.
        display_name: How they want to be called.
        reserved: Whether reserved names are refused.

    Raises:
        InvalidRequest: The name is malformed or reserved.
        WrongState: The name is taken, or looks like one that is.
    """
    check_name(name, "name", reserved=reserved)
    require_free(session, name)
    user = User(name=name, display_name=display_name, is_admin=False)
    session.add(user)
    session.flush()
    add_namespace(session, name, "user", user)
    return user


def find_alike(session: Session, name: str) -> str | None:
    """Return the name of the namespace that has a name, or one that looks like it; None if the name is free."""
    return session.scalar(select(Namespace.name).where(Namespace.skeleton == skeleton(name)))


def require_free(session: Session, name: str) -> None:
    """Refuse a name that a namespace has, or that looks like one that is taken.

    Raises:
        WrongState: It is taken.
    """
    if (taken := find_alike(session, name)) is not None:
        raise name_taken(name, taken)


def name_taken(name: str, taken: str) -> WrongState:
    """Return the error for a name that is taken, or looks like one that is."""
    how = "is taken" if taken == name else f"looks like '{taken}'"
    return WrongState(f"The name '{name}' {how}; choose another.", field="name")


def add_namespace(session: Session, name: str, kind: str, owner: User) -> Namespace:
    """Add a namespace with its first owner.

    Raises:
        WrongState: The name is taken, or looks like one that is.
    """
    space = Namespace(name=name, skeleton=skeleton(name), kind=kind)
    taken = find_alike(session, name)
    if taken is None:
        try:
            with session.begin_nested():
                session.add(space)
        except IntegrityError:  # somebody was quicker
            taken = find_alike(session, name)
    if taken is not None:
        raise name_taken(name, taken)
    session.add(NamespaceMember(namespace_id=space.id, user_id=owner.id, role="owner"))
    session.flush()
    return space


def create_organisation(session: Session, actor: Actor, name: str) -> Namespace:
    """Create an organisation, owned by the caller.

    Raises:
        InvalidRequest: The name is malformed or reserved.
        WrongState: The name is taken, or looks like one that is.
    """
    check_name(name, "name")
    space = add_namespace(session, name, "organisation", session.get_one(User, actor.user_id))
    record(session, actor, "namespace.create", name)
    return space


def find(session: Session, name: str) -> Namespace:
    """Return a namespace.

    Raises:
        NotFound: No such namespace exists.
    """
    space = session.scalar(select(Namespace).where(Namespace.name == name))
    if space is None:
        raise NotFound(f"There is no user or organisation {name}.")
    return space


def listing(session: Session, search: str | None, after: str | None, limit: int) -> tuple[list[Namespace], str | None]:
    """Return a page of namespaces by name, of those that contain `search`, and the cursor of the next page."""
    query = select(Namespace).order_by(Namespace.name)
    if search:
        query = query.where(Namespace.name.contains(search.lower(), autoescape=True))
    if after:
        query = query.where(Namespace.name > after)
    return paging.cut(session.scalars(query.limit(limit + 1)).all(), limit, lambda space: space.name)


def find_user(session: Session, name: str) -> User:
    """Return a user.

    Raises:
        NotFound: No such user exists.
    """
    user = session.scalar(select(User).where(User.name == name))
    if user is None:
        raise NotFound(f"There is no user {name}.")
    return user


def of_user(session: Session, user_id: uuid.UUID) -> list[tuple[str, str]]:
    """Return the organisations that a user belongs to, each with their role in it."""
    query = (
        select(Namespace.name, NamespaceMember.role)
        .join(NamespaceMember, NamespaceMember.namespace_id == Namespace.id)
        .where(NamespaceMember.user_id == user_id, Namespace.kind == "organisation")
        .order_by(Namespace.name)
    )
    return [(name, role) for name, role in session.execute(query)]


def members(session: Session, space: Namespace) -> list[NamespaceMember]:
    """Return the members of a namespace, by name."""
    return list(
        session.scalars(
            select(NamespaceMember)
            .join(User, User.id == NamespaceMember.user_id)
            .where(NamespaceMember.namespace_id == space.id)
            .options(joinedload(NamespaceMember.user))
            .order_by(User.name)
        )
    )


def set_member(session: Session, actor: Actor, name: str, user_name: str, role: str | None) -> None:
    """Give a user a role in a namespace, or take it away (None). Does nothing if the role is already set.

    Raises:
        NotFound: No such namespace, user or member exists.
        InvalidRequest: The role is not valid.
        WrongState: The last owner, or the owner of a user's own namespace, would go.
    """
    space = session.scalar(select(Namespace).where(Namespace.name == name).with_for_update())
    if space is None:
        raise NotFound(f"There is no user or organisation {name}.")
    user = find_user(session, user_name)
    if role is None and session.get(NamespaceMember, (space.id, user.id)) is None:
        raise NotFound(f"{user_name} is not a member of {name}; `crumb member list {name}` lists the members.")
    if role is not None:
        check_role(role)
    give_role(session, actor, space, user, role)


def give_role(session: Session, actor: Actor, space: Namespace, user: User, role: str | None) -> None:
    """Give a user a role in a locked namespace, or none; an event is in the log if that changes anything.

    Raises:
        WrongState: The last owner, or the owner of a user's own namespace, would go.
    """
    row = session.get(NamespaceMember, (space.id, user.id), populate_existing=True)
    before = row.role if row else None
    if before == role:
        return
    if before == "owner":
        require_another_owner(session, space, user.id)
    if row is None:
        session.add(NamespaceMember(namespace_id=space.id, user_id=user.id, role=role))
    elif role is None:
        session.delete(row)
    else:
        row.role = role
    session.flush()
    was, is_now = {"user": user.name, "role": before}, {"user": user.name, "role": role}
    record(session, actor, "namespace.member", space.name, before=was, after=is_now)


def check_role(role: str) -> None:
    """Refuse a role that does not exist.

    Raises:
        InvalidRequest: The role is not valid; the message lists the valid ones.
    """
    if role not in ROLES:
        raise InvalidRequest(f"'{role}' is not a role; the roles are {', '.join(ROLES)}.", field="role")


def require_another_owner(session: Session, space: Namespace, user_id: uuid.UUID) -> None:
    """Refuse to leave a namespace without an owner, or a user without their own.

    Raises:
        WrongState: No other owner is left, or the namespace is the user's own.
    """
    others = session.scalar(
        select(func.count())
        .select_from(NamespaceMember)
        .join(User, User.id == NamespaceMember.user_id)
        .where(
            NamespaceMember.namespace_id == space.id,
            NamespaceMember.role == "owner",
            NamespaceMember.user_id != user_id,
            User.is_active,
            or_(User.vouched_until.is_(None), User.vouched_until > now()),
        )
    )
    own = space.kind == "user" and session.get_one(User, user_id).name == space.name
    if own or not others:
        raise WrongState(f"{space.name} needs an owner; make somebody else owner first.", field="role")


def set_active(session: Session, name: str, active: bool, actor: Actor | None = None) -> bool:
    """Enable or disable a user, from their next request on; return whether that changed anything.

    Raises:
        NotFound: No such user exists.
        WrongState: The caller would disable themselves.
    """
    user = session.scalar(select(User).where(User.name == name).with_for_update(key_share=True))
    if user is None:
        raise NotFound(f"There is no user {name}.")
    if user.is_active == active:
        return False
    if actor is not None and actor.user_id == user.id:
        raise WrongState("You cannot disable yourself; ask another admin.")
    user.is_active = active
    if active:  # an admin vouches for them; the next sign-in by a provider sets its own time
        user.vouched_until = None
    session.flush()
    action = "user.enable" if active else "user.disable"
    record(session, actor, action, name, before={"active": not active}, after={"active": active})
    return True
