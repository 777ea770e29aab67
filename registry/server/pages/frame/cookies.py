"""The one cookie: a secret that identifies a browser, and the CSRF token that is derived from it.

A visitor who has not signed in gets one, too, with the first form that they are shown. Signing in replaces it, so a
secret that somebody else has planted is worth nothing.
"""

import hmac
import secrets
from hashlib import sha256

from fastapi import Request, Response

from registry.server.edge.context import get_context
from registry.services.people import sign_ins

COOKIE = "crumb_session"


def csrf_of(secret: str) -> str:
    """Return the CSRF token of a browser, which only pages sent to it hold."""
    return hmac.new(secret.encode(), b"csrf", sha256).hexdigest()


def csrf(request: Request) -> str:
    """Return the CSRF token for the forms of a page; a browser without a cookie gets one with the answer."""
    secret = request.cookies.get(COOKIE)
    if not secret:
        if not hasattr(request.state, "guest"):
            request.state.guest = secrets.token_urlsafe(32)
        secret = request.state.guest
    return csrf_of(secret)


def set_cookie(request: Request, response: Response, secret: str | None) -> None:
    """Set the cookie of a browser, or delete it if the secret is None."""
    public = get_context(request).settings.public_url
    secure = request.url.scheme == "https" or public.startswith("https:")
    if secret is None:
        response.delete_cookie(COOKIE, secure=secure, httponly=True, samesite="lax")
    else:
        lifetime = int(sign_ins.LIFETIME.total_seconds())
        response.set_cookie(COOKIE, secret, max_age=lifetime, secure=secure, httponly=True, samesite="lax")
