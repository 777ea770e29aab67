"""Forms on the page of a patch: comments, verdicts, steps, reports; each is one call of the API."""

import uuid

from fastapi import APIRouter, Request, Response

from registry import schemas
from registry.server.api import admin, reviews
from registry.server.edge.admission import ActorDep, VisitorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import ModelName, Number
from registry.server.pages.frame import forms, render
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.views import models as model_views
from registry.server.views import reviews as review_views

router = APIRouter(prefix="/{namespace:space}/{name}/patches/{number}", route_class=PageRoute, include_in_schema=False)


def back(request: Request, name: str, number: int, tail: str = "") -> Response:
    """Redirect to the page of a patch at its newest revision."""
    return redirect(request, f"/{name}/patches/{number}{tail}")


def preview(request: Request, name: str, number: int) -> Response | None:
    """Return what the message of a form will look like, if that is what was asked for.

    With htmx it appears inside the form; without, on a page with the same form.
    """
    if not forms.field(request, "preview"):
        return None
    fields = {key: values for key, values in forms.fields(request).items() if key not in ("preview", "message")}
    message = forms.field(request, "message")
    whole = "hx-request" not in request.headers
    here = f"/{name}/patches/{number}"
    return render.page(request, "message_preview.html", message=message, fields=fields, back=here, whole=whole)


def about(request: Request) -> list[str]:
    """Return the tensors that a form refers to."""
    return forms.field(request, "about").replace(",", " ").split()


@router.post("/comments")
@allow("patch.comment")
def comment(request: Request, name: ModelName, number: Number, actor: ActorDep, ctx: ContextDep) -> Response:
    """Comment on a patch, or show what the comment will look like."""
    if (shown := preview(request, name, number)) is not None:
        return shown
    body = forms.read(schemas.CommentRequest, request, about=about(request))
    reviews.comment(name, number, body, actor, ctx)
    return back(request, name, number)


@router.post("/comments/{comment_id}/edit")
@allow("comment.edit")
def edit_comment(
    request: Request, name: ModelName, number: Number, comment_id: uuid.UUID, actor: ActorDep, ctx: ContextDep
) -> Response:
    """Give a comment of the visitor's another text, or show what it will look like."""
    if (shown := preview(request, name, number)) is not None:
        return shown
    reviews.edit_comment(name, number, comment_id, forms.read(schemas.CommentEditRequest, request), actor, ctx)
    return back(request, name, number)


@router.get("/comments/{comment_id}/history")
@allow("model.read")
def comment_history(
    request: Request, name: ModelName, number: Number, comment_id: uuid.UUID, actor: VisitorDep, ctx: ContextDep
) -> Response:
    """Show all texts of a comment."""
    with ctx.database.read() as session:
        model = model_views.show(session, actor, model_views.find(session, name))
        history = review_views.comment_history(session, actor, name, number, comment_id)
    return render.page(request, "comment_history.html", model=model, number=number, history=history)


@router.post("/comments/{comment_id}/delete")
@allow("comment.delete")
def delete_comment(
    request: Request, name: ModelName, number: Number, comment_id: uuid.UUID, actor: ActorDep, ctx: ContextDep
) -> Response:
    """Delete a comment."""
    reviews.delete_comment(name, number, comment_id, forms.read(schemas.Reason, request), actor, ctx)
    return back(request, name, number)


@router.post("/comments/{comment_id}/hidden")
@allow("comment.hide")
def hide_comment(
    request: Request, name: ModelName, number: Number, comment_id: uuid.UUID, actor: ActorDep, ctx: ContextDep
) -> Response:
    """Hide a comment, or show it again if the form has no field for the reason."""
    given = {} if "reason" in forms.fields(request) else {"reason": None}
    reviews.hide_comment(name, number, comment_id, forms.read(schemas.HideRequest, request, **given), actor, ctx)
    return back(request, name, number)


@router.post("/reviews")
@allow("patch.review")
def review(request: Request, name: ModelName, number: Number, actor: ActorDep, ctx: ContextDep) -> Response:
    """Approve the revision that was shown, or request changes, or show what the message will look like."""
    if (shown := preview(request, name, number)) is not None:
        return shown
    reviews.review(name, number, forms.read(schemas.ReviewRequest, request, about=about(request)), actor, ctx)
    return back(request, name, number)


@router.post("/propose")
@allow("patch.propose")
def propose(request: Request, name: ModelName, number: Number, actor: ActorDep, ctx: ContextDep) -> Response:
    """Propose a patch for review."""
    reviews.propose(name, number, actor, ctx)
    return back(request, name, number)


@router.post("/withdraw")
@allow("patch.withdraw")
def withdraw(request: Request, name: ModelName, number: Number, actor: ActorDep, ctx: ContextDep) -> Response:
    """Withdraw a patch."""
    reviews.withdraw(name, number, forms.read(schemas.Reason, request), actor, ctx)
    return back(request, name, number)


@router.post("/accept")
@allow("patch.accept")
def accept(request: Request, name: ModelName, number: Number, actor: ActorDep, ctx: ContextDep) -> Response:
    """Accept the revision that was shown, and perhaps supersede older patches."""
    older = forms.field(request, "supersedes").replace(",", " ").replace("#", " ").split()
    body = forms.read(schemas.AcceptRequest, request, supersedes=older)
    reviews.accept(name, number, body, actor, ctx)
    return back(request, name, number)


@router.post("/reject")
@allow("patch.reject")
def reject(request: Request, name: ModelName, number: Number, actor: ActorDep, ctx: ContextDep) -> Response:
    """Reject a patch."""
    reviews.reject(name, number, forms.read(schemas.ReasonNeeded, request), actor, ctx)
    return back(request, name, number)


@router.post("/yank")
@allow("patch.yank")
def yank(request: Request, name: ModelName, number: Number, actor: ActorDep, ctx: ContextDep) -> Response:
    """Yank an accepted patch; its page names the releases and channels that hold it."""
    reviews.yank(name, number, forms.read(schemas.ReasonNeeded, request), actor, ctx)
    return back(request, name, number)


@router.post("/unyank")
@allow("patch.yank")
def unyank(request: Request, name: ModelName, number: Number, actor: ActorDep, ctx: ContextDep) -> Response:
    """Undo a yank."""
    reviews.unyank(name, number, forms.read(schemas.Reason, request), actor, ctx)
    return back(request, name, number)


@router.post("/quarantine")
@allow("patch.quarantine")
def quarantine(request: Request, name: ModelName, number: Number, actor: ActorDep, ctx: ContextDep) -> Response:
    """Quarantine a patch, or end its quarantine if the form has no field for the reason."""
    given = {} if "reason" in forms.fields(request) else {"reason": None}
    body = forms.read(schemas.QuarantineRequest, request, **given)
    reviews.quarantine(name, number, body, actor, ctx)
    return back(request, name, number)


@router.post("/reports")
@allow("report.create")
def report(request: Request, name: ModelName, number: Number, actor: ActorDep, ctx: ContextDep) -> Response:
    """Report a patch to the admins."""
    body = forms.read(schemas.ReportRequest, request, number=number)
    admin.create_report(name, body, actor, ctx)
    return back(request, name, number, "?reported=true")
