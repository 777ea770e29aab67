"""Browsers that a token was pasted into: a cookie of their own, which can do what the token can and ends with it."""

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
    """Return the secret of a new sign-in by a token; it is stored as a hash, like the token itself.

    Raises:
        Unauthenticated: the registry does not know the token.
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
    """Return who has signed in.

    Raises:
        Unauthenticated: nobody has, with this secret, or the sign-in or its token has ended.
    """
    token = session.scalar(
        select(Token)
        .join(SignIn, SignIn.token_id == Token.id)
        .where(SignIn.secret_hash == hash_token(secret), SignIn.expires_at > now())
        .options(joinedload(Token.user))
    )
    if token is None:
        raise Unauthenticated("You are not signed in, or not any more; sign in again.")
    return actors.speaker(token, request_id)


def end(session: Session, actor: Actor, secret: str) -> None:
    """End a sign-in at once; a second time changes nothing."""
    session.execute(delete(SignIn).where(SignIn.secret_hash == hash_token(secret)))
    record(session, actor, "sign_in.end", actor.name, after={"prefix": actor.token.prefix})
