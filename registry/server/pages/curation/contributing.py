"""Forms by which somebody contributes: a fine-tuned model, which is compared with the base here, or a patch file."""

import re
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from registry import schemas
from registry.errors import InvalidRequest, NotFound
from registry.server.api import patches
from registry.server.edge.admission import ActorDep, allow
from registry.server.edge.context import Context, ContextDep
from registry.server.edge.paths import ModelName, Number
from registry.server.hub import pushing
from registry.server.hub.commits import NO_DIGEST, Sent
from registry.server.pages.frame import forms, render
from registry.server.pages.frame.files import NOT_SENT, sent_files
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.views import models as model_views
from registry.server.views import patches as patch_views
from registry.server.views import releases as release_views
from registry.services.people.actors import Actor

router = APIRouter(prefix="/{namespace:space}/{name}", route_class=PageRoute, include_in_schema=False)


@dataclass(frozen=True)
class Earlier:
    """A patch that gets another revision: its number, and the words of the revision before."""

    number: int
    title: str
    message: str
    license: str | None


@router.get("/contribute")
@allow("patch.push")
def form(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Show the form that contributes a patch."""
    return show(request, name, actor, ctx, None)


@router.post("/contribute")
@allow("patch.push")
def contribute(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Make a patch of what was sent, and lead to its page."""
    files = sent_files(request)
    if of_model(request):
        number = compare(request, name, None, files, actor, ctx)
    else:
        body = forms.read(schemas.PatchRequest, request, sha256=only(files))
        number = patches.push(name, body, Response(), actor, ctx).number
    return redirect(request, f"/{name}/patches/{number}")


@router.get("/patches/{number}/revise")
@allow("patch.revise")
def form_of_revision(request: Request, name: ModelName, number: Number, actor: ActorDep, ctx: ContextDep) -> Response:
    """Show the form that adds a revision to a patch."""
    return show(request, name, actor, ctx, number)


@router.post("/patches/{number}/revise")
@allow("patch.revise")
def revise(request: Request, name: ModelName, number: Number, actor: ActorDep, ctx: ContextDep) -> Response:
    """Make the next revision of a patch of what was sent, and lead to its page."""
    files = sent_files(request)
    if of_model(request):
        compare(request, name, number, files, actor, ctx)
    else:
        body = forms.read(schemas.RevisionRequest, request, sha256=only(files))
        patches.revise(name, number, body, Response(), actor, ctx)
    return redirect(request, f"/{name}/patches/{number}")


def show(request: Request, name: str, actor: Actor, ctx: Context, number: int | None) -> Response:
    """Return the page with the form for a new patch, or for the next revision of one."""
    with ctx.database.read() as session:
        row = model_views.find_ready(session, name)
        shown = model_views.show(session, actor, row)
        published = release_views.versions(session, row, ("published",))
        earlier = None
        if number is not None:
            words: schemas.Patch | schemas.Push | None
            try:
                words = patch_views.show(session, row, patch_views.find(session, row, (number, None)))
            except NotFound:
                if (words := patch_views.push(session, row, number)) is None:
                    raise
            earlier = Earlier(number, words.title, words.message, getattr(words, "license", None))
    return render.page(request, "contribute.html", model=shown, published=published, earlier=earlier, not_sent=NOT_SENT)


def of_model(request: Request) -> bool:
    """Return whether a form has sent a fine-tuned model, and not a patch file."""
    return forms.field(request, "kind") != "patch"


def only(files: dict[str, str]) -> str:
    """Return the sha256 of the one file that was sent.

    Raises:
        InvalidRequest: There are several.
    """
    if len(files) != 1:
        raise InvalidRequest(
            "A patch is one .safetensors file, that `crumb diff` wrote; choose that alone.", field="file"
        )
    return next(iter(files.values()))


def compare(request: Request, name: str, number: int | None, files: dict[str, str], actor: Actor, ctx: Context) -> int:
    """Have a fine-tuned model compared with the base, as a push of the Hub's tools is; return the patch's number."""
    body = forms.read(schemas.PatchRequest, request, sha256=NO_DIGEST)  # for the rules of its texts
    origin = forms.field(request, "tuned_from")
    if not re.fullmatch(r"[0-9A-Za-z.-]{0,64}", origin):
        raise InvalidRequest("What it was fine-tuned from must be the version of a release.", field="tuned_from")
    options = {"task": body.task, "license": body.license, "tuned_from": origin}
    sent = Sent(body.title, body.message, large=files, options={key: value for key, value in options.items() if value})
    if forms.field(request, "shared_only"):
        sent.options["shared_only"] = True
    rev = "main" if number is None else f"refs/pr/{number}"
    _, made = pushing.take(ctx, actor, name, rev, sent, number is None, propose=body.propose)
    assert made is not None  # a commit on main that is not of a pull request makes none
    return made
