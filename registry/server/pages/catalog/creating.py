"""The page that creates a model: from a folder of the visitor's computer, or from a repository of the Hub."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from registry import schemas
from registry.server.api import models
from registry.server.edge.admission import ActorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.pages.frame import forms, render
from registry.server.pages.frame.files import NOT_SENT, sent_files
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.views import people as people_views

router = APIRouter(prefix="/new", route_class=PageRoute, include_in_schema=False)
Name = Annotated[str, Query(max_length=200, pattern=r"^[a-z0-9._/-]*$")]


@router.get("")
@allow("model.create")
def form(request: Request, actor: ActorDep, ctx: ContextDep, name: Name = "") -> Response:
    """Show the form that creates a model; `name` fills it in."""
    with ctx.database.read() as session:
        spaces = people_views.spaces_for_models(session, actor)
    namespace, _, own = name.partition("/")
    return render.page(request, "model_new.html", spaces=spaces, namespace=namespace, name=own, not_sent=NOT_SENT)


@router.post("")
@allow("model.create")
def create(request: Request, actor: ActorDep, ctx: ContextDep) -> Response:
    """Create a model, and lead to its page, which shows how its base is checked."""
    name = f"{forms.field(request, 'namespace')}/{forms.field(request, 'name')}"
    given: dict[str, Any] = {"name": name, "by_reference": not forms.field(request, "copy")}
    if not forms.field(request, "source"):
        given["files"] = [{"path": path, "sha256": sha256} for path, sha256 in sent_files(request).items()]
    models.create(forms.read(schemas.ModelRequest, request, **given), actor, ctx)
    return redirect(request, f"/{name}")
