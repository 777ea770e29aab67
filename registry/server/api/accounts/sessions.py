"""Routes of sign-ins: sessions of browsers, linked accounts, programs that are let in by a code."""

import uuid

from fastapi import APIRouter, Request

from registry import schemas
from registry.server.edge.admission import ActorDep, Route, allow, count_stranger
from registry.server.edge.context import ContextDep, PublicUrl
from registry.server.errors import RESPONSES
from registry.server.views.accounts import sessions as session_views
from registry.services.people import sign_ins
from registry.services.people.joining import devices, identities

router = APIRouter(prefix="/api/v1", tags=["sessions"], route_class=Route, responses=RESPONSES)


@router.get("/sessions")
@allow("user.read")
def list_sessions(actor: ActorDep, ctx: ContextDep) -> schemas.Sessions:
    """List the browsers in which you are signed in, and the accounts by which you may sign in."""
    with ctx.database.read() as session:
        return session_views.sessions(session, actor)


@router.delete("/sessions/{session_id}", status_code=204)
@allow("account.manage")
def end_session(session_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> None:
    """Sign one of your browsers out at once."""
    with ctx.database.write() as session:
        sign_ins.revoke(session, actor, session_id)


@router.delete("/sessions/accounts/{account_id}", status_code=204)
@allow("account.manage")
def unlink_account(account_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> None:
    """Unlink an account at a provider, so that nobody signs in to yours by it."""
    with ctx.database.write() as session:
        identities.unlink(session, actor, account_id)


@router.post("/device", status_code=201)
@allow("device.ask")
def ask_for_codes(
    body: schemas.DeviceRequest, ctx: ContextDep, request: Request, url: PublicUrl
) -> schemas.DeviceCodes:
    """Ask for codes by which somebody lets a program in; they are good for ten minutes."""
    count_stranger(request)
    with ctx.database.write() as session:
        device, code = devices.start(session, body.label)
    return schemas.DeviceCodes(
        device_code=device,
        user_code=code,
        url=f"{url}/device?code={code}",
        interval=devices.INTERVAL,
        expires_in=int(devices.LIFETIME.total_seconds()),
    )


@router.post("/device/token")
@allow("device.ask")
def ask_for_token(body: schemas.DeviceQuestion, ctx: ContextDep, request: Request) -> schemas.DeviceAnswer:
    """Ask whether somebody let a program in; the first answer that says so has its token, and no other."""
    with ctx.database.read() as session:  # so that made-up codes take no turn of those who write
        waits = devices.waits(session, body.device_code)
    if waits:
        return schemas.DeviceAnswer(state="waiting", user=None, token=None)
    with ctx.database.write() as session:
        given = devices.collect(session, body.device_code, request.state.request_id)
    if given is None:
        return schemas.DeviceAnswer(state="waiting", user=None, token=None)
    secret, actor = given
    return schemas.DeviceAnswer(state="approved", user=actor.name, token=secret)


@router.post("/device/decide")
@allow("token.manage")
def decide_on_device(body: schemas.DeviceDecision, actor: ActorDep, ctx: ContextDep) -> schemas.Device:
    """Let a program in with all that your token may do, for at most 90 days, or turn it away."""
    with ctx.database.write() as session:
        return session_views.device(devices.decide(session, actor, body.user_code, body.approve))
