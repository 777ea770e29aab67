"""Pages of files: those of a model at a revision, and each of them with the sign-in of a browser."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from registry.server.api import models
from registry.server.edge.admission import VisitorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import REF, FilePath, ModelName
from registry.server.pages.frame import render
from registry.server.pages.frame.route import PageRoute
from registry.server.views import models as model_views
from registry.server.views import recipes as recipe_views
from registry.server.views import releases as release_views

router = APIRouter(prefix="/{namespace:space}/{name}/files", route_class=PageRoute, include_in_schema=False)
Chosen = Annotated[str, Query(pattern=REF)]
Ref = Annotated[str, Path(pattern=REF)]


@router.get("")
@allow("model.read")
def listing(request: Request, name: ModelName, actor: VisitorDep, ctx: ContextDep, rev: Chosen = "main") -> Response:
    """Show the files of a model at a revision."""
    with ctx.database.read() as session:
        row = model_views.find(session, name)
        shown = model_views.show(session, actor, row)
        snapshot = recipe_views.show_snapshot(session, actor, name, rev) if shown.state == "ready" else None
        versions = release_views.versions(session, row)
        channels = [channel for channel, version in release_views.pointers(session, row) if version]
    refs = ["main", *channels, *versions, "base"]
    return render.page(request, "files.html", model=shown, snapshot=snapshot, rev=rev, refs=refs)


@router.get("/{ref}/{path:path}")
@allow("model.read")
def file(request: Request, name: ModelName, ref: Ref, path: FilePath, actor: VisitorDep, ctx: ContextDep) -> Response:
    """Download a file of a revision with the sign-in of a browser."""
    return models.file(name, ref, path, request, actor, ctx)
