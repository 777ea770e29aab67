"""People of a primary: users and namespaces, added by the keys that they have there, if nobody here has key or name."""

import uuid

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.db.tables import MirroredRow, Model, Namespace, NamespaceMember, User
from registry.errors import InvalidRequest, WrongState
from registry.services.mirroring.documents import Person, Space
from registry.services.people.names import skeleton


def take_person(session: Session, person: Person) -> None:
    """Add a user, who cannot sign in here, and their namespace, which is their own.

    Raises:
        WrongState: Somebody of this registry has the name or one that looks alike.
        InvalidRequest: The key is that of somebody of this registry.
    """
    user = session.get(User, person.id)
    if user is None:
        require_new(session, person.id, person.name)
        user = User(id=person.id, name=person.name, is_program=person.is_program, display_name=person.display_name)
        require_free(session, person.name, person.namespace)
        session.add_all([user, MirroredRow(id=person.id, kind="user", complete=True)])
    elif session.get(MirroredRow, ("user", person.id)) is None or user.name != person.name:
        raise InvalidRequest(f"The key of {person.name} is that of an account of this registry.")
    else:
        user.display_name = person.display_name
    session.flush()
    take_space(session, Space(person.namespace, person.name, "user"))
    if session.get(NamespaceMember, (person.namespace, person.id)) is None:
        session.add(NamespaceMember(namespace_id=person.namespace, user_id=person.id, role="owner"))
    session.flush()


def take_space(session: Session, space: Space) -> None:
    """Add a namespace.

    Raises:
        WrongState, InvalidRequest: As of `take_person`.
    """
    row = session.get(Namespace, space.id)
    if row is None:
        require_new(session, space.id, space.name)
        require_free(session, space.name, space.id)
        session.add(Namespace(id=space.id, name=space.name, skeleton=skeleton(space.name), kind=space.kind))
        session.add(MirroredRow(id=space.id, kind="namespace", complete=True))
        session.flush()
    elif session.get(MirroredRow, ("namespace", space.id)) is None or row.name != space.name:
        raise InvalidRequest(f"The key of the namespace {space.name} is that of one of this registry.")


def require_new(session: Session, key: uuid.UUID, subject: str) -> None:
    """Refuse a key that a user, a namespace or a model already has.

    Raises:
        InvalidRequest: One has it.
    """
    if any(session.get(table, key) is not None for table in (User, Namespace, Model)):
        raise InvalidRequest(f"The key of {subject} is that of something else of this registry.")


def require_free(session: Session, name: str, key: uuid.UUID) -> None:
    """Refuse a name that belongs to this registry, or looks like one that does.

    Raises:
        WrongState: It is taken.
    """
    taken = session.scalar(select(Namespace).where(Namespace.skeleton == skeleton(name), Namespace.id != key))
    if taken is not None:
        raise WrongState(
            f"The primary has {name}, and '{taken.name}' of this registry has that name or looks like it. Mirror into "
            "a registry whose accounts have other names."
        )
