"""The page of a model."""

from contextlib import suppress

from fastapi import APIRouter, Request, Response

from registry import schemas
from registry.errors import StorageFailed, StorageFull, TooMany
from registry.server.api.accounts import news
from registry.server.edge.admission import ActorDep, VisitorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import ModelName
from registry.server.pages import charts
from registry.server.pages.frame import forms, render
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.views import models as model_views
from registry.server.views import releases as release_views
from registry.server.views.accounts import news as news_views

router = APIRouter(prefix="/{namespace:space}/{name}", route_class=PageRoute, include_in_schema=False)


@router.get("")
@allow("model.read")
def model(request: Request, name: ModelName, actor: VisitorDep, ctx: ContextDep) -> Response:
    """Show a model: what it is, how to pull it, what it is made of, and by whom."""
    with ctx.database.read() as session:
        row = model_views.find(session, name)
        shown, overview = model_views.show(session, actor, row), model_views.overview(session, row)
        channels = release_views.channel_list(session, row)
        watching = news_views.watches(session, actor, row)
        built = None
        if shown.state == "ready":
            with suppress(StorageFailed, StorageFull, TooMany):  # the page is about more than what config.json says
                built = model_views.built_like(session, ctx.store, row)
    return render.page(
        request,
        "model.html",
        model=shown,
        channels=channels,
        watching=watching,
        lineage=overview.lineage,
        graph=graph(shown, overview),
        contributors=overview.contributors,
        downloads=overview.downloads,
        latest=overview.latest,
        tags=overview.tags,
        main=overview.main,
        built=built,
    )


@router.post("/watch")
@allow("model.watch")
def watch(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Watch a model, or stop watching it."""
    (news.watch if forms.field(request, "watching") == "yes" else news.unwatch)(name, actor, ctx)
    return redirect(request, f"/{name}")


def graph(model: schemas.Model, overview: model_views.Overview) -> tuple[list[charts.Node], list[tuple[str, str]]]:
    """Return nodes and edges for a drawing of how a base and patches became releases and channels."""
    home, lineage = f"/{model.name}", overview.lineage
    nodes = [charts.Node("base", "base", "base", 0, None, model.base or "importing")]
    nodes += [
        charts.Node(f"#{number}", f"#{number}", "patch", 1, f"{home}/patches/{number}", title)
        for number, title in lineage.patches.items()
    ]
    nodes += [
        charts.Node(release.version, release.version, "release", 2, f"{home}/releases/{release.version}", release.state)
        for release in lineage.releases
    ]
    nodes += [
        charts.Node(f"@{name}", name, "channel", 3, f"{home}/channels/{name}", f"points at {version}")
        for name, version in lineage.channels
    ]
    edges = [("base", f"#{number}") for number in lineage.patches]
    edges += [(f"#{number}", version) for number, version in lineage.holds]
    edges += [(version, f"@{name}") for name, version in lineage.channels]
    return nodes, edges
