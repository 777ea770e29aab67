"""The page of a user or an organisation: its models, its members, and the usage of its quota."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from registry import schemas
from registry.server.api import people
from registry.server.api.accounts import joining
from registry.server.edge.admission import ActorDep, VisitorDep, allow
from registry.server.edge.context import ContextDep, PublicUrl
from registry.server.edge.paths import NamespaceName
from registry.server.pages.frame import forms, render
from registry.server.pages.frame.answers import answer_page
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.views import models as model_views
from registry.server.views import people as people_views

router = APIRouter(route_class=PageRoute, include_in_schema=False)
After = Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")]
PAGE = 30


@router.get("/{namespace:space}")
@allow("server.read")
def namespace(
    request: Request, namespace: NamespaceName, actor: VisitorDep, ctx: ContextDep, after: After = ""
) -> Response:
    """Show the models of a namespace and, to visitors who have signed in, its members."""
    with ctx.database.read() as session:
        overview = people_views.overview(session, actor, namespace, ctx.upload_limits)
        page = model_views.listing(
            session, actor, model_views.Filters(author=namespace), after=after or None, limit=PAGE
        )
    return render.page(
        request,
        "namespace.html",
        name=namespace,
        kind=overview.kind,
        space=overview.namespace,
        role=overview.role,
        organisations=overview.organisations,
        profile=overview.profile,
        invitations=overview.invitations,
        page=page,
        after=after,
        next=render.next_page(f"/{namespace}", page.next, "after"),
    )


@router.post("/settings/namespaces/{namespace}/invitations")
@allow("invitation.manage")
def invite(request: Request, namespace: NamespaceName, actor: ActorDep, ctx: ContextDep, url: PublicUrl) -> Response:
    """Invite one person to a namespace, and show the address once."""
    body = forms.read(schemas.MemberInvitationRequest, request)
    made = joining.invite_to(namespace, body, actor, ctx, url)
    return answer_page(request, "invitation_made.html", invitation=made, back=f"/{namespace}")


@router.post("/settings/namespaces/{namespace}/invitations/{invitation_id}/revoke")
@allow("invitation.manage")
def revoke_invitation(
    request: Request, namespace: NamespaceName, invitation_id: uuid.UUID, actor: ActorDep, ctx: ContextDep
) -> Response:
    """Revoke an invitation to a namespace."""
    joining.revoke_invitation_of(namespace, invitation_id, actor, ctx)
    return redirect(request, f"/{namespace}")


@router.post("/settings/organisations")
@allow("namespace.create")
def create(request: Request, actor: ActorDep, ctx: ContextDep) -> Response:
    """Create an organisation."""
    body = forms.read(schemas.NamespaceRequest, request)
    return redirect(request, f"/{people.create_namespace(body, actor, ctx).name}")


@router.post("/settings/namespaces/{namespace}/members")
@allow("namespace.manage")
def set_member(request: Request, namespace: NamespaceName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Give a user a role on every model of a namespace."""
    people.set_member(namespace, forms.user_name(request), forms.read(schemas.MemberRequest, request), actor, ctx)
    return redirect(request, f"/{namespace}")


@router.post("/settings/namespaces/{namespace}/members/remove")
@allow("namespace.manage")
def remove_member(request: Request, namespace: NamespaceName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Remove a user's role in a namespace."""
    people.remove_member(namespace, forms.user_name(request), actor, ctx)
    return redirect(request, f"/{namespace}")
