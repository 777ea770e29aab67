"""Sign-ins of browsers: a cookie that can do what the token it was made from can, and ends with it."""

import secrets
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session, joinedload

from registry.db.tables import SignIn, Token, now
from registry.errors import Unauthenticated
from registry.services.people import actors
from registry.services.people.actors import Actor, hash_token, record

LIFETIME = timedelta(days=14)


def start(session: Session, token: str, request_id: str | None = None) -> str:
    """Return the secret of a new sign-in with a token; only its hash is stored, as for the token itself.

    Raises:
        Unauthenticated: The token is unknown, expired or revoked, or its user is disabled.
    """
    actor = actors.authenticate(session, token, request_id)
    ends = [now() + LIFETIME, actor.token.expires_at]
    secret = secrets.token_urlsafe(32)
    session.execute(delete(SignIn).where(SignIn.expires_at <= now()))
    session.add(
        SignIn(
            token_id=actor.token.id,
            secret_hash=hash_token(secret),
            expires_at=min(end for end in ends if end is not None),
        )
    )
    session.flush()
    record(session, actor, "sign_in.start", actor.name, after={"prefix": actor.token.prefix})
    return secret


def find(session: Session, secret: str, request_id: str | None = None) -> Actor:
    """Return the actor of a sign-in.

    Raises:
        Unauthenticated: The secret is unknown, or the sign-in or its token has ended.
    """
    token = session.scalar(
        select(Token)
        .join(SignIn, SignIn.token_id == Token.id)
        .where(SignIn.secret_hash == hash_token(secret), SignIn.expires_at > now())
        .options(joinedload(Token.user))
    )
    if token is None:
        raise Unauthenticated("You are not signed in, or your sign-in has ended; sign in again.")
    return actors.speaker(token, request_id)


def end(session: Session, actor: Actor, secret: str) -> None:
    """End a sign-in at once. Does nothing if it has ended."""
    session.execute(delete(SignIn).where(SignIn.secret_hash == hash_token(secret)))
    record(session, actor, "sign_in.end", actor.name, after={"prefix": actor.token.prefix})
