"""The page of a user or an organisation: its models, who is what in it, how much of its quota is used."""

import re
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from registry import schemas
from registry.errors import NotFound
from registry.files.names import NAME
from registry.server.api import models, people
from registry.server.api.people import NamespaceName
from registry.server.edge.deps import ActorDep, Context, ContextDep, VisitorDep, allow
from registry.server.pages.frame import forms, render
from registry.server.pages.frame.route import PageRoute, redirect
from registry.services.people import access, namespaces
from registry.services.people.actors import Actor
from registry.services.people.rules import Role

router = APIRouter(route_class=PageRoute, include_in_schema=False)
After = Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")]
PAGE = 30


@router.get("/{namespace:space}")
@allow("server.read")
def namespace(
    request: Request, namespace: NamespaceName, actor: VisitorDep, ctx: ContextDep, after: After = ""
) -> Response:
    """Show the models of a namespace; to whoever has signed in, also who belongs to it."""
    shown, kind, role, organisations = looked_up(namespace, actor, ctx)
    page = models.listing(actor, ctx, author=namespace, after=after or None, limit=PAGE)
    return render.page(
        request,
        "namespace.html",
        name=namespace,
        kind=kind,
        space=shown,
        role=role,
        organisations=organisations,
        page=page,
        after=after,
        next=f"/{namespace}{render.query(after=page.next)}" if page.next else None,
    )


@router.post("/settings/organisations")
@allow("namespace.create")
def create(request: Request, actor: ActorDep, ctx: ContextDep) -> Response:
    """Make an organisation."""
    body = forms.read(schemas.NamespaceRequest, request)
    return redirect(request, f"/{people.create_namespace(body, actor, ctx).name}")


@router.post("/settings/namespaces/{namespace}/members")
@allow("namespace.manage")
def set_member(request: Request, namespace: NamespaceName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Give somebody a role on every model of a namespace."""
    people.set_member(namespace, whom(request), forms.read(schemas.MemberRequest, request), actor, ctx)
    return redirect(request, f"/{namespace}")


@router.post("/settings/namespaces/{namespace}/members/remove")
@allow("namespace.manage")
def remove_member(request: Request, namespace: NamespaceName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Take somebody's role in a namespace away."""
    people.remove_member(namespace, whom(request), actor, ctx)
    return redirect(request, f"/{namespace}")


def whom(request: Request) -> str:
    """Return the name of the user that a form is about.

    Raises:
        NotFound: nobody can be called like that.
    """
    name = forms.field(request, "user")
    if not re.fullmatch(NAME, name):
        raise NotFound(f"There is no user {name[:100]!r}; names are of a-z, 0-9, '.', '_' and '-'.")
    return name


def looked_up(
    name: str, actor: Actor | None, ctx: Context
) -> tuple[schemas.Namespace | None, str, Role, list[tuple[str, str]]]:
    """Return a namespace as far as somebody may see it, what it is, what they are to it, and their own organisations.

    The last only if it is their own namespace.

    Raises:
        NotFound: there is none of that name.
    """
    with ctx.database.read() as session:
        row = namespaces.find(session, name)
        role = access.role_in(session, actor, row)
        own = namespaces.of_user(session, actor) if actor is not None and actor.name == name else []
    return people.show_namespace(name, actor, ctx) if actor is not None else None, row.kind, role, own
