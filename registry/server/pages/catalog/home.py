"""The first page: what goes on over all models, for whoever comes by; and whole lists of it."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from registry.server.api.feed import Cursor
from registry.server.edge.admission import VisitorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.pages.frame import render
from registry.server.pages.frame.route import PageRoute
from registry.server.views import feed as feed_views
from registry.server.views import models as model_views
from registry.server.views.mirrors import following as following_views

router = APIRouter(route_class=PageRoute, include_in_schema=False)
Words = Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")]
TRENDING, NEWEST, PAGE = 6, 6, 50  # of the first page: models, and releases and patches; rows of a list


@router.get("/")
@allow("server.read")
def home(request: Request, actor: VisitorDep, ctx: ContextDep, q: Words = "") -> Response:
    """Show what is trending, released last, and waiting for a review; a search leads to its page."""
    if q:
        return RedirectResponse(f"/models{render.query(q=q[:100])}", 302)
    with ctx.database.read() as session:
        trending = model_views.listing(session, actor, model_views.Filters(), "downloads", limit=TRENDING)
        released = feed_views.recent_releases(session, actor, None, NEWEST)
        waiting = feed_views.waiting_patches(session, actor, None, NEWEST)
        primary = following_views.primary(session)
    return render.page(request, "home.html", trending=trending, released=released, waiting=waiting, primary=primary)


@router.get("/releases")
@allow("server.read")
def releases(request: Request, actor: VisitorDep, ctx: ContextDep, before: Cursor = None) -> Response:
    """Show the releases of all models, those published last first."""
    with ctx.database.read() as session:
        page = feed_views.recent_releases(session, actor, before, PAGE)
    following = render.next_page("/releases", page.next)
    return render.page(request, "recent.html", page=page, kind="releases", before=before, next=following)


@router.get("/patches")
@allow("server.read")
def patches(request: Request, actor: VisitorDep, ctx: ContextDep, before: Cursor = None) -> Response:
    """Show the patches of all models that wait for a review or a decision, newest first."""
    with ctx.database.read() as session:
        page = feed_views.waiting_patches(session, actor, before, PAGE)
    following = render.next_page("/patches", page.next)
    return render.page(request, "recent.html", page=page, kind="patches", before=before, next=following)
