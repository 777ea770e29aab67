"""The one way into every page: a cookie in place of a token, a CSRF token in every form, errors as pages.

    GET   cookie ─ admitted ─ page                         nobody signed in, and one must be: on to /login
    POST  cookie ─ admitted ─ form, bounded ─ CSRF token ─ one call of the API ─ 303 to where the result is

A form that htmx sends stays as it was filled in when it is refused: the sentence is put into the form's own place for
it. Without scripts, the same form is an ordinary one, and the refusal a page.
"""

import hmac
import re
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, ClassVar
from urllib.parse import parse_qs, quote, urlsplit

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session
from starlette.convertors import StringConvertor, register_url_convertor

from registry.errors import BreadcrumbError, Forbidden, InvalidRequest, TooMany, Unauthenticated
from registry.server.edge.deps import Route, context, read_bytes
from registry.server.errors import STATUS
from registry.server.pages.frame import render
from registry.server.pages.frame.cookies import COOKIE, csrf_of, set_cookie
from registry.services.people import sign_ins
from registry.services.people.actors import Actor
from registry.services.people.names import RESERVED

FORM = "application/x-www-form-urlencoded"
FIELDS = 4000  # of a form: as many patches as a recipe may have, and some more
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class SpaceConvertor(StringConvertor):
    """A path parameter that may be a namespace: no reserved word, so that the rest of the server stays in reach."""

    regex = rf"(?!(?:{'|'.join(re.escape(word) for word in sorted(RESERVED))})(?:/|$))[a-z0-9][a-z0-9._-]*"


register_url_convertor("space", SpaceConvertor())


class PageRoute(Route):
    """A route that is a page, or takes a form of one."""

    lenient: ClassVar[bool] = True  # a cookie that has ended is none

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the handler."""
        handle = super().get_route_handler()

        async def drawn(request: Request) -> Response:
            try:
                response = await handle(request)
            except Unauthenticated as why:
                response = to_sign_in(request, why)
            except BreadcrumbError as why:
                response = refusal(request, STATUS[type(why)], why.message)
                if isinstance(why, TooMany):
                    response.headers["Retry-After"] = str(why.retry_after)
            except RequestValidationError as why:
                first = why.errors()[0]
                response = refusal(request, 422, f"{first['loc'][-1]}: {first['msg']}.")
            except OperationalError:
                response = refusal(request, 503, "The database does not answer; try again in a moment.")
            except IntegrityError:
                response = refusal(request, 409, "Somebody else did the same at this very moment; look, and try again.")
            return guarded(request, response)

        return drawn

    def authenticate(self, session: Session, request: Request) -> Actor | None:
        """Return who has signed in in this browser, if anybody."""
        secret = request.cookies.get(COOKIE)
        return sign_ins.find(session, secret, request.state.request_id) if secret else None

    async def read(self, request: Request) -> bool:
        """Read the form that was posted, and check that it came from one of our pages."""
        if request.method != "POST":
            return False
        request.state.form = await read_form(request)
        return True


async def read_form(request: Request) -> dict[str, list[str]]:
    """Return the fields of a form that one of our own pages sent.

    Raises:
        InvalidRequest: it is no form, or not UTF-8, or has too many fields.
        TooLarge: its body is larger than any JSON may be.
        Forbidden: it did not come from a page that this browser was shown.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise InvalidRequest("A form is sent as application/x-www-form-urlencoded.", field="body")
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Forbidden("This form came from another site; open the page here, and send it again.")
    raw = await read_bytes(request, context(request).settings.json_bytes)
    try:
        fields = parse_qs(
            raw.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(raw),
            errors="strict",
            max_num_fields=FIELDS,
        )
    except ValueError:
        raise InvalidRequest("This is no form that a browser sends.", field="body") from None
    given, secret = fields.pop("csrf", [""])[-1], request.cookies.get(COOKIE, "")
    if not secret or not hmac.compare_digest(given.encode(), csrf_of(secret).encode()):
        raise Forbidden("This form has gone stale, as when somebody signed out; open the page again, and send it anew.")
    return fields


def to_sign_in(request: Request, why: Unauthenticated) -> Response:
    """Lead somebody who has to sign in to where they can, and from there back."""
    if request.method == "GET":
        here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return redirect(request, f"/login?next={quote(here, safe='/')}")
    return refusal(request, 401, f"{why.message.partition(';')[0]}; sign in on another tab, and send this again.")


def refusal(request: Request, status: int, sentence: str) -> Response:
    """Return an error as a page, or as a sentence for the form that htmx has sent."""
    if "hx-request" in request.headers:
        return render.page(request, "refusal.html", status, sentence=sentence)
    return render.page(request, "error.html", status, sentence=sentence, title=HTTPStatus(status).phrase)


def redirect(request: Request, path: str) -> Response:
    """Lead the browser to another page of ours."""
    if "hx-request" in request.headers:
        return Response(status_code=200, headers={"HX-Redirect": path})
    return RedirectResponse(path, 303)


def local(path: str) -> str:
    """Return a path that a stranger's link may lead to after signing in: one of ours, else home."""
    parts = urlsplit(path)
    ours = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if ours and not parts.scheme and not parts.netloc else "/"


def guarded(request: Request, response: Response) -> Response:
    """Add what every page says to browsers: what it may load, and that it is nobody else's."""
    response.headers.setdefault("Content-Security-Policy", POLICY)
    response.headers.setdefault("Cache-Control", "private, no-store")
    response.headers["Vary"] = "Cookie, HX-Request"
    if hasattr(request.state, "guest"):
        set_cookie(request, response, request.state.guest)
    return response
