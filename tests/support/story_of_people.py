"""The part of the story that is about people: namespaces, tokens, invitations, accounts, mail, uploads."""

from typing import Any

from sqlalchemy import select

from registry.db.tables import Identity, MailAddress, User, now
from registry.services.people import mail_addresses, sign_ins
from tests.support.audit_log import last, rows
from tests.support.story import Story
from tests.support.world import digest, put_part


def tell_people(story: Story) -> None:
    spaces = "/api/v1/namespaces"
    for user in ("bob", "carol", "dave"):
        story.world.token(user)
    story.tell("alice", f"POST {spaces}", {"name": "crew"}, wrote="namespace.create", about="crew")
    way = f"{spaces}/{{namespace}}/members/{{user}}"
    nothing, reviewer, maintainer = ({"role": role} for role in (None, "reviewer", "maintainer"))
    carol, dave = {"user": "carol"}, {"user": "dave"}
    change = {"wrote": "namespace.member", "about": "crew"}
    story.tell("alice", f"PUT {way}", reviewer, user="carol", **change, before=carol | nothing, after=carol | reviewer)
    story.tell(
        "alice", f"PUT {way}", maintainer, user="carol", **change, before=carol | reviewer, after=carol | maintainer
    )
    story.tell("alice", f"PUT {way}", reviewer, user="dave", **change, before=dave | nothing, after=dave | reviewer)
    story.tell("alice", f"DELETE {way}", user="dave", **change, before=dave | reviewer, after=dave | nothing)
    body = {"scopes": ["push", "read"], "label": "robot"}
    after = {"scopes": ["read", "push"]}
    token = story.tell(
        "alice", "POST /api/v1/tokens", body, wrote="token.create", about="alice", after=after, adds=True
    )
    assert rows(story.world, last(story.world) - 1)[0].after == {**after, "prefix": token["prefix"]}
    story.tell(
        "alice",
        "DELETE /api/v1/tokens/{token_id}",
        token_id=token["id"],
        wrote="token.revoke",
        about="alice",
        after={"prefix": token["prefix"]},
    )


def tell_joining(story: Story) -> None:
    words = {"label": "Ada", "expires_days": 3, "role": "reviewer"}
    after = {"label": "Ada", "role": "reviewer"}
    way = "/api/v1/namespaces/{namespace}/invitations"
    told: dict[str, Any] = {"wrote": "invitation.create", "about": "crew", "adds": True, "after": after}
    made = [story.tell("alice", f"POST {way}", words, **told) for _ in range(2)]
    was = {"invitation": made[0]["id"], "state": "open"}
    gone: dict[str, Any] = {"wrote": "invitation.revoke", "about": "crew", "before": was}
    story.tell("alice", f"DELETE {way}/{{invitation_id}}", invitation_id=made[0]["id"], **gone)
    secret = {"invitation": made[1]["url"].rpartition("=")[2]}
    used: dict[str, Any] = {"wrote": "invitation.accept", "about": "crew", "before": {"role": None}}
    story.tell("bob", "POST /api/v1/joining/accept", secret, after={"role": "reviewer"}, **used)
    assert story.world.client("alice").delete("/api/v1/namespaces/crew/members/bob").status_code == 204
    was, is_now = {"display_name": ""}, {"display_name": "Bob B."}
    story.tell("bob", "PATCH /api/v1/profile", is_now, wrote="user.update", about="bob", before=was, after=is_now)
    tell_accounts(story)
    tell_sessions(story)
    tell_mail(story)


def tell_mail(story: Story) -> None:
    way, mine = "/api/v1/mail", {"about": "bob"}
    asked, after = {"address": "bob@example.org", "rhythm": "daily"}, {"rhythm": "daily", "state": "asked"}
    story.tell("bob", f"PUT {way}", asked, wrote="mail.set", after=after, adds=True, **mine)
    with story.world.database.read() as session:
        row = session.scalars(select(MailAddress)).one()
        confirming, ending = ({"link": mail_addresses.sign(row, purpose)} for purpose in ("confirm", "unsubscribe"))
    story.tell("bob", f"POST {way}/confirm", confirming, wrote="mail.confirm", **mine)
    serial = last(story.world)
    for _ in range(2):
        assert story.world.client(None).post(f"{way}/unsubscribe", json=ending).status_code == 204
    (written,) = rows(story.world, serial)
    assert (written.action, written.subject, written.user_id) == ("mail.unsubscribe", "bob", None)
    story.told.add(f"POST {way}/unsubscribe")
    story.tell("bob", f"DELETE {way}", wrote="mail.forget", **mine)


