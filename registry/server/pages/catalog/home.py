"""The page that lists models, and finds them."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from registry.server.api import models
from registry.server.edge.deps import ContextDep, VisitorDep, allow
from registry.server.pages.frame import render
from registry.server.pages.frame.route import PageRoute

router = APIRouter(route_class=PageRoute, include_in_schema=False)
Words = Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")]
PAGE = 30


@router.get("/")
@allow("server.read")
def home(request: Request, actor: VisitorDep, ctx: ContextDep, q: Words = "", after: Words = "") -> Response:
    """Show models, by name."""
    page = models.listing(actor, ctx, search=q[:100] or None, after=after or None, limit=PAGE)
    following = f"/{render.query(q=q, after=page.next)}" if page.next else None
    return render.page(request, "home.html", page=page, q=q, after=after, next=following)
