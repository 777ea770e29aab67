"""Views of sign-ins: sessions of browsers, linked accounts, programs that wait to be let in."""

from sqlalchemy.orm import Session

from registry import schemas
from registry.db.tables import DeviceLogin, Identity, SignIn
from registry.services.people import sign_ins
from registry.services.people.actors import Actor, hash_token
from registry.services.people.joining import devices, identities


def browser_session(row: SignIn, current: str | None) -> schemas.BrowserSession:
    """Return the shape of a sign-in; `current` is the hash of the cookie that the request came with."""
    token = row.token
    return schemas.BrowserSession(
        id=str(row.id),
        agent=row.agent,
        by=token.label if token.kind == "session" else f"token {token.label or token.prefix}",
        current=row.secret_hash == current,
        created_at=row.created_at,
        last_used_at=token.last_used_at,
        expires_at=row.expires_at,
    )


def linked_account(row: Identity) -> schemas.LinkedAccount:
    """Return the shape of an account at a provider."""
    same = ("issuer", "name", "joined", "created_at", "used_at")
    return schemas.LinkedAccount(id=str(row.id), **{name: getattr(row, name) for name in same})


def sessions(session: Session, actor: Actor, cookie: str | None = None) -> schemas.Sessions:
    """Return where the caller is signed in, and by which accounts they may sign in.

    Args:
        session: A transaction.
        actor: The caller.
        cookie: The secret of the browser that asks, if it is one.
    """
    current = hash_token(cookie) if cookie else None
    return schemas.Sessions(
        sessions=[browser_session(row, current) for row in sign_ins.listing(session, actor)],
        accounts=[linked_account(row) for row in identities.listing(session, actor)],
    )


def device(row: DeviceLogin) -> schemas.Device:
    """Return the shape of a program that waits, or about which somebody decided."""
    return schemas.Device.model_validate({name: getattr(row, name) for name in ("label", "state", "created_at")})


def look_at_device(session: Session, code: str) -> schemas.Device:
    """Return the program that waits with a code.

    Raises:
        NotFound: None does.
    """
    return device(devices.look(session, code))
