"""Pages of e-mail: where one's news go, and what the links in mails lead to."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from registry import schemas
from registry.server.api.accounts import mail
from registry.server.edge.admission import ActorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.pages.frame import forms, render
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.views.accounts import mail as mail_views

Link = Annotated[str, Query(pattern=r"^[0-9a-f]{32}-[0-9a-f]{64}$")]  # not in the path, which logs have
router = APIRouter(prefix="/settings/mail", route_class=PageRoute, include_in_schema=False)


class LinkRoute(PageRoute):
    """A page whose secret is its address. Mail programs post to it without a cookie, and so without a CSRF token."""

    async def read(self, request: Request) -> bool:
        """Leave the form unread: RFC 8058 sends one, and the link says all."""
        return False


linked = APIRouter(prefix="/settings/mail/unsubscribe", route_class=LinkRoute, include_in_schema=False)


@router.get("")
@allow("user.read")
def settings(request: Request, actor: ActorDep, ctx: ContextDep) -> Response:
    """Show where the visitor's news go."""
    with ctx.database.read() as session:
        shown = mail_views.of(session, actor, sends=bool(ctx.settings.smtp_host))
    return render.page(request, "mail.html", mail=shown, hour=ctx.settings.mail_hour)


@router.post("")
@allow("account.manage")
def update(request: Request, actor: ActorDep, ctx: ContextDep) -> Response:
    """Have the visitor's news sent to an address."""
    mail.set_mail(forms.read(schemas.MailRequest, request), actor, ctx, request)
    return redirect(request, "/settings/mail")


@router.post("/forget")
@allow("account.manage")
def forget(request: Request, actor: ActorDep, ctx: ContextDep) -> Response:
    """Delete the visitor's address."""
    mail.forget_mail(actor, ctx)
    return redirect(request, "/settings/mail")


@router.get("/confirm")
@allow("account.manage")
def look(request: Request, link: Link, actor: ActorDep, ctx: ContextDep) -> Response:
    """Ask the visitor to confirm their address; a mail program that opens links confirms nothing by that."""
    with ctx.database.read() as session:
        address = mail_views.to_confirm(session, actor, link)
    return render.page(request, "mail_confirm.html", address=address, link=link)


@router.post("/confirm")
@allow("account.manage")
def confirm(request: Request, link: Link, actor: ActorDep, ctx: ContextDep) -> Response:
    """Confirm the visitor's address."""
    mail.confirm_mail(schemas.MailLink(link=link), actor, ctx)
    return redirect(request, "/settings/mail")


@linked.get("")
@allow("mail.unsubscribe")
def ask(request: Request, link: Link, ctx: ContextDep) -> Response:
    """Ask whether mails are to end; a mail program that opens links ends nothing by that."""
    with ctx.database.read() as session:
        user = mail_views.to_unsubscribe(session, link)
    return render.page(request, "mail_unsubscribe.html", user=user, link=link)


@linked.post("")
@allow("mail.unsubscribe")
def unsubscribe(request: Request, link: Link, ctx: ContextDep) -> Response:
    """End the mails to an address, as the page of its link asks and as mail programs do by themselves."""
    mail.unsubscribe(schemas.MailLink(link=link), ctx, request)
    return render.page(request, "mail_unsubscribe.html", user=None, link=None)
