"""Who is asking: users, tokens, and what a token allows."""

import hashlib
import re
import secrets
import string
import uuid
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from registry.db.models import AuditEvent, Token, User, now
from registry.errors import Forbidden, InvalidRequest, Unauthenticated

SCOPES = ("read", "push", "admin")
NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,94}[a-z0-9])?")
RESERVED = frozenset(
    re.split(
        r"\s+",
        """admin api about base blog datasets docs endpoints favicon.ico healthz help home join login logout main
        metrics models new notifications openapi.json organizations patches pricing recipes registry releases root
        search settings spaces static status system tokens users""",
    )
)
ALPHABET = string.ascii_letters + string.digits
USE_RECORDED_EVERY = timedelta(minutes=1)


@dataclass(frozen=True)
class Actor:
    """The user a valid token speaks for."""

    user_id: uuid.UUID
    name: str
    admin: bool
    scopes: frozenset[str]
    token: Token

    def require(self, scope: str) -> None:
        """Refuse when the token lacks a scope.

        Raises:
            Forbidden: it does.
        """
        if scope not in self.scopes and not self.admin:
            raise Forbidden(f"This token lacks the scope '{scope}'; ask for a token that has it.")


def check_name(name: str, field: str, *, reserved: bool = True) -> None:
    """Refuse a user or model name that is malformed or, if asked, reserved.

    Raises:
        InvalidRequest: it is.
    """
    if not NAME.fullmatch(name) or "--" in name or ".." in name or name.endswith(".git"):
        raise InvalidRequest(
            f"'{name}' is no name: use 1 to 96 of a-z 0-9 . _ -, starting and ending with a letter or digit.",
            field=field,
        )
    if reserved and name in RESERVED:
        raise InvalidRequest(f"The name '{name}' is reserved; choose another.", field=field)


def create_token(
    session: Session, name: str, *, admin: bool = False, expires_days: float | None = None
) -> tuple[str, Token]:
    """Make a token for a user, creating the user when new; the secret is returned once and never stored.

    Args:
        session: A writing transaction.
        name: The user's name.
        admin: Whether the token carries the scope `admin`; also makes the user an admin.
        expires_days: Days until the token expires; never when None.

    Raises:
        InvalidRequest: the name is malformed or reserved, or the days are not positive.
    """
    check_name(name, "user", reserved=not admin)
    if expires_days is not None and not 0 < expires_days <= 36500:
        raise InvalidRequest("A token expires after more than 0 and at most 36500 days.", field="expires")
    user = session.scalar(select(User).where(User.name == name).with_for_update())
    if user is None:
        user = User(name=name)
        session.add(user)
    user.is_admin = user.is_admin or admin
    session.flush()
    secret = "hf_" + "".join(secrets.choice(ALPHABET) for _ in range(40))
    token = Token(
        user_id=user.id,
        prefix=secret[:9],
        token_hash=hash_token(secret),
        scopes=[scope for scope in SCOPES if scope != "admin" or admin],
        expires_at=None if expires_days is None else now() + timedelta(days=expires_days),
    )
    session.add(token)
    session.flush()
    record(session, None, "token.create", name, prefix=token.prefix, scopes=token.scopes)
    return secret, token


def revoke_token(session: Session, prefix: str) -> str:
    """Revoke the one token that starts with a prefix of 9 or more letters; return its user's name.

    Raises:
        InvalidRequest: none does, or more than one.
    """
    found = session.scalars(select(Token).where(Token.prefix == prefix[:9]).options(joinedload(Token.user))).all()
    if len(prefix) > 9:
        found = [token for token in found if token.token_hash == hash_token(prefix)]
    if len(found) != 1:
        raise InvalidRequest(f"{len(found) or 'No'} tokens start like that; give the whole token.", field="prefix")
    found[0].revoked_at = now()
    record(session, None, "token.revoke", found[0].user.name, prefix=found[0].prefix)
    return found[0].user.name


def hash_token(secret: str) -> str:
    """Return what is stored of a token: random secrets need no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


def authenticate(session: Session, secret: str) -> Actor:
    """Return who a token speaks for.

    Raises:
        Unauthenticated: it is unknown, expired or revoked.
    """
    token = session.scalar(select(Token).where(Token.token_hash == hash_token(secret)).options(joinedload(Token.user)))
    if token is None or token.revoked_at is not None:
        raise Unauthenticated("The registry does not know this token; log in again with `crumb login`.")
    if token.expires_at is not None and token.expires_at <= now():
        raise Unauthenticated("This token has expired; ask for a new one and log in with `crumb login`.")
    scopes = frozenset(token.scopes)
    return Actor(token.user_id, token.user.name, token.user.is_admin and "admin" in scopes, scopes, token)


def use_is_stale(actor: Actor) -> bool:
    """Say whether the token's last use should be written again."""
    return actor.token.last_used_at is None or now() - actor.token.last_used_at > USE_RECORDED_EVERY


def record_use(session: Session, actor: Actor) -> None:
    """Write down that the token is in use."""
    token = session.get(Token, actor.token.id)
    if token is not None:
        token.last_used_at = now()


def record(session: Session, actor: Actor | None, action: str, subject: str, **detail: object) -> None:
    """Append an audit event to the transaction that does the thing; `actor` is None for the operator."""
    session.add(
        AuditEvent(
            user_id=actor.user_id if actor else None,
            user_name=actor.name if actor else None,
            action=action,
            subject=subject,
            detail=detail,
        )
    )
