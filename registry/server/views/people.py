"""From rows to the shapes on the wire: users, organisations, tokens."""

from collections.abc import Sequence

from registry import schemas
from registry.db.tables import ModelMember, Namespace, NamespaceMember, Token
from registry.services.blobs.quotas import Usage
from registry.services.people.actors import Actor


def whoami(actor: Actor) -> schemas.Whoami:
    """Show who a token speaks for."""
    return schemas.Whoami(
        user=actor.name,
        admin=actor.admin,
        scopes=sorted(actor.scopes),
        token=actor.token.prefix,
        expires_at=actor.token.expires_at,
    )


def token(row: Token, model: str | None) -> schemas.Token:
    """Show a token, without its secret."""
    same = ("label", "prefix", "scopes", "created_at", "expires_at", "last_used_at")
    return schemas.Token(id=str(row.id), model=model, **{name: getattr(row, name) for name in same})


def member(row: NamespaceMember | ModelMember, via: str) -> schemas.Member:
    """Show who is what."""
    return schemas.Member(user=row.user.name, role=row.role, via=via)


def namespace(row: Namespace, usage: Usage | None, members: Sequence[NamespaceMember]) -> schemas.Namespace:
    """Show a namespace, and how much of its quota is used, where that may be known."""
    return schemas.Namespace(
        name=row.name,
        kind="user" if row.kind == "user" else "organisation",
        quota_bytes=usage.quota_bytes if usage else None,
        used_bytes=usage.used_bytes if usage else None,
        reserved_bytes=usage.reserved_bytes if usage else None,
        open_uploads=usage.open_uploads if usage else None,
        members=[member(found, row.name) for found in members],
    )
