"""The cookie: a secret that identifies a browser, and the CSRF token that is derived from it.

A visitor who has not signed in gets one, too, with the first form that they are shown. Signing in replaces it, so a
secret that somebody else has planted is worth nothing. Signing in by a provider has one of its own for some minutes.
Where people reach the registry by https, their names begin with `__Host-`: browsers then take them from this host
alone, so that a site at another name of the domain cannot plant one.
"""

import hmac
import secrets
from hashlib import sha256

from fastapi import Request, Response

from registry.errors import Forbidden, Unauthenticated
from registry.outside.person import Person
from registry.server.edge.context import get_context
from registry.services.people import sign_ins

COOKIE = "crumb_session"


def csrf_of(secret: str) -> str:
    """Return the CSRF token of a browser, which only pages sent to it hold."""
    return hmac.new(secret.encode(), b"csrf", sha256).hexdigest()


def cookie(request: Request, name: str = COOKIE) -> str:
    """Return the secret in a cookie of ours, or an empty string."""
    return request.cookies.get(full_name(request, name), "")


def full_name(request: Request, name: str) -> str:
    """Return the whole name of a cookie of ours."""
    return f"__Host-{name}" if is_encrypted(request) else name


def is_encrypted(request: Request) -> bool:
    """Say whether people reach this registry by https, as far as the request or its settings tell."""
    return request.url.scheme == "https" or get_context(request).settings.public_url.startswith("https:")


def csrf(request: Request) -> str:
    """Return the CSRF token for the forms of a page; a browser without a cookie gets one with the answer."""
    secret = cookie(request)
    if not secret:
        if not hasattr(request.state, "guest"):
            request.state.guest = secrets.token_urlsafe(32)
        secret = request.state.guest
    return csrf_of(secret)


def sign_in(request: Request, response: Response, token: str) -> None:
    """Sign the browser that gets an answer in with a token.

    Raises:
        Unauthenticated: The token is unknown, expired or revoked, or its user is disabled.
    """
    agent = request.headers.get("user-agent", "")
    with get_context(request).database.write() as session:
        secret = sign_ins.start(session, token, request.state.request_id, agent)
    set_cookie(request, response, secret)


def sign_in_by_provider(request: Request, response: Response, person: Person) -> None:
    """Sign the browser that gets an answer in as somebody whom the provider knows.

    Raises:
        Forbidden: They have no account here, and get none by that, or it is disabled.
    """
    ctx, agent = get_context(request), request.headers.get("user-agent", "")
    try:
        secret = ctx.providers.sign_in(ctx.database, person, request.state.request_id, agent)
    except Unauthenticated as why:
        raise Forbidden(why.message) from why
    set_cookie(request, response, secret)


def set_cookie(
    request: Request,
    response: Response,
    secret: str | None,
    name: str = COOKIE,
    lifetime: int = int(sign_ins.LIFETIME.total_seconds()),
) -> None:
    """Set the cookie of a browser, or delete it if the secret is None.

    Args:
        request: The request.
        response: Its answer.
        secret: The value.
        name: The name of the cookie.
        lifetime: Seconds for which the browser keeps it.
    """
    secure, name = is_encrypted(request), full_name(request, name)
    if secret is None:
        response.delete_cookie(name, secure=secure, httponly=True, samesite="lax")
    else:
        response.set_cookie(name, secret, max_age=lifetime, secure=secure, httponly=True, samesite="lax")
