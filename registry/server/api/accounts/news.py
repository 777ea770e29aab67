"""Routes of news: mentions, and events in models that somebody watches."""

from fastapi import APIRouter

from registry import schemas
from registry.server.edge.admission import ActorDep, Route, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import ModelName
from registry.server.errors import RESPONSES
from registry.server.views.accounts import news as news_views
from registry.services.curation import news

router = APIRouter(prefix="/api/v1", tags=["news"], route_class=Route, responses=RESPONSES)


@router.get("/news")
@allow("inbox.list")
def show_news(actor: ActorDep, ctx: ContextDep) -> schemas.News:
    """Show who mentioned you, and what happened in the models that you watch, since you last looked."""
    with ctx.database.read() as session:
        return news_views.show(session, actor)


@router.post("/news/seen", status_code=204)
@allow("news.see")
def see_news(body: schemas.NewsSeen, actor: ActorDep, ctx: ContextDep) -> None:
    """Mark as read what an answer with news held."""
    with ctx.database.write() as session:
        news.see(session, actor, body.serial, body.at)


@router.put("/models/{namespace}/{name}/watch", status_code=204)
@allow("model.watch")
def watch(name: ModelName, actor: ActorDep, ctx: ContextDep) -> None:
    """Watch a model: what is proposed and released in it becomes news."""
    with ctx.database.write() as session:
        news.watch(session, actor, name, watching=True)


@router.delete("/models/{namespace}/{name}/watch", status_code=204)
@allow("model.watch")
def unwatch(name: ModelName, actor: ActorDep, ctx: ContextDep) -> None:
    """Stop watching a model."""
    with ctx.database.write() as session:
        news.watch(session, actor, name, watching=False)
