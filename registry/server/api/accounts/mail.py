"""Routes of e-mail: where one's news go, the link that confirms it, and the one that ends it."""

from fastapi import APIRouter, Request

from registry import schemas
from registry.errors import WrongState
from registry.server.edge.admission import ActorDep, Route, allow, count, count_stranger
from registry.server.edge.context import ContextDep
from registry.server.errors import RESPONSES
from registry.server.views.accounts import mail as mail_views
from registry.services.people import mail_addresses

router = APIRouter(prefix="/api/v1/mail", tags=["mail"], route_class=Route, responses=RESPONSES)


@router.get("")
@allow("user.read")
def show_mail(actor: ActorDep, ctx: ContextDep) -> schemas.MailSettings:
    """Show where your news go by e-mail."""
    with ctx.database.read() as session:
        return mail_views.of(session, actor, sends=bool(ctx.settings.smtp_host))


@router.put("")
@allow("account.manage")
def set_mail(body: schemas.MailRequest, actor: ActorDep, ctx: ContextDep, request: Request) -> schemas.MailSettings:
    """Have your news sent to an address; one that you have not confirmed yet is first sent a link."""
    if not ctx.settings.smtp_host:
        raise WrongState("This registry sends no mails; its operator has to set REGISTRY_SMTP_HOST.")
    with ctx.database.read() as session:
        confirmed = mail_addresses.is_confirmed(session, actor, body.address)
    for key in () if confirmed else (f"mail of {actor.user_id}", f"mail to {body.address.lower()}"):
        count(request, ctx.asking_rate, key, "Links were sent too often")
    with ctx.database.write() as session:
        row = mail_addresses.choose(session, actor, body.address, body.rhythm, ctx.settings.mail_hour)
        return mail_views.show(row, sends=True)


@router.delete("", status_code=204)
@allow("account.manage")
def forget_mail(actor: ActorDep, ctx: ContextDep) -> None:
    """Delete your address, so that no mail is sent there any more."""
    with ctx.database.write() as session:
        mail_addresses.forget(session, actor)


@router.post("/confirm")
@allow("account.manage")
def confirm_mail(body: schemas.MailLink, actor: ActorDep, ctx: ContextDep) -> schemas.MailSettings:
    """Confirm your address by the link that was sent there."""
    with ctx.database.write() as session:
        row = mail_addresses.confirm(session, actor, body.link, ctx.settings.mail_hour)
        return mail_views.show(row, sends=bool(ctx.settings.smtp_host))


@router.post("/unsubscribe", status_code=204)
@allow("mail.unsubscribe")
def unsubscribe(body: schemas.MailLink, ctx: ContextDep, request: Request) -> None:
    """End the mails to an address by the link in each of them; no token is needed."""
    count_stranger(request)
    with ctx.database.write() as session:
        mail_addresses.unsubscribe(session, body.link, request.state.request_id)
