"""Sign-ins of browsers: a cookie that can do what the token it was made from can, and ends with it.

Whoever signs in by a provider has no token to enter: such a browser gets one of its own, which nobody knows.
"""

import secrets
import uuid
from datetime import timedelta

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session, joinedload

from registry.db.tables import SignIn, Token, User, now
from registry.errors import NotFound, Unauthenticated
from registry.services.people import actors, tokens
from registry.services.people.actors import Actor, hash_token, record
from registry.services.people.rules import SCOPES

LIFETIME = timedelta(days=14)
AGENT_LENGTH = 200


def start(session: Session, token: str, request_id: str | None = None, agent: str = "") -> str:
    """Return the secret of a new sign-in with a token; only its hash is stored, as for the token itself.

    Raises:
        Unauthenticated: The token is unknown, expired or revoked, or its user is disabled.
    """
    actor = actors.authenticate(session, token, request_id)
    secret = add(session, actor.token, agent)
    record(session, actor, "sign_in.start", actor.name, after={"prefix": actor.token.prefix})
    return secret


def start_without(
    session: Session, user: User, by: str, request_id: str | None = None, agent: str = ""
) -> tuple[str, Actor]:
    """Return the secret of a new sign-in of somebody who showed in another way who they are, and their actor.

    Args:
        session: A writing transaction.
        user: Who.
        by: The way, for the log.
        request_id: The request.
        agent: What the browser says of itself.

    Raises:
        Unauthenticated: The user is disabled.
    """
    _, token = tokens.add(session, user, SCOPES, by, None, latest=now() + LIFETIME, kind="session")
    token.user = user
    actor = actors.speaker(token, request_id)
    secret = add(session, token, agent)
    record(session, actor, "sign_in.start", user.name, after={"prefix": token.prefix, "by": by})
    return secret, actor


def add(session: Session, token: Token, agent: str) -> str:
    """Add a sign-in with a token to the database; return its secret."""
    ends = [now() + LIFETIME, token.expires_at]
    secret = secrets.token_urlsafe(32)
    session.add(
        SignIn(
            token_id=token.id,
            secret_hash=hash_token(secret),
            agent="".join(c for c in agent[:AGENT_LENGTH] if c.isprintable()),
            expires_at=min(end for end in ends if end is not None),
        )
    )
    session.flush()
    return secret


def drop_ended(session: Session) -> None:
    """Delete the sign-ins that ended by their time or with their token, and the tokens that only they had."""
    ended = select(Token.id).where(or_(Token.revoked_at.is_not(None), Token.expires_at <= now()))
    session.execute(delete(SignIn).where(or_(SignIn.expires_at <= now(), SignIn.token_id.in_(ended))))
    tokens.drop_ended(session, "session")


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


def listing(session: Session, actor: Actor) -> list[SignIn]:
    """Return the caller's sign-ins, newest first, each with its token; by a token for one model, those with such."""
    query = (
        select(SignIn)
        .join(Token, Token.id == SignIn.token_id)
        .where(Token.user_id == actor.user_id, Token.revoked_at.is_(None), SignIn.expires_at > now())
        .options(joinedload(SignIn.token))
        .order_by(SignIn.created_at.desc(), SignIn.id)
    )
    if actor.token.model_id is not None:
        query = query.where(Token.model_id == actor.token.model_id)
    return list(session.scalars(query))


def revoke(session: Session, actor: Actor, sign_in_id: uuid.UUID) -> None:
    """End one of the caller's sign-ins at once, wherever it is.

    Raises:
        NotFound: The caller has no such sign-in.
    """
    mine = Token.user_id == actor.user_id, SignIn.id == sign_in_id
    row = session.scalar(select(SignIn).join(Token).where(*mine).options(joinedload(SignIn.token)))
    if row is None:
        raise NotFound("You have no such session; `crumb session list` shows yours.")
    finish(session, row)
    record(session, actor, "sign_in.end", actor.name, after={"prefix": row.token.prefix})


def end(session: Session, actor: Actor, secret: str) -> None:
    """End a sign-in at once. Does nothing if it has ended."""
    query = select(SignIn).where(SignIn.secret_hash == hash_token(secret)).options(joinedload(SignIn.token))
    if (row := session.scalar(query)) is not None:
        finish(session, row)
    record(session, actor, "sign_in.end", actor.name, after={"prefix": actor.token.prefix})


def finish(session: Session, row: SignIn) -> None:
    """Delete a sign-in, and its token if it has one of its own."""
    session.delete(row)
    session.flush()
    if row.token.kind == "session":
        session.delete(row.token)
        session.flush()
