"""The page that lists and finds models."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from registry.server.edge.admission import VisitorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.pages.frame import render
from registry.server.pages.frame.route import PageRoute
from registry.server.views import models as model_views

router = APIRouter(route_class=PageRoute, include_in_schema=False)
Words = Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")]
PAGE = 30


@router.get("/")
@allow("server.read")
def home(request: Request, actor: VisitorDep, ctx: ContextDep, q: Words = "", after: Words = "") -> Response:
    """Show models, by name."""
    with ctx.database.read() as session:
        page = model_views.listing(session, actor, search=q[:100] or None, author=None, after=after or None, limit=PAGE)
    following = render.next_page("/", page.next, "after", q=q)
    return render.page(request, "home.html", page=page, q=q, after=after, next=following)
