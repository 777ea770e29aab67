"""Views of users, organisations, their members, and tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from registry import schemas
from registry.db.tables import ModelMember, Namespace, NamespaceMember, Token
from registry.server.views.accounts import joining as joining_views
from registry.services.blobs import quotas
from registry.services.blobs.quotas import Usage
from registry.services.blobs.uploads import UploadLimits
from registry.services.people import access, namespaces, tokens
from registry.services.people.actors import Actor
from registry.services.people.rules import RULES, Role

INVITATIONS = 50  # that the page of a namespace shows


def whoami(actor: Actor) -> schemas.Whoami:
    """Return the user that a token speaks for."""
    return schemas.Whoami(
        user=actor.name,
        admin=actor.admin,
        scopes=sorted(actor.scopes),
        token=actor.token.prefix,
        expires_at=actor.token.expires_at,
    )


def token(row: Token, model: str | None) -> schemas.Token:
    """Return the shape of a token, without its secret."""
    same = ("label", "prefix", "scopes", "created_at", "expires_at", "last_used_at")
    return schemas.Token(id=str(row.id), model=model, **{name: getattr(row, name) for name in same})


def member(row: NamespaceMember | ModelMember, via: str) -> schemas.Member:
    """Return the role of a member, and the model or namespace that gives it."""
    return schemas.Member(user=row.user.name, role=row.role, via=via)


def namespace(row: Namespace, usage: Usage | None, members: Sequence[NamespaceMember]) -> schemas.Namespace:
    """Return the shape of a namespace, with the usage of its quota where the caller may know it."""
    return schemas.Namespace(
        name=row.name,
        kind="user" if row.kind == "user" else "organisation",
        quota_bytes=usage.quota_bytes if usage else None,
        used_bytes=usage.used_bytes if usage else None,
        reserved_bytes=usage.reserved_bytes if usage else None,
        open_uploads=usage.open_uploads if usage else None,
        members=[member(found, row.name) for found in members],
    )


def token_list(session: Session, actor: Actor) -> list[schemas.Token]:
    """Return the caller's tokens, without their secrets."""
    rows = tokens.listing(session, actor)
    names = tokens.model_names(session, rows)
    return [token(row, names[row.model_id] if row.model_id else None) for row in rows]


def spaces_for_models(session: Session, actor: Actor) -> list[str]:
    """Return the namespaces in which the caller may create models: their own, then organisations by name.

    Those that are mirrored from another registry are left out.
    """
    least = RULES["model.create"].role
    held = (name for name, role in namespaces.of_user(session, actor.user_id) if Role[role.upper()] >= least)
    return access.without_mirrored(session, [actor.name, *held])


def show_namespace(session: Session, actor: Actor, name: str, limits: UploadLimits) -> schemas.Namespace:
    """Return a namespace and its members; for its maintainers, with the usage of its quota."""
    space = namespaces.find(session, name)
    return namespace_for(session, actor, space, access.role_in(session, actor, space), limits)


def namespace_for(
    session: Session, actor: Actor, space: Namespace, role: Role, limits: UploadLimits
) -> schemas.Namespace:
    """Return a namespace as somebody with a role in it may see it."""
    watched = role >= Role.MAINTAINER
    usage = quotas.usage(session, space, limits.quota_bytes, limits.quota_uploads) if watched else None
    return namespace(space, usage, namespaces.members(session, space))


@dataclass(frozen=True)
class NamespaceOverview:
    """A namespace as far as a visitor may see it.

    Args:
        kind: `user` or `organisation`.
        role: The visitor's role in it.
        namespace: Its members, and the usage of its quota; None for somebody who has not signed in.
        organisations: The organisations of a user with their roles, for somebody who has signed in.
        profile: The user, if it is a user's.
        invitations: The newest that nobody used, for its owners.
    """

    kind: str
    role: Role
    namespace: schemas.Namespace | None
    organisations: list[tuple[str, str]]
    profile: schemas.Profile | None
    invitations: list[schemas.Invitation]


def overview(session: Session, actor: Actor | None, name: str, limits: UploadLimits) -> NamespaceOverview:
    """Return a namespace as far as a visitor may see it.

    Raises:
        NotFound: No such user or organisation exists.
    """
    space = namespaces.find(session, name)
    role = access.role_in(session, actor, space)
    user = namespaces.find_user(session, name) if space.kind == "user" else None
    profile = joining_views.profile_of(session, actor, user) if user else None
    if actor is None:
        return NamespaceOverview(space.kind, role, None, [], profile, [])
    shown = namespace_for(session, actor, space, role, limits)
    own = namespaces.of_user(session, user.id) if user else []
    manages = role >= RULES["invitation.manage"].role and "admin" in actor.scopes and actor.token.model_id is None
    invited = joining_views.invitation_page(session, namespace=name, limit=INVITATIONS).items if manages else []
    return NamespaceOverview(space.kind, role, shown, own, profile, invited)
