"""Actors: the user and token behind a request, and the audit record of what they did."""

import hashlib
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session, joinedload

from registry.db.audit import append_later
from registry.db.tables import AuditEvent, Model, Token, User, now
from registry.errors import Forbidden, Unauthenticated

USE_RECORDED_EVERY = timedelta(minutes=1)
BY_HASH = select(Token).where(Token.token_hash == bindparam("hash")).options(joinedload(Token.user))


@dataclass(frozen=True)
class Actor:
    """The user that a valid token belongs to, and the request that it came with."""

    user_id: uuid.UUID
    name: str
    admin: bool
    scopes: frozenset[str]
    token: Token
    request_id: str | None = None

    def require(self, scope: str) -> None:
        """Refuse an action whose scope the token does not have.

        Raises:
            Forbidden: The token does not have the scope.
        """
        if scope not in self.scopes:
            raise Forbidden(f"This token is missing the scope '{scope}'; use one that has it.")


def hash_token(secret: str) -> str:
    """Return what is stored of a token: its sha256, since a random secret needs no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


def authenticate(session: Session, secret: str, request_id: str | None = None) -> Actor:
    """Return the actor of a token.

    Raises:
        Unauthenticated: The token is unknown, expired or revoked, or its user is disabled.
    """
    return speaker(session.scalar(BY_HASH, {"hash": hash_token(secret)}), request_id)


def speaker(token: Token | None, request_id: str | None) -> Actor:
    """Return the actor of a token, given its row with its user.

    Raises:
        Unauthenticated: The token is None, expired or revoked, or its user is disabled.
    """
    if token is None or token.revoked_at is not None:
        raise Unauthenticated("The registry does not know this token; log in again with `crumb login`.")
    if token.expires_at is not None and token.expires_at <= now():
        raise Unauthenticated("This token has expired; ask for a new one and log in with `crumb login`.")
    if not token.user.is_active:
        raise Unauthenticated("This account is disabled; ask the operator of the registry.")
    if token.user.vouched_until is not None and token.user.vouched_until <= now():
        raise Unauthenticated(
            "Sign in again by the account that you came with, on the sign-in page of this registry; this token then "
            "works again."
        )
    scopes = frozenset(token.scopes)
    admin = token.user.is_admin and "admin" in scopes and token.model_id is None
    return Actor(token.user_id, token.user.name, admin, scopes, token, request_id)


def reader(user: User) -> Actor:
    """Return an actor that sees what a user may see, for what is sent to them while they are not here."""
    scopes = ["read"]
    return Actor(user.id, user.name, user.is_admin, frozenset(scopes), Token(user_id=user.id, scopes=scopes))


def use_is_stale(actor: Actor) -> bool:
    """Say whether the token's last use should be written again."""
    return actor.token.last_used_at is None or abs(now() - actor.token.last_used_at) > USE_RECORDED_EVERY


def record_use(session: Session, actor: Actor) -> None:
    """Record that the token is in use."""
    token = session.get(Token, actor.token.id)
    if token is not None:
        token.last_used_at = now()


def record(
    session: Session,
    actor: Actor | None,
    action: str,
    subject: str,
    model: Model | None = None,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    request_id: str | None = None,
) -> None:
    """Add an audit event to the transaction that makes the change: one for each call that changes something.

    Args:
        session: A writing transaction.
        actor: The caller; None for the operator and for workers.
        action: `noun.verb`.
        subject: What it was done to, as people write it.
        model: The model that it is about, if any.
        before: The fields that changed, as they were.
        after: The fields that changed, as they are now, or what the caller sent.
        request_id: The request, if it came from somebody who is not signed in.
    """
    event = AuditEvent(
        user_id=actor.user_id if actor else None,
        user_name=actor.name if actor else None,
        token_prefix=actor.token.prefix if actor else None,
        action=action,
        subject=subject[:300],
        model_id=model.id if model else None,
        before=before,
        after=after,
        request_id=actor.request_id if actor else request_id,
    )
    append_later(session, event)
