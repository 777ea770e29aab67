"""Releases: listed, cut, edited, published and yanked; what each holds, and what changed between two."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from registry import schemas
from registry.errors import BreadcrumbError, InvalidRequest
from registry.server.api import conflicts, models, releases
from registry.server.edge.deps import ActorDep, Context, ContextDep, ModelName, VisitorDep, allow
from registry.server.pages.comparing import collisions
from registry.server.pages.frame import forms, permits, render
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.pages.releasing import release_parts
from registry.server.views import models as model_views
from registry.server.views import releases as release_views
from registry.services.catalog import models as model_service
from registry.services.composing import snapshots
from registry.services.curation import evaluations
from registry.services.queue import jobs
from registry.services.releasing import channels, dossiers, publishing
from registry.services.releasing import releases as release_service

router = APIRouter(prefix="/{namespace:space}/{name}/releases", route_class=PageRoute, include_in_schema=False)
Version = Annotated[str, Path(pattern=r"^[0-9A-Za-z.-]{1,64}$")]
Cursor = Annotated[str, Query(max_length=64, pattern=r"^[0-9A-Za-z.-]*$")]
Ref = Annotated[str, Query(pattern=r"^([A-Za-z0-9][A-Za-z0-9._:-]{0,99})?$")]
ITEM = re.compile(r"#?([0-9]{1,9})(?:\.([0-9]{1,9}))?(?::(\S{1,50}))?")
PAGE, CHOICES, PATCHES = 20, 100, 100
TOGETHER = 16  # patches of which the page of conflicts is asked
COMPOSED = ("candidate", "published", "yanked")


@router.get("")
@allow("model.read")
def listing(
    request: Request, name: ModelName, actor: VisitorDep, ctx: ContextDep, before: Cursor = "", start: Ref = ""
) -> Response:
    """Show the releases of a model, newest version first, its channels, and the forms to add to both."""
    shown = models.show(name, actor, ctx)
    with ctx.database.read() as session:
        row = model_service.find(session, name)
        found, cursor = dossiers.outlines(session, row, before or None, PAGE)
        pointing = channels.pointing(session, row, CHOICES)
        composed = release_service.newest(session, row, COMPOSED, CHOICES)
        published = release_service.newest(session, row, ("published",), CHOICES)
    return render.page(
        request,
        "releases.html",
        model=shown,
        may=permits.permitted(actor, shown),
        found=found,
        next=f"/{name}/releases{render.query(before=cursor)}" if cursor else None,
        before=before,
        channels=pointing,
        composed=composed,
        published=published,
        start=start,
    )


@router.post("")
@allow("release.cut")
def cut(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Cut a release."""
    named = {field: items(forms.field(request, field)) for field in ("patches", "add")}
    without = [item["number"] for item in items(forms.field(request, "without"))]
    body = forms.read(schemas.ReleaseRequest, request, **named, without=without)
    found = releases.cut(name, body, Response(), actor, ctx)
    return redirect(request, f"/{name}/releases/{found.version}")


@router.get("/compare")
@allow("model.read")
def compare(
    request: Request, name: ModelName, actor: VisitorDep, ctx: ContextDep, before: Ref = "", after: Ref = ""
) -> Response:
    """Show what changed between two revisions, once both are chosen."""
    shown, difference, measured = models.show(name, actor, ctx), None, list[evaluations.MetricRow]()
    if before and after:
        difference = releases.compare(name, before, after, actor, ctx)
    with ctx.database.read() as session:
        row = model_service.find(session, name)
        composed = release_service.newest(session, row, COMPOSED, CHOICES)
        pointing = [channel for channel, version in channels.pointing(session, row, CHOICES) if version]
        if difference is not None:
            subjects = [release_parts.subject(session, actor, row, ref) for ref in (before, after)]
            measured = evaluations.compare_subjects(session, row, subjects)
    return render.page(
        request,
        "release_compare.html",
        model=shown,
        before=before,
        after=after,
        composed=composed,
        channels=pointing,
        difference=difference,
        rows=release_parts.differences(measured, 1),
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
    """Show a release: what it holds, who built it, what is missing, and how to pull and verify it."""
    shown = models.show(name, actor, ctx)
    with ctx.database.read() as session:
        model, row = model_service.find(session, name), release_service.find(session, name, version)
        job = release_service.underway(session, model, row)
        release = release_views.release(session, model, row)
        previous = snapshots.find_release(session, model, row.previous_version) if row.previous_version else None
        older = [evaluations.Subject(release=previous)] if previous else []
        subjects = [evaluations.Subject(), *older, evaluations.Subject(release=row)]
        measured = evaluations.compare_subjects(session, model, subjects)
        approved = publishing.approved(session, model, row)
        card = publishing.card(session, model, row) if release.weights_digest else None
        told = release_parts.told(row)
        progress = model_views.job(job, jobs.jobs_ahead(session, job)) if job else None
    parts = release_parts.parts(release, approved)
    page = [part for part in parts if part.item.number > after or not after][:PATCHES]
    return render.page(
        request,
        "release.html",
        model=shown,
        may=permits.permitted(actor, shown),
        release=release,
        job=progress,
        parts=page,
        after=after,
        collisions=meeting(name, [part.item for part in parts if part.item.number], actor, ctx),
        together=[f"{part.item.number}.{part.item.revision}" for part in parts[:TOGETHER] if part.item.number],
        following=page[-1].item.number if page and page[-1] is not parts[-1] else None,
        rows=release_parts.differences(measured, 1 + len(older)),
        told=told,
        card=card,
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


def meeting(
    name: str, found: list[schemas.RecipeItem], actor: VisitorDep, ctx: Context
) -> collisions.Collisions | None:
    """Return what is known of where the patches of a release meet; of many, their own page tells."""
    if not 2 <= len(found) <= TOGETHER:
        return None
    try:
        return collisions.of(conflicts.show(name, actor, ctx, [f"{item.number}.{item.revision}" for item in found]))
    except BreadcrumbError:  # one is quarantined, say
        return None


def items(text: str) -> list[dict[str, Any]]:
    """Return the patches that somebody has typed, as `3 7:0.5 12.2:0.25`, with commas or without.

    Raises:
        InvalidRequest: quotes what is none.
    """
    found = []
    for word in text.replace(",", " ").split():
        if (match := ITEM.fullmatch(word)) is None:
            raise InvalidRequest(f"{word[:50]!r} is no patch: write its number, or number and weight, like 3:0.5.")
        found.append({"number": int(match[1]), "revision": match[2] and int(match[2]), "weight": match[3] or "1"})
    return found
