"""Pages of signing in by a provider: to it, back from it, and linking an account there.

Both ways wait for the provider, so they are async and leave the threads of pages alone.
"""

import hmac
import secrets
from typing import Annotated
from urllib.parse import quote, unquote

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool

from registry.errors import Forbidden, InvalidRequest, Unauthenticated
from registry.server.edge.admission import ActorDep, VisitorDep, allow, count_stranger
from registry.server.edge.context import ContextDep, PublicUrl
from registry.server.pages.frame.answers import answer_page
from registry.server.pages.frame.cookies import cookie, csrf_of, set_cookie, sign_in_by_provider
from registry.server.pages.frame.route import PageRoute, local, redirect

router = APIRouter(route_class=PageRoute, include_in_schema=False)
FLOW, FLOW_SECONDS = "crumb_flow", 600
BACK = "/login/provider/callback"
LONGEST = 2000  # characters of where to go on: browsers drop cookies of more than 4,096
LINK = "link:"  # in the cookie in place of where to go on, which begins with a slash
Text = Annotated[str, Query(max_length=4000)]


@router.get("/login/provider")
@allow("server.read")
async def begin(
    request: Request, ctx: ContextDep, url: PublicUrl, next: Annotated[str, Query(max_length=2000)] = "/"
) -> Response:
    """Send the browser to the provider."""
    secret = secrets.token_urlsafe(32)
    there = await run_in_threadpool(ctx.providers.begin, secret, url + BACK)
    response = RedirectResponse(there, 303)
    after = quote(local(next), safe="/")
    set_cookie(request, response, f"{secret}.{after if len(after) <= LONGEST else '/'}", FLOW, FLOW_SECONDS)
    return response


@router.post("/settings/sessions/link")
@allow("account.manage")
async def link(request: Request, actor: ActorDep, ctx: ContextDep, url: PublicUrl) -> Response:
    """Show the way to the provider, to link an account there; a browser may not be sent there by a form."""
    secret = secrets.token_urlsafe(32)
    there = await run_in_threadpool(ctx.providers.begin, secret, url + BACK)
    response = answer_page(request, "link.html", there=there, provider=ctx.settings.oidc_title)
    set_cookie(request, response, f"{secret}.{link_of(request)}", FLOW, FLOW_SECONDS)
    return response


def link_of(request: Request) -> str:
    """Return what the cookie of a flow holds to link an account: it is good for the sign-in that began it alone."""
    return LINK + csrf_of(cookie(request))


@router.get(BACK)
@allow("server.read")
async def finish(
    request: Request,
    actor: VisitorDep,
    ctx: ContextDep,
    url: PublicUrl,
    state: Text = "",
    code: Text = "",
    error: Text = "",
    iss: Text = "",
) -> Response:
    """Take the browser back from the provider: sign it in, or link the account."""
    secret, _, after = cookie(request, FLOW).partition(".")
    provider = await run_in_threadpool(lambda: ctx.providers.provider)
    if not secret or not hmac.compare_digest(state.encode(), provider.state(secret).encode()):
        raise InvalidRequest("This sign-in was begun in another browser, or too long ago; begin again.")
    if iss and iss != provider.access.issuer:
        raise Forbidden("Another provider sent you back than the one that you went to; begin again.")
    if error or not code:
        raise Forbidden(f"{ctx.settings.oidc_title} did not sign you in: {error[:200] or 'it sent no code'}.")

    def complete() -> Response:
        count_stranger(request)
        try:
            person = ctx.providers.finish(secret, url + BACK, code)
        except Unauthenticated as why:  # which would lead to the sign-in page, again and again
            raise Forbidden(why.message) from why
        if after.startswith(LINK):
            if actor is None or not hmac.compare_digest(after.encode(), link_of(request).encode()):
                raise Forbidden("You have signed out or in since; link the account again.")
            ctx.providers.link(ctx.database, actor, person)
            return redirect(request, "/settings/sessions")
        response = RedirectResponse(local(unquote(after)), 303)
        sign_in_by_provider(request, response, person)
        return response

    response = await run_in_threadpool(complete)
    set_cookie(request, response, None, FLOW)
    return response
