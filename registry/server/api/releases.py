"""Routes of releases."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from registry import schemas
from registry.server.edge.admission import ActorDep, Route, VisitorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import ModelName
from registry.server.errors import RESPONSES
from registry.server.views import recipes as recipe_views
from registry.server.views import releases as release_views
from registry.services.catalog import models
from registry.services.releasing import cutting, publishing, releases

router = APIRouter(
    prefix="/api/v1/models/{namespace}/{name}", tags=["releases"], route_class=Route, responses=RESPONSES
)
Version = Annotated[str, Path(pattern=r"^[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}(-[0-9A-Za-z.-]{1,40})?$")]
Ref = Annotated[str, Query(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$")]


@router.post(
    "/releases", status_code=202, responses={201: {"model": schemas.Release, "description": "Composed already"}}
)
@allow("release.cut")
def cut(
    name: ModelName, body: schemas.ReleaseRequest, response: Response, actor: ActorDep, ctx: ContextDep
) -> schemas.Release:
    """Cut a release: it is composed, and may then be published; cutting it again before that replaces it."""
    with ctx.writing(actor, body) as session:
        row, job = cutting.cut(session, actor, name, read_cut(body))
        ctx.admit(session, job)
        response.status_code = 202 if job else 201
        row = releases.find(session, name, row.version)
        return release_views.release(session, models.find(session, name), row, job, cutting.asked_alpha(read_cut(body)))


@router.get("/releases")
@allow("model.read")
def listing(
    name: ModelName,
    ctx: ContextDep,
    before: Annotated[str | None, Query(max_length=64, pattern=r"^[0-9A-Za-z.-]+$")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> schemas.ReleasePage:
    """List releases, newest version first."""
    with ctx.database.read() as session:
        return release_views.release_page(session, models.find(session, name), before, limit)


@router.get("/compare")
@allow("model.read")
def compare(name: ModelName, before: Ref, after: Ref, actor: VisitorDep, ctx: ContextDep) -> schemas.ReleaseDiff:
    """Show what changed between the recipes of two references."""
    with ctx.database.read() as session:
        return release_views.compare(session, actor, name, before, after)


@router.get("/releases/{version}")
@allow("model.read")
def show(name: ModelName, version: Version, ctx: ContextDep) -> schemas.Release:
    """Show a release."""
    with ctx.database.read() as session:
        return release_views.show(session, models.find(session, name), version)


@router.patch("/releases/{version}")
@allow("release.cut")
def edit(
    name: ModelName, version: Version, body: schemas.ReleaseUpdate, actor: ActorDep, ctx: ContextDep
) -> schemas.Release:
    """Edit the changelog or the card of a release that is not published."""
    with ctx.writing(actor, body) as session:
        row = releases.edit(session, actor, name, version, body.changelog, body.card)
        return release_views.release(session, models.find(session, name), row)


@router.get("/releases/{version}/card", response_class=Response)
@allow("model.read")
def card(name: ModelName, version: Version, ctx: ContextDep) -> Response:
    """Show the card of a release: as published or edited, else as it would be generated now."""
    with ctx.database.read() as session:
        text = release_views.card(session, models.find(session, name), version)
    return Response(text, media_type="text/markdown; charset=utf-8")


@router.post("/releases/{version}/publish")
@allow("release.publish")
def publish(name: ModelName, version: Version, actor: ActorDep, ctx: ContextDep) -> schemas.Release:
    """Publish a candidate that meets all requirements; it cannot be changed afterwards."""
    with ctx.database.write() as session:
        row = publishing.publish(session, ctx.store, actor, name, version)
        return release_views.release(session, models.find(session, name), row)


@router.post("/releases/{version}/yank")
@allow("release.yank")
def yank(
    name: ModelName, version: Version, body: schemas.ReasonNeeded, actor: ActorDep, ctx: ContextDep
) -> schemas.Release:
    """Yank a published release; it can still be pulled by its version, with a warning."""
    with ctx.writing(actor, body) as session:
        row = releases.yank(session, actor, name, version, body.message)
        return release_views.release(session, models.find(session, name), row)


@router.put("/releases/{version}/pin")
@allow("release.pin")
def pin(name: ModelName, version: Version, actor: ActorDep, ctx: ContextDep) -> schemas.Release:
    """Keep the weights of a release on the server's disk, however seldom they are read."""
    with ctx.database.write() as session:
        row = releases.pin(session, actor, name, version, pinned=True)
        return release_views.release(session, models.find(session, name), row)


@router.delete("/releases/{version}/pin")
@allow("release.pin")
def unpin(name: ModelName, version: Version, actor: ActorDep, ctx: ContextDep) -> schemas.Release:
    """Let the weights of a release go when there is no room for them; they are composed when they are read."""
    with ctx.database.write() as session:
        row = releases.pin(session, actor, name, version, pinned=False)
        return release_views.release(session, models.find(session, name), row)


@router.get("/releases/{version}/manifest", response_class=Response)
@allow("model.read")
def manifest(name: ModelName, version: Version, ctx: ContextDep) -> Response:
    """Show the manifest of a published release, as the bytes that are signed."""
    with ctx.database.read() as session:
        raw = publishing.read_manifest(session, name, version)
    return Response(raw, media_type="application/json")


@router.get("/releases/{version}/provenance")
@allow("model.read")
def provenance(name: ModelName, version: Version, ctx: ContextDep) -> schemas.Provenance:
    """Show where a published release comes from, with an in-toto statement."""
    with ctx.database.read() as session:
        return release_views.provenance(session, models.find(session, name), version)


@router.get("/releases/{version}/signature", response_class=Response)
@allow("model.read")
def signature(name: ModelName, version: Version, ctx: ContextDep) -> Response:
    """Show the signature of the manifest, a Sigstore bundle."""
    with ctx.database.read() as session:
        text = publishing.signature(session, name, version)
    return Response(text, media_type="application/json")


@router.put("/releases/{version}/signature")
@allow("release.publish")
def sign(
    name: ModelName, version: Version, body: schemas.SignatureRequest, actor: ActorDep, ctx: ContextDep
) -> schemas.Release:
    """Store a signature of the manifest; it cannot be replaced."""
    with ctx.writing(actor, body) as session:
        row = publishing.sign(session, actor, name, version, body.signature)
        return release_views.release(session, models.find(session, name), row)


def read_cut(body: schemas.ReleaseRequest) -> cutting.Cut:
    """Return the release that a body asks for."""
    return cutting.Cut(
        version=body.version,
        patches=recipe_views.ingredients(body.patches),
        from_ref=body.from_ref,
        add=recipe_views.ingredients(body.add),
        without=body.without,
        alpha=body.alpha,
        method=body.method,
        allow_yanked=body.allow_yanked,
        files_of=body.files_of,
    )
