"""Routes of how people join, and of accounts: profiles, invitations, requests, users that admins make."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query, Request

from registry import schemas
from registry.errors import InvalidRequest, WrongState
from registry.files.names import NAME
from registry.server.edge.admission import ActorDep, Route, VisitorDep, allow, count_stranger
from registry.server.edge.context import ContextDep, PublicUrl
from registry.server.edge.paths import NamespaceName, UserName
from registry.server.errors import RESPONSES
from registry.server.views.accounts import joining as joining_views
from registry.services.people import namespaces, paging
from registry.services.people.joining import accounts, invitations

router = APIRouter(prefix="/api/v1", tags=["joining"], route_class=Route, responses=RESPONSES)
Before = Annotated[str | None, Query(pattern=paging.CURSOR)]
After = Annotated[str | None, Query(pattern=rf"^{NAME}$")]
Limit = Annotated[int, Query(ge=1, le=100)]
Words = Annotated[str | None, Query(max_length=96, pattern=r"^[^\x00]*$")]


@router.post("/joining", status_code=201)
@allow("join.ask")
def ask(
    body: schemas.AskRequest, actor: VisitorDep, ctx: ContextDep, request: Request, url: PublicUrl
) -> schemas.Asked:
    """Ask to join, where anybody may; the answer has an address that lets you in once an admin approves."""
    if actor is not None:
        raise WrongState(f"You are signed in as {actor.name}, and have an account.")
    count_stranger(request)
    count_stranger(request, ctx.asking_rate)
    with ctx.database.write() as session:
        secret, row = invitations.ask(
            session,
            ctx.settings.registration,
            body.name,
            body.message,
            request.state.request_id,
        )
        return schemas.Asked(name=body.name, url=joining_views.link(url, secret), expires_at=row.expires_at)


@router.post("/joining/accept")
@allow("join.accept")
def accept(body: schemas.AcceptInvitation, actor: VisitorDep, ctx: ContextDep, request: Request) -> schemas.Joined:
    """Use an invitation: with a token to get its role, without one to make an account, whose first token is shown."""
    count_stranger(request)
    if actor is None and body.name is None:
        raise InvalidRequest("Choose a name for your account.", field="name")
    with ctx.database.write() as session:
        if actor is not None:
            return joining_views.joined(invitations.accept(session, actor, body.invitation), actor, None)
        row, token, newcomer = invitations.join(
            session,
            ctx.settings.registration,
            body.invitation,
            body.name or "",
            body.display_name,
            request.state.request_id,
        )
        return joining_views.joined(row, newcomer, token)


@router.get("/users/{user}")
@allow("server.read")
def show_profile(user: UserName, actor: VisitorDep, ctx: ContextDep) -> schemas.Profile:
    """Show a user, with the newest of their patches that you may see."""
    with ctx.database.read() as session:
        return joining_views.profile(session, actor, user)


@router.patch("/profile")
@allow("account.manage")
def update_profile(body: schemas.ProfileUpdate, actor: ActorDep, ctx: ContextDep) -> schemas.Profile:
    """Change how you want to be called."""
    with ctx.writing(actor, body) as session:
        accounts.rename(session, actor, body.display_name)
        return joining_views.profile(session, actor, actor.name)


@router.get("/namespaces/{namespace}/invitations")
@allow("invitation.manage")
def list_invitations_of(
    namespace: NamespaceName, ctx: ContextDep, before: Before = None, limit: Limit = 50
) -> schemas.InvitationPage:
    """List the invitations to a namespace that nobody used, newest first."""
    with ctx.database.read() as session:
        return joining_views.invitation_page(session, namespace=namespace, before=before, limit=limit)


@router.post("/namespaces/{namespace}/invitations", status_code=201)
@allow("invitation.manage")
def invite_to(
    namespace: NamespaceName,
    body: schemas.MemberInvitationRequest,
    actor: ActorDep,
    ctx: ContextDep,
    url: PublicUrl,
) -> schemas.NewInvitation:
    """Invite one person to a role on every model of a namespace; only this answer shows the address."""
    with ctx.database.write() as session:
        secret, row = invitations.create(
            session,
            actor,
            ctx.settings.registration,
            namespace=namespace,
            **body.model_dump(),
        )
        return joining_views.new_invitation(row, joining_views.link(url, secret))


@router.delete("/namespaces/{namespace}/invitations/{invitation_id}", status_code=204)
@allow("invitation.manage")
def revoke_invitation_of(namespace: NamespaceName, invitation_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> None:
    """Revoke an invitation to a namespace that nobody used."""
    with ctx.database.write() as session:
        invitations.revoke(session, actor, invitation_id, namespace)


@router.get("/admin/invitations")
@allow("admin.read")
def list_invitations(
    ctx: ContextDep, asked: bool = False, before: Before = None, limit: Limit = 50
) -> schemas.InvitationPage:
    """List the invitations that nobody used, or the requests to join that wait, newest first."""
    with ctx.database.read() as session:
        return joining_views.invitation_page(session, asked=asked, before=before, limit=limit)


@router.post("/admin/invitations", status_code=201)
@allow("admin.manage")
def invite(body: schemas.InvitationRequest, actor: ActorDep, ctx: ContextDep, url: PublicUrl) -> schemas.NewInvitation:
    """Invite one person to join; only this answer shows the address."""
    with ctx.database.write() as session:
        secret, row = invitations.create(session, actor, ctx.settings.registration, **body.model_dump())
        return joining_views.new_invitation(row, joining_views.link(url, secret))


@router.post("/admin/invitations/refuse")
@allow("admin.manage")
def refuse_requests(body: schemas.RefuseRequests, actor: ActorDep, ctx: ContextDep) -> schemas.RefusedRequests:
    """Refuse all requests to join that were made until a time."""
    with ctx.database.write() as session:
        return schemas.RefusedRequests(refused=invitations.refuse_all(session, actor, body.until))


@router.post("/admin/invitations/{invitation_id}/approve")
@allow("admin.manage")
def approve(invitation_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> schemas.Invitation:
    """Let somebody who asked join, by the address that they were given."""
    with ctx.database.write() as session:
        return joining_views.invitation(invitations.approve(session, actor, invitation_id))


@router.delete("/admin/invitations/{invitation_id}", status_code=204)
@allow("admin.manage")
def revoke_invitation(invitation_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> None:
    """Revoke any invitation that nobody used, or refuse a request to join."""
    with ctx.database.write() as session:
        invitations.revoke(session, actor, invitation_id)


@router.get("/admin/users")
@allow("admin.read")
def list_users(ctx: ContextDep, search: Words = None, after: After = None, limit: Limit = 50) -> schemas.AccountPage:
    """List users, by name."""
    with ctx.database.read() as session:
        return joining_views.account_page(session, search, after, limit)


@router.post("/admin/users", status_code=201)
@allow("admin.manage")
def create_user(body: schemas.AccountRequest, actor: ActorDep, ctx: ContextDep) -> schemas.NewAccount:
    """Make an account for somebody, with a first token that only this answer shows."""
    with ctx.database.write() as session:
        secret, user = accounts.create(session, actor, body.name, body.display_name, body.expires_days)
        return schemas.NewAccount(token=secret, **joining_views.account(user).model_dump())


@router.patch("/admin/users/{user}")
@allow("admin.manage")
def update_user(user: UserName, body: schemas.AccountUpdate, actor: ActorDep, ctx: ContextDep) -> schemas.Account:
    """Disable a user, from their next request on, or enable them again."""
    with ctx.database.write() as session:
        namespaces.set_active(session, user, body.active, actor)
        return joining_views.account(namespaces.find_user(session, user))
