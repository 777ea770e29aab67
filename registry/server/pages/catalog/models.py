"""The page of a model."""

from fastapi import APIRouter, Request, Response

from registry import schemas
from registry.server.api import channels, models
from registry.server.edge.deps import ContextDep, ModelName, VisitorDep, allow
from registry.server.pages import charts
from registry.server.pages.frame import render
from registry.server.pages.frame.route import PageRoute
from registry.server.views import releases as release_views
from registry.services.catalog import models as model_service
from registry.services.catalog import tags
from registry.services.hub import downloads
from registry.services.releasing import lineage
from registry.services.releasing.lineage import Lineage

router = APIRouter(prefix="/{namespace:space}/{name}", route_class=PageRoute, include_in_schema=False)


@router.get("")
@allow("model.read")
def model(request: Request, name: ModelName, actor: VisitorDep, ctx: ContextDep) -> Response:
    """Show a model: what it is, how to pull it, what it is made of, and by whom."""
    shown = models.show(name, actor, ctx)
    with ctx.database.read() as session:
        row = model_service.find(session, name)
        ancestry = lineage.lineage_of(session, row)
        latest = next((found for found in ancestry.releases if found.state == "published"), None)
        people, found_tags = lineage.contributors(session, row), tags.of_models(session, [row])[row.id]
        fetched = downloads.totals(session, [row])[row.id]
        release = release_views.release(session, row, latest) if latest else None
    return render.page(
        request,
        "model.html",
        model=shown,
        channels=channels.listing(name, ctx),
        lineage=ancestry,
        graph=graph(shown, ancestry),
        contributors=people,
        downloads=fetched,
        latest=release,
        tags=found_tags,
    )


def graph(model: schemas.Model, found: Lineage) -> tuple[list[charts.Node], list[tuple[str, str]]]:
    """Return the drawing of how a base and patches became releases and channels."""
    home = f"/{model.name}"
    nodes = [charts.Node("base", "base", "base", 0, None, model.base or "importing")]
    nodes += [
        charts.Node(f"#{number}", f"#{number}", "patch", 1, f"{home}/patches/{number}", title)
        for number, title in found.patches.items()
    ]
    nodes += [
        charts.Node(release.version, release.version, "release", 2, f"{home}/releases/{release.version}", release.state)
        for release in found.releases
    ]
    nodes += [
        charts.Node(f"@{name}", name, "channel", 3, f"{home}/channels/{name}", f"points at {version}")
        for name, version in found.channels
    ]
    edges = [("base", f"#{number}") for number in found.patches]
    edges += [(f"#{number}", version) for number, version in found.holds]
    edges += [(version, f"@{name}") for name, version in found.channels]
    return nodes, edges
