"""Admission to pages: a cookie in place of a token, a CSRF token in every form, errors as pages.

    GET   cookie ─ admitted ─ page                         without a needed sign-in: redirected to /login
    POST  cookie ─ admitted ─ form, bounded ─ CSRF token ─ one call of the API ─ 303 to the result

A form sent by htmx keeps what was filled in when it is refused: the message appears inside the form. Without scripts,
the same form is an ordinary one, and a refusal is a page. A form whose patches have to be compared first leads to a
page that shows how far that is, and sends the same fields again when it is done.
"""

import hmac
import re
import uuid
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

from registry.errors import BreadcrumbError, Forbidden, InvalidRequest, NotCompared, TooMany, Unauthenticated
from registry.server.edge.admission import Route
from registry.server.edge.bodies import parse_body
from registry.server.edge.context import get_context
from registry.server.errors import STATUS
from registry.server.pages.frame import render
from registry.server.pages.frame.answers import answer_page
from registry.server.pages.frame.cookies import cookie, csrf_of, set_cookie
from registry.server.views import jobs as job_views
from registry.services.people import sign_ins
from registry.services.people.actors import Actor
from registry.services.people.names import RESERVED

FORM = "application/x-www-form-urlencoded"
FIELDS = 4000  # most fields of a form: the patches of a draft, and more


class SpaceConvertor(StringConvertor):
    """A path parameter for namespaces: it matches no reserved word, so that other routes stay reachable."""

    regex = rf"(?!(?:{'|'.join(re.escape(word) for word in sorted(RESERVED))})(?:/|$))[a-z0-9][a-z0-9._-]*"


register_url_convertor("space", SpaceConvertor())


class PageRoute(Route):
    """A route of a page or of a form on it."""

    lenient: ClassVar[bool] = True  # an expired cookie counts as none

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler behind admission, with errors as pages."""
        handle = super().get_route_handler()

        async def drawn(request: Request) -> Response:
            try:
                response = await handle(request)
            except Unauthenticated as why:
                response = to_sign_in(request, why)
            except NotCompared as why:
                response = waiting(request, why)
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
                response = refusal(
                    request, 409, "Somebody else changed the same thing at the same moment; look at it, and try again."
                )
            return guarded(request, response)

        return drawn

    def authenticate(self, session: Session, request: Request) -> Actor | None:
        """Return the user who has signed in in this browser, if any."""
        secret = cookie(request)
        return sign_ins.find(session, secret, request.state.request_id) if secret else None

    async def read(self, request: Request) -> bool:
        """Read a posted form, and check that it came from one of our pages."""
        if request.method != "POST":
            return False
        request.state.form = await read_form(request)
        return True


async def read_form(request: Request) -> dict[str, list[str]]:
    """Return the fields of a form that one of our own pages sent.

    Raises:
        InvalidRequest: The body is not a form, is not UTF-8, or has too many fields.
        TooLarge: The body is larger than the limit of JSON bodies.
        Forbidden: The form does not come from a page that this browser was shown.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise InvalidRequest("A form must be sent as application/x-www-form-urlencoded.", field="body")
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Forbidden("This form was sent from another site; open the page here, and send it again.")
    fields = await parse_body(request, parse_form)
    given, secret = fields.pop("csrf", [""])[-1], cookie(request)
    if not secret or not hmac.compare_digest(given.encode(), csrf_of(secret).encode()):
        raise Forbidden(
            "This form is out of date, for instance because you signed out; open the page again, and send it again."
        )
    return fields


def parse_form(raw: bytes) -> dict[str, list[str]]:
    """Return the fields of a form.

    Raises:
        InvalidRequest: The bytes are not a form, are not UTF-8, or have too many fields.
    """
    try:
        return parse_qs(
            raw.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(raw),
            errors="strict",
            max_num_fields=FIELDS,
        )
    except ValueError:
        raise InvalidRequest("The form is malformed; no browser sends it like that.", field="body") from None


def to_sign_in(request: Request, why: Unauthenticated) -> Response:
    """Redirect to the sign-in page, which leads back to this one."""
    if request.method == "GET":
        here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return redirect(request, f"/login?next={quote(here, safe='/')}")
    return refusal(request, 401, f"{why.message.partition(';')[0]}; sign in in another tab, and send this again.")


def refusal(request: Request, status: int, sentence: str) -> Response:
    """Return an error as a page, or for htmx as a message inside the form."""
    if "hx-request" in request.headers:
        return render.page(request, "refusal.html", status, sentence=sentence)
    return render.page(request, "error.html", status, sentence=sentence, title=HTTPStatus(status).phrase)


def waiting(request: Request, why: NotCompared) -> Response:
    """Return the page that waits for the job of an error, and then sends the form again.

    A form that waited once is refused if its patches are still not compared, or it could go in a circle.
    """
    if why.job is None:
        return refusal(request, STATUS[type(why)], why.message)
    fields = {name: values for name, values in request.state.form.items() if name != "compared"}
    waited = request.state.form.get("compared", [why.job])[-1]
    if waited != why.job:
        sentence = "These patches are still not compared: that failed, or was cancelled. Try again, or give a decimal."
        return refusal(request, STATUS[type(why)], sentence)
    with get_context(request).database.read() as session:
        job = job_views.show(session, request.state.actor, uuid.UUID(why.job))
    return answer_page(request, "comparing.html", job=job, fields=fields)


def redirect(request: Request, path: str) -> Response:
    """Redirect the browser to another of our pages."""
    if "hx-request" in request.headers:
        return Response(status_code=200, headers={"HX-Redirect": path})
    return RedirectResponse(path, 303)


def local(path: str) -> str:
    """Return a path that a link may lead to after signing in: itself if it is one of ours, else home."""
    parts = urlsplit(path)
    ours = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if ours and not parts.scheme and not parts.netloc else "/"


def guarded(request: Request, response: Response) -> Response:
    """Add the headers of a page: shared caches must not store it."""
    response.headers.setdefault("Cache-Control", "private, no-store")
    response.headers["Vary"] = "Cookie, HX-Request"
    if hasattr(request.state, "guest"):
        set_cookie(request, response, request.state.guest)
    return response