def tell_sessions(story: Story) -> None:
    with story.world.database.write() as session:
        sign_ins.start(session, story.world.token("bob"))
        user = session.scalars(select(User).where(User.name == "bob")).one()
        session.add(Identity(user_id=user.id, issuer="https://id.example.org", subject="b", name="bob"))
    there = story.world.client("bob").get("/api/v1/sessions").json()
    prefix = {"prefix": story.world.token("bob")[:9]}
    way, at = "DELETE /api/v1/sessions/{session_id}", {"session_id": there["sessions"][0]["id"], "about": "bob"}
    story.tell("bob", way, wrote="sign_in.end", after=prefix, **at)
    way, at = "DELETE /api/v1/sessions/accounts/{account_id}", {"account_id": there["accounts"][0]["id"]}
    was = {"issuer": "https://id.example.org", "subject": "b", "identity": there["accounts"][0]["id"]}
    story.tell("bob", way, wrote="identity.unlink", about="bob", before=was, **at)
    codes = story.world.client(None).post("/api/v1/device", json={"label": "crumb"}).json()
    body, after = {"user_code": codes["user_code"], "approve": True}, {"program": "crumb"}
    story.tell("bob", "POST /api/v1/device/decide", body, wrote="device.approve", about="bob", after=after)
    serial, question = last(story.world), {"device_code": codes["device_code"]}
    given = story.world.client(None).post("/api/v1/device/token", json=question).json()
    (row,) = rows(story.world, serial)
    assert (row.action, row.user_name) == ("token.create", "bob")
    assert given["token"].startswith(str(row.token_prefix))
    story.told.add("POST /api/v1/device/token")


def tell_accounts(story: Story) -> None:
    """What admins do, and what somebody without an account does, whom the log cannot name."""
    story.world.client("root", admin=True)
    body = {"name": "erin", "display_name": "Erin"}
    after = {"display_name": "Erin"}
    story.tell("root", "POST /api/v1/admin/users", body, wrote="user.create", about="erin", after=after)
    for active in (False, True):
        story.tell(
            "root",
            "PATCH /api/v1/admin/users/{user}",
            {"active": active},
            user="erin",
            wrote="user.enable" if active else "user.disable",
            about="erin",
            before={"active": not active},
            after={"active": active},
        )
    way = "/api/v1/admin/invitations"
    told: dict[str, Any] = {"wrote": "invitation.create", "about": "the registry", "adds": True}
    made = story.tell("root", f"POST {way}", {"label": "x"}, after={"label": "x"}, **told)
    was = {"invitation": made["id"], "state": "open"}
    gone: dict[str, Any] = {"wrote": "invitation.revoke", "about": "the registry", "before": was}
    story.tell("root", f"DELETE {way}/{{invitation_id}}", invitation_id=made["id"], **gone)
    serial = last(story.world)
    asked = story.world.client(None).post("/api/v1/joining", json={"name": "frank", "message": "Please."})
    assert asked.status_code == 201, asked.text
    (row,) = rows(story.world, serial)
    assert (row.action, row.subject, row.user_id) == ("invitation.ask", "frank", None)
    assert row.request_id == asked.headers["x-request-id"]
    story.told.add("POST /api/v1/joining")
    assert row.after is not None
    waiting: dict[str, Any] = {"invitation_id": row.after["invitation"], "about": "frank", "after": row.after}
    story.tell("root", f"POST {way}/{{invitation_id}}/approve", wrote="invitation.approve", **waiting)
    serial, secret = last(story.world), asked.json()["url"].rpartition("=")[2]
    joined = story.world.client(None).post("/api/v1/joining/accept", json={"invitation": secret, "name": "frank"})
    assert joined.status_code == 200, joined.text
    (row,) = rows(story.world, serial)
    assert (row.action, row.subject, row.user_name) == ("user.join", "frank", "frank")
    assert joined.json()["token"].startswith(str(row.token_prefix))
    assert story.world.client(None).post("/api/v1/joining", json={"name": "gina", "message": ""}).status_code == 201
    until, names = {"until": now().isoformat()}, {"requests": 1, "names": ["gina"]}
    story.tell("root", f"POST {way}/refuse", until, wrote="invitation.refuse", about="the registry", before=names)


def tell_uploads(story: Story) -> None:
    data = b"something of no use"
    body = {"sha256": digest(data), "size": len(data)}
    announced = {**body, "state": "open"}
    way = "/api/v1/uploads"
    session = story.tell("bob", f"POST {way}", body, wrote="upload.announce", about="bob", after=announced)
    assert put_part(story.world.client("bob"), session, data, 0).status_code == 200
    one = f"{way}/{{upload_id}}"
    story.tell("bob", f"POST {one}/complete", upload_id=session["id"], wrote="upload.complete", about="bob", after=body)
    story.tell("bob", f"DELETE {one}", upload_id=session["id"], wrote="upload.cancel", about="bob", before=body)
