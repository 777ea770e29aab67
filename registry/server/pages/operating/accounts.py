"""Pages of people for admins: users, invitations, and requests to join."""

import uuid

from fastapi import APIRouter, Request, Response

from registry import schemas
from registry.server.api.accounts import joining
from registry.server.api.admin import Before
from registry.server.edge.admission import ActorDep, allow
from registry.server.edge.context import ContextDep, PublicUrl
from registry.server.edge.paths import UserName
from registry.server.pages.frame import forms, render
from registry.server.pages.frame.answers import answer_page
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.pages.operating.moderation import After, Words
from registry.server.views.accounts import joining as joining_views

router = APIRouter(prefix="/admin", route_class=PageRoute, include_in_schema=False)
PAGE, WAITING = 50, 100  # rows of a page; requests are shown at once, as many as may be


@router.get("/users")
@allow("admin.read")
def users(request: Request, ctx: ContextDep, search: Words = "", after: After = "") -> Response:
    """Show users by name, with forms to make an account and to disable one."""
    with ctx.database.read() as session:
        page = joining_views.account_page(session, search or None, after or None, PAGE)
    following = render.next_page("/admin/users", page.next, "after", search=search)
    return render.page(request, "admin_users.html", page=page, search=search, next=following)


@router.post("/users")
@allow("admin.manage")
def create_user(request: Request, actor: ActorDep, ctx: ContextDep) -> Response:
    """Make an account, and show its first token once."""
    body = forms.read(schemas.AccountRequest, request)
    return answer_page(request, "account_made.html", account=joining.create_user(body, actor, ctx))


@router.post("/users/{user}/active")
@allow("admin.manage")
def set_active(request: Request, user: UserName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Disable a user, or enable them again."""
    joining.update_user(user, forms.read(schemas.AccountUpdate, request), actor, ctx)
    return redirect(request, f"/admin/users{render.query(search=user)}")


@router.get("/invitations")
@allow("admin.read")
def invitations(request: Request, ctx: ContextDep, before: Before = None) -> Response:
    """Show the requests that wait, and the invitations that nobody used."""
    with ctx.database.read() as session:
        waiting = joining_views.invitation_page(session, asked=True, limit=WAITING)
        page = joining_views.invitation_page(session, before=before, limit=PAGE)
        registration = joining_views.registration(session, ctx.settings.registration)
    return render.page(
        request,
        "admin_invitations.html",
        waiting=waiting,
        page=page,
        registration=registration,
        next=render.next_page("/admin/invitations", page.next),
    )


@router.post("/invitations")
@allow("admin.manage")
def invite(request: Request, actor: ActorDep, ctx: ContextDep, url: PublicUrl) -> Response:
    """Invite one person to join, and show the address once."""
    made = joining.invite(forms.read(schemas.InvitationRequest, request), actor, ctx, url)
    return answer_page(request, "invitation_made.html", invitation=made, back="/admin/invitations")


@router.post("/invitations/refuse")
@allow("admin.manage")
def refuse(request: Request, actor: ActorDep, ctx: ContextDep) -> Response:
    """Refuse all requests that the page has shown."""
    joining.refuse_requests(forms.read(schemas.RefuseRequests, request), actor, ctx)
    return redirect(request, "/admin/invitations")


@router.post("/invitations/{invitation_id}/approve")
@allow("admin.manage")
def approve(request: Request, invitation_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> Response:
    """Let somebody who asked join."""
    joining.approve(invitation_id, actor, ctx)
    return redirect(request, "/admin/invitations")


@router.post("/invitations/{invitation_id}/revoke")
@allow("admin.manage")
def revoke(request: Request, invitation_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> Response:
    """Revoke an invitation, or refuse a request."""
    joining.revoke_invitation(invitation_id, actor, ctx)
    return redirect(request, "/admin/invitations")
