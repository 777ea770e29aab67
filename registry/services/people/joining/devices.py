"""Logins of programs by a code: a program shows a code, somebody who is signed in lets it in, it gets a token.

    program ── start: device code, user code ──> waits, asking again and again
    person ──── opens the page with the user code, looks, approves ──> the program's next question gets a token

After RFC 8628, with problem details in place of OAuth's errors. Both codes are stored as hashes.
"""

import secrets
from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session, joinedload

from registry.db.tables import DeviceLogin, User, now
from registry.errors import NotFound, TooMany, WrongState
from registry.services.people import actors, tokens
from registry.services.people.actors import Actor, hash_token, record

LIFETIME = timedelta(minutes=10)
INTERVAL = 5  # seconds between two questions
LETTERS = "BCDFGHJKLMNPQRSTVWXZ"  # no vowels, so no words
CODE_LENGTH = 8
MOST_WAITING = 1000
TOKEN_DAYS = 90


def start(session: Session, label: str) -> tuple[str, str]:
    """Return the device code of a program, which it keeps, and the code that it shows to a person.

    Raises:
        TooMany: Too many programs wait already.
    """
    drop_expired(session)
    waiting = session.scalar(select(func.count()).select_from(DeviceLogin))
    if (waiting or 0) >= MOST_WAITING:
        raise TooMany("Too many programs wait to be let in; try again in a few minutes.", retry_after=60)
    device, code = secrets.token_urlsafe(32), "".join(secrets.choice(LETTERS) for _ in range(CODE_LENGTH))
    session.add(
        DeviceLogin(
            device_hash=hash_token(device), code_hash=hash_token(code), label=label, expires_at=now() + LIFETIME
        )
    )
    return device, f"{code[:4]}-{code[4:]}"


def drop_expired(session: Session) -> None:
    """Delete the logins for which nobody let a program in in time."""
    session.execute(delete(DeviceLogin).where(DeviceLogin.expires_at <= now()))


def look(session: Session, code: str, *, lock: bool = False) -> DeviceLogin:
    """Return the login of a program that waits.

    Raises:
        NotFound: No program waits with this code.
    """
    plain = code.replace("-", "").replace(" ", "").upper()
    query = select(DeviceLogin).where(
        DeviceLogin.code_hash == hash_token(plain), DeviceLogin.state == "waiting", DeviceLogin.expires_at > now()
    )
    row = session.scalar(query.with_for_update() if lock else query)
    if row is None:
        raise NotFound("No program waits with this code; codes are good once, for ten minutes.")
    return row


def decide(session: Session, actor: Actor, code: str, approve: bool) -> DeviceLogin:
    """Let a program in with what the caller may do, or turn it away.

    Raises:
        NotFound: No program waits with this code.
    """
    row = look(session, code, lock=True)
    row.state = "approved" if approve else "denied"
    if approve:
        latest = tokens.latest_end(actor)
        ends = now() + timedelta(days=TOKEN_DAYS)
        row.user_id, row.scopes = actor.user_id, sorted(actor.scopes)
        row.token_ends = ends if latest is None else min(ends, latest)
    session.flush()
    about = {"program": row.label, "device": str(row.id)}
    if approve:
        record(session, actor, "device.approve", actor.name, after=about)
    else:
        record(session, actor, "device.deny", actor.name, after=about)
    return row


def waits(session: Session, device: str) -> bool:
    """Say whether nobody has decided about a program yet.

    Raises:
        NotFound: The code is unknown, used or out of date.
    """
    query = select(DeviceLogin.state).where(DeviceLogin.device_hash == hash_token(device))
    state = session.scalar(query.where(DeviceLogin.expires_at > now()))
    if state is None:
        raise _over()
    return state == "waiting"


def _over() -> NotFound:
    return NotFound("This login is used or out of date; run `crumb login` again.")


def collect(session: Session, device: str, request_id: str) -> tuple[str, Actor] | None:
    """Return the token of a program that somebody let in, once, and its actor; None as long as it waits.

    Raises:
        NotFound: The code is unknown, used or out of date.
        WrongState: The program was turned away.
        Unauthenticated: The user is disabled by now.
    """
    query = select(DeviceLogin).where(DeviceLogin.device_hash == hash_token(device)).with_for_update(of=DeviceLogin)
    row = session.scalar(query.options(joinedload(DeviceLogin.user)))
    if row is None or row.expires_at <= now():
        raise _over()
    if row.state == "waiting":
        return None
    if row.state == "denied" or row.user_id is None:
        raise WrongState("This login was turned away on the page that asks for the code.")
    user = session.get_one(User, row.user_id)
    secret, token = tokens.add(session, user, row.scopes or (), row.label, None, latest=row.token_ends)
    token.user = user
    actor = actors.speaker(token, request_id)
    session.delete(row)
    session.flush()
    record(session, actor, "token.create", user.name, after={"prefix": token.prefix, "scopes": token.scopes})
    return secret, actor
