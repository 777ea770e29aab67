"""Pages of releases: the list, one release, and two compared, with the forms that cut, edit, publish and yank."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from sqlalchemy.orm import Session

from registry import schemas
from registry.errors import BreadcrumbError, InvalidRequest
from registry.server.api import releases
from registry.server.edge.admission import ActorDep, VisitorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import ModelName
from registry.server.pages.comparing import conflict_summary
from registry.server.pages.comparing.conflict_summary import ConflictSummary
from registry.server.pages.frame import forms, permits, render
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.pages.releasing import release_parts
from registry.server.views import conflicts as conflict_views
from registry.server.views import models as model_views
from registry.server.views import recipes as recipe_views
from registry.server.views import releases as release_views
from registry.services.people.actors import Actor

router = APIRouter(prefix="/{namespace:space}/{name}/releases", route_class=PageRoute, include_in_schema=False)
Version = Annotated[str, Path(pattern=r"^[0-9A-Za-z.-]{1,64}$")]
Cursor = Annotated[str, Query(max_length=64, pattern=r"^[0-9A-Za-z.-]*$")]
Ref = Annotated[str, Query(pattern=r"^([A-Za-z0-9][A-Za-z0-9._:-]{0,99})?$")]
ITEM = re.compile(r"#?([0-9]{1,9})(?:\.([0-9]{1,9}))?(?::(\S{1,50}))?")
PAGE, PATCHES = 20, 100  # releases, and patches of one release, on a page
TOGETHER = 16  # patches whose conflicts are shown with a release


@router.get("")
@allow("model.read")
def listing(
    request: Request, name: ModelName, actor: VisitorDep, ctx: ContextDep, before: Cursor = "", start: Ref = ""
) -> Response:
    """Show the releases of a model, newest version first, and its channels, with forms that add to both."""
    with ctx.database.read() as session:
        row = model_views.find(session, name)
        shown = model_views.show(session, actor, row)
        outlines, cursor = release_views.outlines(session, row, before or None, PAGE)
        channels = release_views.pointers(session, row)
        composed = release_views.versions(session, row)
        published = release_views.versions(session, row, ("published",))
        may = permits.permitted(actor, shown)
        offers = release_views.offers(session, row) if "release.cut" in may else []
    return render.page(
        request,
        "releases.html",
        model=shown,
        may=may,
        outlines=outlines,
        next=render.next_page(f"/{name}/releases", cursor),
        before=before,
        channels=channels,
        composed=composed,
        published=published,
        offers=offers,
        start=start,
    )


@router.post("")
@allow("release.cut")
def cut(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Cut a release."""
    named = {field: items(forms.field(request, field)) for field in ("patches", "add")}
    without = [item["number"] for item in items(forms.field(request, "without"))]
    body = forms.read(schemas.ReleaseRequest, request, **named, without=without)
    release = releases.cut(name, body, Response(), actor, ctx)
    return redirect(request, f"/{name}/releases/{release.version}")


@router.get("/compare")
@allow("model.read")
def compare(
    request: Request, name: ModelName, actor: VisitorDep, ctx: ContextDep, before: Ref = "", after: Ref = ""
) -> Response:
    """Show what changed between two references, once both are chosen."""
    difference, rows = None, []
    with ctx.database.read() as session:
        row = model_views.find(session, name)
        shown = model_views.show(session, actor, row)
        composed = release_views.versions(session, row)
        channels = [channel for channel, version in release_views.pointers(session, row) if version]
        if before and after:
            difference = release_views.compare(session, actor, name, before, after)
            measured = release_views.compare_evaluations(session, actor, row, (before, after))
            rows = release_parts.differences(measured, 1)
    return render.page(
        request,
        "release_compare.html",
        model=shown,
        before=before,
        after=after,
        composed=composed,
        channels=channels,
        difference=difference,
        rows=rows,
    )


