"""Tokens: shown once, stored as hashes, with scopes, an expiry, and optionally one model that they are limited to."""

import secrets
import string
import uuid
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session, joinedload

from registry.db.tables import Model, Token, User, now
from registry.errors import Forbidden, InvalidRequest, NotFound
from registry.services.people.actors import Actor, hash_token, record
from registry.services.people.namespaces import ensure_user
from registry.services.people.rules import SCOPES

PREFIX_LENGTH = 9  # characters of a token that lists and logs show
ALPHABET = string.ascii_letters + string.digits
LONGEST_DAYS = 365.0  # that a token made with another token may last


def create_token(
    session: Session,
    name: str,
    *,
    admin: bool = False,
    expires_days: float | None = None,
    scopes: Collection[str] = SCOPES,
    label: str = "",
) -> tuple[str, Token]:
    """Create a token for a user, and the user if new; the secret is returned once and never stored.

    Args:
        session: A writing transaction.
        name: The user's name.
        admin: Whether to make the user an admin of the server.
        expires_days: Days until the token expires; never when None.
        scopes: What it may be used for.
        label: What it is called in lists.

    Raises:
        InvalidRequest: The name is malformed, reserved or looks like another, a scope is unknown, or the days are not
            positive.
    """
    check_scopes(scopes)
    if expires_days is not None and not 0 < expires_days <= 36500:
        raise InvalidRequest("A token expires after more than 0 and at most 36500 days.", field="expires")
    user = ensure_user(session, name, admin=admin)
    user.vouched_until = None  # the operator vouches for them; the next sign-in by a provider sets its own time
    return issue(session, None, user, scopes, label, expires_days, None)


def create_own(
    session: Session, actor: Actor, scopes: Collection[str], label: str, expires_days: float, model: Model | None
) -> tuple[str, Token]:
    """Create another token for the caller, which cannot do more than the one they use, nor outlast it.

    Raises:
        Forbidden: The token would have a scope that the caller's does not have.
        InvalidRequest: A scope is unknown, or the days are too many.
    """
    check_scopes(scopes)
    if not 0 < expires_days <= LONGEST_DAYS:
        raise InvalidRequest(f"A token lasts more than 0 and at most {LONGEST_DAYS:g} days.", field="expires_days")
    if more := sorted(set(scopes) - actor.scopes):
        raise Forbidden(f"Your token is missing the scope '{more[0]}', so it cannot create a token that has it.")
    return issue(session, actor, session.get_one(User, actor.user_id), scopes, label, expires_days, model)


def latest_end(actor: Actor | None) -> datetime | None:
    """Return when a token that somebody makes ends at the latest: with theirs, unless that is only a browser's."""
    return actor.token.expires_at if actor and actor.token.kind != "session" else None


def issue(
    session: Session,
    actor: Actor | None,
    user: User,
    scopes: Collection[str],
    label: str,
    expires_days: float | None,
    model: Model | None,
) -> tuple[str, Token]:
    """Add a token to the database and the log; return its secret and its row."""
    secret, token = add(session, user, scopes, label, expires_days, model, latest_end(actor))
    record(session, actor, "token.create", user.name, model, after={"prefix": token.prefix, "scopes": token.scopes})
    return secret, token


def add(
    session: Session,
    user: User,
    scopes: Collection[str],
    label: str,
    expires_days: float | None,
    model: Model | None = None,
    latest: datetime | None = None,
    kind: str = "personal",
) -> tuple[str, Token]:
    """Add a token to the database, for whoever has a log entry of their own; return its secret and its row.

    Args:
        session: A writing transaction.
        user: Whose it is.
        scopes: What it may be used for.
        label: What it is called in lists.
        expires_days: Days until it expires; None for never.
        model: The model that it is limited to.
        latest: When it ends at the latest.
        kind: What it is, as in the table.
    """
    ends = [None if expires_days is None else now() + timedelta(days=expires_days), latest]
    secret = "hf_" + "".join(secrets.choice(ALPHABET) for _ in range(40))
    token = Token(
        user_id=user.id,
        kind=kind,
        label=label,
        prefix=secret[:PREFIX_LENGTH],
        token_hash=hash_token(secret),
        scopes=[scope for scope in SCOPES if scope in scopes],
        model_id=model.id if model else None,
        expires_at=min((end for end in ends if end is not None), default=None),
    )
    session.add(token)
    session.flush()
    return secret, token


def drop_ended(session: Session, kind: str) -> None:
    """Delete the tokens of a kind that have expired; of those that people know, none is deleted."""
    session.execute(delete(Token).where(Token.kind == kind, Token.expires_at <= now()))


def check_scopes(scopes: Collection[str]) -> None:
    """Refuse scopes that do not exist.

    Raises:
        InvalidRequest: A scope is unknown, or no scope is given.
    """
    if not scopes:
        raise InvalidRequest(f"A token needs a scope: {', '.join(SCOPES)}.", field="scopes")
    for scope in scopes:
        if scope not in SCOPES:
            raise InvalidRequest(f"'{scope}' is not a scope; the scopes are {', '.join(SCOPES)}.", field="scopes")


def listing(session: Session, actor: Actor) -> list[Token]:
    """Return the caller's tokens that are not revoked, newest first; a token for one model sees only those for it."""
    mine = Token.user_id == actor.user_id, Token.kind == "personal", Token.revoked_at.is_(None)
    query = select(Token).where(*mine)
    if actor.token.model_id is not None:
        query = query.where(Token.model_id == actor.token.model_id)
    return list(session.scalars(query.order_by(Token.created_at.desc(), Token.id)))


def model_names(session: Session, tokens: Sequence[Token]) -> dict[uuid.UUID, str]:
    """Return the names of the models that tokens are limited to, by the models' ids."""
    keys = {token.model_id for token in tokens if token.model_id is not None}
    query = select(Model.id, Model.namespace, Model.name).where(Model.id.in_(keys))
    return {key: f"{namespace}/{name}" for key, namespace, name in session.execute(query)}


def revoke_own(session: Session, actor: Actor, token_id: uuid.UUID) -> None:
    """Revoke one of the caller's tokens at once. Does nothing if it is already revoked.

    Raises:
        NotFound: The caller has no such token.
    """
    token = session.scalar(select(Token).where(Token.id == token_id, Token.user_id == actor.user_id).with_for_update())
    if token is None:
        raise NotFound("You have no such token; `crumb token list` shows yours.")
    if token.revoked_at is None:
        token.revoked_at = now()
        record(session, actor, "token.revoke", actor.name, after={"prefix": token.prefix})


def revoke_token(session: Session, prefix: str) -> str:
    """Revoke the one token that starts with a prefix, its first 9 characters; return its user's name.

    Raises:
        InvalidRequest: It is a whole token, no token starts with it, or more than one does.
    """
    if len(prefix) > PREFIX_LENGTH:
        raise InvalidRequest(
            f"Give only the first {PREFIX_LENGTH} characters of the token, {prefix[:PREFIX_LENGTH]}: other users of "
            "this machine can read a whole one in the list of processes.",
            field="prefix",
        )
    tokens = session.scalars(select(Token).where(Token.prefix == prefix).options(joinedload(Token.user))).all()
    if len(tokens) != 1:
        raise InvalidRequest(
            f"{len(tokens) or 'No'} tokens start with {prefix}; give the first {PREFIX_LENGTH} characters, as "
            "`crumb token list` shows them to its user.",
            field="prefix",
        )
    tokens[0].revoked_at = now()
    record(session, None, "token.revoke", tokens[0].user.name, after={"prefix": tokens[0].prefix})
    return tokens[0].user.name
