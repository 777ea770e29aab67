"""The inbox over all models: where something waits for somebody, and how much."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from registry import schemas
from registry.server.api.accounts import news
from registry.server.edge.admission import ActorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.pages.frame import forms, render
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.views import reviews as review_views
from registry.server.views.accounts import news as news_views

router = APIRouter(route_class=PageRoute, include_in_schema=False)
After = Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")]
PAGE = 50


@router.get("/inbox")
@allow("inbox.list")
def inboxes(request: Request, actor: ActorDep, ctx: ContextDep, after: After = "") -> Response:
    """Show the models in which something waits for the visitor."""
    with ctx.database.read() as session:
        page = review_views.waiting_models(session, actor, after or None, PAGE)
        shown = news_views.show(session, actor)
    return render.page(
        request,
        "inboxes.html",
        page=page,
        news=shown,
        after=after,
        next=render.next_page("/inbox", page.next, "after"),
    )


@router.post("/inbox/seen")
@allow("news.see")
def see(request: Request, actor: ActorDep, ctx: ContextDep) -> Response:
    """Mark as read what was new on the page."""
    news.see_news(forms.read(schemas.NewsSeen, request), actor, ctx)
    return redirect(request, "/inbox")