@router.get("/{version}")
@allow("model.read")
def show(
    request: Request,
    name: ModelName,
    version: Version,
    actor: VisitorDep,
    ctx: ContextDep,
    after: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
) -> Response:
    """Show a release: its patches, builds and documents, what it still needs, and how to pull and verify it."""
    with ctx.database.read() as session:
        row = model_views.find(session, name)
        shown, overview = model_views.show(session, actor, row), release_views.overview(session, row, version)
        parts = release_parts.release_patches(overview.release, overview.approvals)
        listed = [part.item for part in parts if part.item.number]
        conflicts = conflicts_of(session, actor, name, listed)
        rule = recipe_views.auto_rule(session, row, overview.release.recipe)
    page = [part for part in parts if part.item.number > after or not after][:PATCHES]
    documents = overview.documents
    return render.page(
        request,
        "release.html",
        model=shown,
        may=permits.permitted(actor, shown),
        release=overview.release,
        job=overview.job,
        parts=page,
        after=after,
        conflicts=conflicts,
        rule=rule,
        together=[f"{part.item.number}.{part.item.revision}" for part in parts[:TOGETHER] if part.item.number],
        following=page[-1].item.number if page and page[-1] is not parts[-1] else None,
        rows=release_parts.differences(overview.evaluations, 1 + overview.previous),
        documents=documents,
        pretty=documents.pretty[: release_parts.PRETTY] if documents else "",
        cut=documents is not None and len(documents.pretty) > release_parts.PRETTY,
        card=overview.card,
    )


@router.post("/{version}/edit")
@allow("release.cut")
def edit(request: Request, name: ModelName, version: Version, actor: ActorDep, ctx: ContextDep) -> Response:
    """Edit changelog or card before publishing."""
    words = {
        field: text.replace("\r\n", "\n") for field in ("changelog", "card") if (text := forms.field(request, field))
    }
    releases.edit(name, version, forms.read(schemas.ReleaseUpdate, request, **words), actor, ctx)
    return redirect(request, f"/{name}/releases/{version}")


@router.post("/{version}/publish")
@allow("release.publish")
def publish(request: Request, name: ModelName, version: Version, actor: ActorDep, ctx: ContextDep) -> Response:
    """Publish a candidate."""
    releases.publish(name, version, actor, ctx)
    return redirect(request, f"/{name}/releases/{version}")


@router.post("/{version}/yank")
@allow("release.yank")
def yank(request: Request, name: ModelName, version: Version, actor: ActorDep, ctx: ContextDep) -> Response:
    """Yank a published release."""
    releases.yank(name, version, forms.read(schemas.ReasonNeeded, request), actor, ctx)
    return redirect(request, f"/{name}/releases/{version}")


def conflicts_of(
    session: Session, actor: Actor | None, name: str, patches: list[schemas.RecipeItem]
) -> ConflictSummary | None:
    """Return the known conflicts among the patches of a release; None if there are many, which have their own page."""
    if not 2 <= len(patches) <= TOGETHER:
        return None
    try:
        row = model_views.find_ready(session, name)
        rows, _ = conflict_views.choose(session, actor, row, [(item.number, item.revision) for item in patches])
        return conflict_summary.summarise(conflict_views.known_conflicts(session, row, rows))
    except BreadcrumbError:  # for instance, a patch is quarantined
        return None


def items(text: str) -> list[dict[str, Any]]:
    """Return the patches that somebody has typed, as `3 7:0.5 12.2:0.25`, with commas or without.

    Raises:
        InvalidRequest: A word is not a patch; the message quotes it.
    """
    patches = []
    for word in text.replace(",", " ").split():
        if (match := ITEM.fullmatch(word)) is None:
            raise InvalidRequest(f"{word[:50]!r} is not a patch; write its number, or number and weight, like 3:0.5.")
        patches.append({"number": int(match[1]), "revision": match[2] and int(match[2]), "weight": match[3] or "1"})
    return patches
