"""Views of how people join, and of accounts: profiles, invitations, users."""

from sqlalchemy.orm import Session

from registry import schemas
from registry.db.tables import Invitation, User
from registry.services.catalog import contributions
from registry.services.people import namespaces, policies
from registry.services.people.actors import Actor
from registry.services.people.joining import accounts, invitations

SHOWN = 10  # patches on a profile


def registration(session: Session, setting: str) -> str:
    """Return how people join, by the operator's setting and the policy of admins."""
    return policies.registration(session, setting)


def link(url: str, secret: str) -> str:
    """Return the address at which an invitation is used."""
    return f"{url}/join?invitation={secret}"


def invitation(row: Invitation) -> schemas.Invitation:
    """Return the shape of an invitation, without its address."""
    same = ("state", "role", "label", "asked_name", "message", "created_at", "expires_at")
    return schemas.Invitation(
        id=str(row.id),
        namespace=row.namespace.name if row.namespace else None,
        created_by=row.created_by.name if row.created_by else None,
        **{name: getattr(row, name) for name in same},
    )


def new_invitation(row: Invitation, url: str) -> schemas.NewInvitation:
    """Return the shape of an invitation with its address."""
    return schemas.NewInvitation(url=url, **invitation(row).model_dump())


def joined(row: Invitation, actor: Actor, token: str | None) -> schemas.Joined:
    """Return what an invitation gave to somebody."""
    space = row.namespace.name if row.namespace else None
    return schemas.Joined(user=actor.name, token=token, namespace=space, role=row.role)


def look(session: Session, secret: str) -> schemas.Invitation:
    """Return the invitation of a link.

    Raises:
        NotFound: It is unknown, used, revoked or out of date.
    """
    return invitation(invitations.look(session, secret))


def invitation_page(
    session: Session, *, namespace: str | None = None, asked: bool = False, before: str | None = None, limit: int
) -> schemas.InvitationPage:
    """Return a page of the invitations that nobody used, or of the requests that wait, newest first."""
    rows, cursor = invitations.listing(session, namespace=namespace, asked=asked, before=before, limit=limit)
    return schemas.InvitationPage(items=[invitation(row) for row in rows], next=cursor)


def account(row: User) -> schemas.Account:
    """Return the shape of a user, for admins."""
    same = {name: getattr(row, name) for name in ("name", "display_name", "created_at")}
    return schemas.Account(admin=row.is_admin, program=row.is_program, active=row.is_active, **same)


def account_page(session: Session, search: str | None, after: str | None, limit: int) -> schemas.AccountPage:
    """Return a page of users, by name."""
    rows, cursor = accounts.listing(session, search, after, limit)
    return schemas.AccountPage(items=[account(row) for row in rows], next=cursor)


def profile(session: Session, actor: Actor | None, name: str) -> schemas.Profile:
    """Return a user, with the newest of their patches that the caller may see.

    Raises:
        NotFound: No such user exists.
    """
    return profile_of(session, actor, namespaces.find_user(session, name))


def profile_of(session: Session, actor: Actor | None, user: User) -> schemas.Profile:
    """Return what `profile` does, of a user whose row is at hand."""
    rows = contributions.by_author(session, actor, user.id, SHOWN)
    return schemas.Profile(
        name=user.name,
        display_name=user.display_name,
        program=user.is_program,
        created_at=user.created_at,
        patches=[
            schemas.Contribution(
                model=row.patch.model.full_name,
                number=row.patch.number,
                title=row.title,
                state=row.patch.state,
                created_at=row.patch.created_at,
            )
            for row in rows
        ],
    )
