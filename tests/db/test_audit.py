"""The audit log: every change has one row, and what failed has none."""

import base64
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from registry.db.tables import Identity, MailAddress, Model, Token, User, now
from registry.services.people import mail_addresses, sign_ins
from tests.support.audit_log import complaints, last, rows
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.routes import every_way
from tests.support.world import World, announce, create_model, digest, push_patch, put_part, upload

pytestmark = pytest.mark.heavy

MODEL = "/api/v1/models/{namespace}/{name}"
HUB = "/api/models/{namespace}/{name}"
PARTS = {  # of something that is in the log as a whole; or what somebody has read, and wants to
    "POST /api/v1/news/seen",
    f"PUT {MODEL}/watch",
    f"DELETE {MODEL}/watch",
    "PUT /api/v1/uploads/{upload_id}/parts/{number}",
    "PUT /api/lfs/{upload_id}/parts/{number}",
    "POST /api/lfs/{upload_id}/complete",
    f"POST {HUB}/preupload/{{rev}}",
    "POST /api/validate-yaml",
    "POST /api/v1/device",
}
SEVERAL = {  # which announce, complete or send several files, each with a row
    f"POST {HUB}/commit/{{rev}}",
    "POST /{namespace}/{name}.git/info/lfs/objects/batch",
    "POST /{namespace}/{name}.git/info/lfs/objects/verify",
}
MAILS = {
    "smtp_host": "mail.example.org",
    "mail_from": "crumbs@example.org",
    "public_url": "http://registry.example.org",
}
OPEN = {"state": "proposed"}
BUNDLE = json.dumps({"verificationMaterial": {}, "dsseEnvelope": {}})


@pytest.fixture
def world_settings() -> dict[str, Any]:
    return {"registration": "open", **MAILS}


# ------------------------------------------------------------------------------------------------- one call, one row


@dataclass
class Story:
    """The story of `crew/tiny`, call by call, each looked up in the log."""

    world: World
    told: set[str] = field(default_factory=set)

    def tell(
        self,
        user: str,
        way: str,
        body: Any = None,
        /,
        *,
        wrote: str,
        about: str,
        before: dict[str, Any] | None = None,
        after: dict[str, Any] | None = None,
        adds: bool = False,
        **values: str,
    ) -> Any:
        """Call once, and look for the one row; call again, which may be refused but, unless it adds, writes nothing.

        Args:
            user: Who.
            way: Method and path of the route.
            body: JSON.
            wrote: The action in the log.
            about: The subject in the log.
            before: What the row says was there.
            after: What the row says of what is there now, among other things.
            adds: Whether the same call again is another thing.
            values: What the parameters of the path are.
        """
        self.told.add(way)
        method, path = way.split()
        url = path.format_map({"namespace": "crew", "name": "tiny", **values})
        client, serial, told = self.world.client(user), last(self.world), f"story-{uuid.uuid4().hex}"
        answer = client.request(method, url, json=body, headers={"X-Request-Id": told})
        assert answer.status_code < 300, (way, answer.status_code, answer.text)
        found = rows(self.world, serial)
        assert [(row.serial, row.action, row.subject) for row in found] == [(serial + 1, wrote, about)], way
        row = found[0]
        with self.world.database.read() as session:
            speaker = session.scalars(select(User).where(User.name == user)).one()
            token = session.scalars(select(Token).where(Token.user_id == speaker.id).order_by(Token.created_at)).first()
            model = session.scalar(select(Model).where(Model.name == "tiny"))
        assert token is not None
        assert (row.user_id, row.user_name, row.token_prefix) == (speaker.id, user, token.prefix), way
        assert row.token_prefix == self.world.tokens[user][:9]
        assert row.request_id == answer.headers["x-request-id"] == told, way
        assert abs((now() - row.at).total_seconds()) < 60
        assert row.before == before, way
        if after is None:
            assert row.after is None, way
        else:
            assert row.after is not None and row.after | after == row.after, (way, row.after)
        if wrote.startswith("report."):
            assert row.model_id is None, "whoever may read what happened to a model would see who reported it"
        elif "{name}" in path:
            assert model is not None and row.model_id == model.id, way
        if not adds:
            again = client.request(method, url, json=body)
            assert again.status_code < 500, again.text
            assert not rows(self.world, serial + 1), (way, again.status_code, again.text)
        return answer.json() if answer.content else None


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


def tell_model(story: Story, folder: Path) -> None:
    alice = story.world.client("alice")
    files = [{"path": path.name, "sha256": upload(alice, path.read_bytes())} for path in sorted(folder.iterdir())]
    body = {"name": "crew/tiny", "files": files}
    public = {"visibility": "public", "license": None}
    story.tell("alice", "POST /api/v1/models", body, wrote="model.create", about="crew/tiny", after=public)
    story.world.work()
    was, words = {"license": "apache-2.0"}, {"license": "mit"}
    story.tell("alice", f"PATCH {MODEL}", words, wrote="model.update", about="crew/tiny", before=was, after=words)
    nothing, given = {"user": "dave", "role": None}, {"user": "dave", "role": "reviewer"}
    change = {"wrote": "model.member", "about": "crew/tiny", "user": "dave"}
    way = f"{MODEL}/members/{{user}}"
    story.tell("alice", f"PUT {way}", {"role": "reviewer"}, **change, before=nothing, after=given)
    story.tell("alice", f"DELETE {way}", **change, before=given, after=nothing)


def tell_patches(story: Story, files: Sequence[Path]) -> None:
    bob = story.world.client("bob")
    sent = [upload(bob, file.read_bytes()) for file in files]
    way, one = f"{MODEL}/patches", f"{MODEL}/patches/{{number}}"

    def push(number: int, sha256: str, state: str) -> None:
        body = {"sha256": sha256, "title": "a patch", "license": "mit", "propose": state == "proposed"}
        after = {"sha256": sha256, "state": state}
        story.tell("bob", f"POST {way}", body, wrote="patch.push", about=f"crew/tiny#{number}", after=after)

    def step(user: str, number: int, verb: str, start: str, end: str, body: Any = None, **after: Any) -> None:
        was, is_now = {"state": start}, {"state": end, **after}
        about = f"crew/tiny#{number}"
        story.tell(
            user,
            f"POST {one}/{verb}",
            body,
            number=str(number),
            wrote=f"patch.{verb}",
            about=about,
            before=was,
            after=is_now,
        )

    push(1, sent[0], "draft")
    body = {"sha256": sent[1], "title": "a better patch", "license": "mit"}
    was, is_now = {"revision": 1, "sha256": sent[0]}, {"revision": 2, "sha256": sent[1]}
    first = {"number": "1", "about": "crew/tiny#1"}
    story.tell("bob", f"POST {one}/revisions", body, **first, wrote="patch.revise", before=was, after=is_now)
    story.world.work()
    step("bob", 1, "propose", "draft", "proposed")
    said = {"message": "Looks fine."}
    story.tell("carol", f"POST {one}/comments", said, **first, wrote="patch.comment", after={}, adds=True)
    discussion = story.world.client("carol").get("/api/v1/models/crew/tiny/patches/1/discussion").json()
    comment = discussion["comments"][0]["id"]
    edited = {"wrote": "patch.edit_comment", "comment_id": comment, "after": {"comment": comment}}
    story.tell("carol", f"PUT {one}/comments/{{comment_id}}", {"message": "It looks fine."}, **first, **edited)
    hub = f"POST {HUB}/discussions/{{number}}/comment/{{comment_id}}/edit"
    story.tell("carol", hub, {"content": "Looks fine to me."}, **first, **edited)
    for verb, was, is_now in (("hide", None, "Rude."), ("unhide", "Rude.", None)):
        story.tell(
            "carol",
            f"PUT {one}/comments/{{comment_id}}/hidden",
            {"reason": is_now},
            **first,
            comment_id=comment,
            wrote=f"patch.{verb}_comment",
            before={"comment": comment, "author": "carol", "hidden": was},
            after={"hidden": is_now},
        )
    story.tell(
        "carol",
        f"POST {one}/comments/{{comment_id}}/delete",
        {"message": "A mistake."},
        **first,
        comment_id=comment,
        wrote="patch.delete_comment",
        before={"comment": comment, "author": "carol"},
        after={"reason": "A mistake."},
    )
    verdict = {"verdict": "approve", "revision": 2}
    story.tell(
        "carol",
        f"POST {one}/reviews",
        verdict,
        **first,
        wrote="patch.review",
        before={"state": "proposed"},
        after={**verdict, "sha256": sent[1], "state": "proposed"},
        adds=True,
    )
    step("carol", 1, "accept", "proposed", "accepted", {}, sha256=sent[1])
    step("bob", 1, "yank", "accepted", "yanked", {"message": "a mistake"}, reason="a mistake")
    step("carol", 1, "unyank", "yanked", "accepted", {})
    push(2, sent[2], "draft")
    step("bob", 2, "withdraw", "draft", "withdrawn", {"message": "no good"}, reason="no good")
    push(3, sent[3], "proposed")
    step("carol", 3, "reject", "proposed", "rejected", {"message": "too big"}, reason="too big")
    push(4, sent[4], "draft")
    tell_discussions(story, sent[4])
    tell_pushes(story)
    tell_cards(story)
    story.world.client("root", admin=True)
    for verb, old, new in (("quarantine", None, "odd"), ("release_from_quarantine", "odd", None)):
        story.tell(
            "root",
            f"PUT {one}/quarantine",
            {"reason": new},
            **first,
            wrote=f"patch.{verb}",
            before={"quarantined": old},
            after={"quarantined": new},
        )
    measured = {"task": "sums", "dataset": "two digits", "metric": "accuracy", "value": 0.5}
    story.tell(
        "bob",
        f"POST {MODEL}/evaluations",
        {"ref": "#1", **measured},
        wrote="evaluation.add",
        about="crew/tiny#1.2",
        after={name: measured[name] for name in ("dataset", "metric", "value")},
        adds=True,
    )
    scores = [{**measured, "metric": metric} for metric in ("f1", "recall")]
    story.tell(
        "bob",
        f"PUT {MODEL}/evaluations",
        {"ref": "#1", "scores": scores},
        wrote="evaluation.add",
        about="crew/tiny#1.2",
        after={"count": 2},
    )


def tell_discussions(story: Story, sha256: str) -> None:
    """What the Hub's clients do to a patch."""
    one, at = "POST /api/models/{namespace}/{name}/discussions/{number}", {"number": "4", "about": "crew/tiny#4"}
    story.world.work()
    was, is_now = {"state": "draft"}, {"state": "proposed"}
    story.tell("bob", f"{one}/status", {"status": "open"}, **at, wrote="patch.propose", before=was, after=is_now)
    said = {"comment": "Looks fine."}
    told = story.tell("carol", f"{one}/comment", said, **at, wrote="patch.comment", after={}, adds=True)
    comment = told["newMessage"]["id"]
    was = {"comment": str(uuid.UUID(comment)), "author": "carol"}
    way = f"{one}/comment/{{comment_id}}/hide"
    gone = {"reason": ""}
    story.tell("carol", way, **at, comment_id=comment, wrote="patch.delete_comment", before=was, after=gone)
    carol, verdict = story.world.client("carol"), {"verdict": "approve", "revision": 1}
    assert carol.post("/api/v1/models/crew/tiny/patches/4/reviews", json=verdict).status_code == 201
    was, is_now = {"state": "proposed"}, {"state": "accepted", "sha256": sha256}
    story.tell("carol", f"{one}/merge", **at, wrote="patch.accept", before=was, after=is_now)


def tell_pushes(story: Story) -> None:
    body = {"title": "Soon", "description": "", "pullRequest": True}
    after = {"title": "Soon", "propose": False}
    story.tell("bob", f"POST {HUB}/discussions", body, wrote="push.open", about="crew/tiny#5", after=after, adds=True)
    after = {"visibility": "private"}
    body = {"name": "later", "organization": "crew", "private": True}
    story.tell("alice", "POST /api/repos/create", body, wrote="model.reserve", about="crew/later", after=after)


def tell_cards(story: Story) -> None:
    way, one, at = f"{MODEL}/cards", f"{MODEL}/cards/{{number}}", {"number": "6", "about": "crew/tiny#6"}
    first, second = "# Tiny\n", "# Tiny, but better\n"
    told = {"title": "A word", "sha256": digest(first.encode())}
    body = {"card": first, "title": "A word"}
    story.tell("bob", f"POST {way}", body, wrote="card.propose", about="crew/tiny#6", after=told, adds=True)
    bob = story.world.client("bob")
    assert bob.post("/api/v1/models/crew/tiny/cards", json=body).status_code == 201
    story.tell(
        "bob",
        f"POST {one}/withdraw",
        {},
        number="7",
        wrote="card.withdraw",
        about="crew/tiny#7",
        before=OPEN,
        after={"state": "withdrawn"},
    )
    better = {"title": "A word", "sha256": digest(second.encode())}
    body = {"card": second, "title": "A word"}
    story.tell("bob", f"PUT {one}", body, **at, wrote="card.revise", before=told, after=better)
    story.tell("carol", f"POST {one}/accept", {}, **at, wrote="card.accept", before=OPEN, after=better)
    assert bob.post("/api/v1/models/crew/tiny/cards", json={"card": first}).status_code == 201
    why = {"message": "No."}
    after = {"state": "rejected", "reason": "No."}
    about = {"number": "8", "about": "crew/tiny#8"}
    story.tell("carol", f"POST {one}/reject", why, **about, wrote="card.reject", before=OPEN, after=after)


def tell_releases(story: Story) -> None:
    named = {"patches": [{"number": 1, "revision": 1}, {"number": 2}]}
    asked = {"patches": ["#1", "#2"]}
    story.world.work()
    story.tell("bob", f"POST {MODEL}/conflicts", named, wrote="conflict.ask", about="crew/tiny", after=asked)
    body = {"alpha": "0.9", "patches": [{"number": 1}]}
    made = story.tell("bob", f"POST {MODEL}/compositions", body, wrote="recipe.compose", about="crew/tiny", after={})
    job, recipe = made["job"]["id"], made["recipe"]["digest"]
    story.tell(
        "bob",
        "POST /api/v1/jobs/{job_id}/cancel",
        job_id=job,
        wrote="job.cancel",
        about=f"crew/tiny {recipe}",
        before={"state": "queued"},
    )
    client = story.world.client("bob")
    client.post("/api/v1/models/crew/tiny/compositions", json=body)
    story.world.work()
    composed = client.get(f"/api/v1/models/crew/tiny/revisions/{recipe}").json()
    story.tell(
        "bob",
        f"DELETE {MODEL}/compositions/{{recipe}}",
        recipe=recipe,
        wrote="recipe.delete",
        about="crew/tiny",
        before={"recipe": recipe, "weights_digest": composed["weights_digest"]},
    )
    way, one = f"{MODEL}/releases", f"{MODEL}/releases/{{version}}"
    for version, alpha in (("0.1.0", "0.3"), ("0.2.0", "0.4")):
        about = {"about": f"crew/tiny@{version}"}
        at = {"version": version, **about}
        body = {"version": version, "patches": [{"number": 1}], "alpha": alpha}
        previous = None if version == "0.1.0" else "0.1.0"
        follows = {"previous": previous}
        cut = story.tell("carol", f"POST {way}", body, **about, wrote="release.cut", after=follows, adds=True)
        story.world.work()
        serial, again = last(story.world), "/api/v1/models/crew/tiny/releases"
        assert story.world.client("carol").post(again, json=body).status_code == 201
        assert last(story.world) == serial
        recipe = cut["recipe"]["digest"]
        words = {"changelog": f"What is new in {version}."}
        story.tell("carol", f"PATCH {one}", words, **at, wrote="release.edit", after=words)
        weights = story.world.client(None).get(f"/api/v1/models/crew/tiny/releases/{version}").json()["weights_digest"]
        build = {"recipe": recipe, "weights_digest": weights}
        story.tell("carol", f"POST {MODEL}/builds", build, wrote="recipe.rebuilt", about="crew/tiny", after=build)
        published = {"state": "published", "weights_digest": weights}
        story.tell(
            "carol",
            f"POST {one}/publish",
            **at,
            wrote="release.publish",
            before={"state": "candidate"},
            after=published,
        )
        signature = {"signature": digest(BUNDLE.encode())}
        story.tell("carol", f"PUT {one}/signature", {"signature": BUNDLE}, **at, wrote="release.sign", after=signature)
    tell_channel(story)
    at = {"version": "0.2.0", "about": "crew/tiny@0.2.0"}
    for method, pinned in (("PUT", True), ("DELETE", False)):
        change = {"before": {"pinned": not pinned}, "after": {"pinned": pinned}}
        story.tell("carol", f"{method} {one}/pin", **at, wrote="release.pin", **change)
    story.tell(
        "carol",
        f"POST {one}/yank",
        {"message": "broken"},
        version="0.2.0",
        about="crew/tiny@0.2.0",
        wrote="release.yank",
        before={"state": "published"},
        after={"state": "yanked", "reason": "broken"},
    )


def tell_channel(story: Story) -> None:
    way = f"{MODEL}/channels/{{channel}}"
    at = {"channel": "stable", "about": "crew/tiny@stable"}

    def move(verb: str, body: Any, method: str, path: str, start: str | None, end: str) -> None:
        was, is_now = {"release": start}, {"release": end, "reason": "so"}
        story.tell("alice", f"{method} {path}", body, **at, wrote=f"channel.{verb}", before=was, after=is_now)

    move("move", {"version": "0.1.0", "reason": "so"}, "PUT", way, None, "0.1.0")
    rule = {"role": "maintainer", "approvals": 1, "allow_yanked": False}
    stricter = {**rule, "role": "owner"}
    body = {"role": "owner"}
    story.tell("alice", f"PUT {way}/protection", body, **at, wrote="channel.protect", before=rule, after=stricter)
    move("move", {"version": "0.2.0", "reason": "so"}, "PUT", way, "0.1.0", "0.2.0")
    move("rollback", {"message": "so"}, "POST", f"{way}/rollback", "0.2.0", "0.1.0")


def tell_webhooks(story: Story) -> None:
    way, about = f"{MODEL}/webhooks", {"about": "crew/tiny"}
    body = {"url": "https://example.org/hook?key=secret", "events": ["patch.*"]}
    after = {"url": "https://example.org", "events": ["patch.*"]}
    made = story.tell("alice", f"POST {way}", body, **about, wrote="webhook.create", after=after, adds=True)
    one, at = f"{way}/{{webhook_id}}", {"webhook_id": made["id"], **about}
    named = {"webhook": made["id"]}
    sent = story.tell("alice", f"POST {one}/test", **at, wrote="webhook.test", after=named, adds=True)
    replay = f"POST {one}/deliveries/{{delivery_id}}/replay"
    story.tell(
        "alice", replay, delivery_id=sent["id"], **at, wrote="webhook.replay", after={**named, "replay": 1}, adds=True
    )
    was, is_now = {**named, "active": True}, {**named, "active": False}
    story.tell("alice", f"PATCH {one}", {"active": False}, **at, wrote="webhook.update", before=was, after=is_now)
    gone = {**named, "events": ["patch.*"]}
    story.tell("alice", f"DELETE {one}", **at, wrote="webhook.delete", before=gone)
    assert "secret" not in "".join(str(row.after) for row in rows(story.world) if row.action.startswith("webhook"))


def tell_publishers(story: Story) -> None:
    way, about = f"{MODEL}/publishers", {"about": "crew/tiny"}
    wanted = {"repository": "crew/training", "workflow": "train.yml"}
    body, after = {"kind": "github", "user": "tiny-ci", **wanted}, {"user": "tiny-ci", "claims": wanted}
    made = story.tell("alice", f"POST {way}", body, **about, wrote="publisher.create", after=after)
    was = {"publisher": made["id"], "user": "tiny-ci", "issuer": made["issuer"], "claims": wanted}
    one = f"DELETE {way}/{{publisher_id}}"
    story.tell("alice", one, publisher_id=made["id"], **about, wrote="publisher.remove", before=was)
    story.told.add("POST /api/v1/publishing/token")  # tests/services/catalog/test_publishers.py looks for its row


def tell_admins(story: Story) -> None:
    about, body = {"about": "crew/tiny#1"}, {"number": 1, "reason": "malware", "message": "It phones home."}
    made = story.tell("bob", f"POST {MODEL}/reports", body, **about, wrote="report.create", after={"reason": "malware"})
    was, named = {"report": made["id"], "reason": "malware"}, {"report": made["id"]}
    body, is_now = {**body, "reason": "other"}, {**named, "reason": "other"}
    story.tell("bob", f"POST {MODEL}/reports", body, **about, wrote="report.update", before=was, after=is_now)
    way, said = "POST /api/v1/admin/reports/{report_id}/close", {"answer": "It does not."}
    story.tell("root", way, said, **about, report_id=made["id"], wrote="report.close", after=named | said)
    story.tell(
        "root",
        "PUT /api/v1/admin/namespaces/{namespace}/quota",
        {"bytes": 10**6},
        wrote="namespace.quota",
        about="crew",
        before={"quota_bytes": None},
        after={"quota_bytes": 10**6},
    )
    was, wanted = {"min_drop_top": None}, {"min_drop_top": "0.001"}
    change: dict[str, Any] = {"wrote": "policy.change", "about": "the registry", "before": was, "after": wanted}
    story.tell("root", "PUT /api/v1/admin/policy", wanted, **change)


def test_every_call_that_changes_something_writes_one_row(world: World, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base")
    files = []
    for number in range(5):
        files.append(tmp_path / f"{number}.safetensors")
        make_patch(base, fine_tuned(base, tmp_path / f"tuned{number}", seed=number + 1), files[-1])
    story = Story(world)
    tell_people(story)
    tell_joining(story)
    tell_uploads(story)
    tell_model(story, base)
    tell_patches(story, files)
    tell_releases(story)
    tell_webhooks(story)
    tell_publishers(story)
    tell_admins(story)
    changing = {f"{way.method} {way.path}" for way in every_way(world.app) if not way.reads}
    assert story.told == changing - PARTS - SEVERAL, (
        "a route that changes something is not in the story, or no longer there"
    )
    assert not complaints(world)


def test_a_push_is_in_the_log_with_each_of_its_files(world: World, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base")
    create_model(world, "alice/m", base, "alice")
    tuned = fine_tuned(base, tmp_path / "tuned")
    lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "Learn", "description": ""}}]
    for path in sorted(tuned.iterdir()):
        content = base64.b64encode(path.read_bytes()).decode()
        lines.append({"key": "file", "value": {"path": path.name, "content": content, "encoding": "base64"}})
    world.token("bob")
    before = last(world)
    sent = world.client("bob").post(
        "/api/models/alice/m/commit/main?create_pr=1", content="\n".join(map(json.dumps, lines)).encode()
    )
    assert sent.status_code == 200, sent.text
    found = [(row.user_name, row.action) for row in rows(world, before)]
    files = len(list(tuned.iterdir()))
    assert found == [("bob", "upload.announce")] * files + [("bob", "push.open"), ("bob", "push.commit")]
    before = last(world)
    world.work()
    made = [(row.user_name, row.action, row.subject) for row in rows(world, before)]
    assert made == [(None, "patch.push", "alice/m#1"), (None, "patch.checked", "alice/m#1")]


def test_what_workers_and_operators_do_is_in_the_log_without_a_user(world: World, tmp_path: Path) -> None:
    story = Story(world)
    tell_people(story)
    tell_model(story, make_checkpoint(tmp_path / "base"))
    found = {row.action: row for row in rows(world) if row.user_id is None}
    assert set(found) == {"token.create", "model.ready"}
    for row in found.values():
        assert (row.user_name, row.token_prefix, row.request_id) == (None, None, None)


def test_a_channel_that_is_made_by_its_rule_is_in_the_log(world: World, tmp_path: Path) -> None:
    create_model(world, "alice/tiny", make_checkpoint(tmp_path / "base"))
    serial, url = last(world), "/api/v1/models/alice/tiny/channels"
    assert world.client("alice").put(f"{url}/nightly/protection", json={}).status_code == 200
    assert [row["name"] for row in world.client(None).get(url).json()] == ["nightly"]
    assert [row.action for row in rows(world, serial)] == ["channel.protect"]


def test_a_release_cut_twice_while_it_is_composed_is_cut_once(world: World, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base")
    create_model(world, "alice/tiny", base)
    make_patch(base, fine_tuned(base, tmp_path / "tuned"), tmp_path / "patch.safetensors")
    push_patch(world, "alice/tiny", tmp_path / "patch.safetensors")
    alice, url = world.client("alice"), "/api/v1/models/alice/tiny/releases"
    body = {"version": "1.0.0", "patches": [{"number": 1}]}
    assert alice.post(url, json=body).status_code == 202
    assert alice.patch(f"{url}/1.0.0", json={"changelog": "By hand."}).status_code == 200
    serial = last(world)
    assert alice.post(url, json=body).json()["changelog"] == "By hand."
    assert last(world) == serial


def test_a_recipe_that_two_ask_for_again_and_again_is_two_rows(world: World, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base")
    create_model(world, "alice/tiny", base)
    make_patch(base, fine_tuned(base, tmp_path / "tuned"), tmp_path / "patch.safetensors")
    push_patch(world, "alice/tiny", tmp_path / "patch.safetensors")
    serial, body = last(world), {"alpha": "0.3", "patches": [{"number": 1}]}
    for user in ("bob", "carol", "carol", "bob", "carol"):
        answer = world.client(user).post("/api/v1/models/alice/tiny/compositions", json=body)
        assert answer.status_code == 202
    asked = [row.user_name for row in rows(world, serial) if row.action == "recipe.compose"]
    assert asked == ["bob", "carol"]


# ---------------------------------------------------------------------------------------- what failed is in no log


def test_calls_that_are_refused_write_nothing(world: World) -> None:
    alice = world.client("alice")
    world.token("bob")
    session = announce(alice, b"x" * 1500)
    for number in (0, 1):
        assert put_part(alice, session, b"y" * 1500, number).status_code == 200
    serial = last(world)
    for method, path, body, status in (
        ("POST", "tokens", {"scopes": []}, 422),
        ("POST", "tokens", {"scopes": ["read"], "model": "alice/none"}, 404),
        ("POST", "namespaces", {"name": "bob"}, 409),
        ("POST", "namespaces", {"name": "admin"}, 422),
        ("PUT", "namespaces/bob/members/alice", {"role": "owner"}, 403),
        ("DELETE", "namespaces/alice/members/alice", None, 409),
        ("PUT", "namespaces/alice/members/nobody", {"role": "owner"}, 404),
        ("POST", f"uploads/{session['id']}/complete", None, 422),  # the bytes are other ones
        ("POST", "uploads", {"sha256": digest(b"x" * 1500), "size": 7}, 409),
        ("DELETE", f"uploads/{uuid.uuid4()}", None, 404),
        ("POST", "models", {"name": "alice/m", "files": [{"path": "a.safetensors", "sha256": "0" * 64}]}, 422),
    ):
        answer = alice.request(method, f"/api/v1/{path}", json=body)
        assert answer.status_code == status, (method, path, answer.text)
    assert last(world) == serial


def test_a_rolled_back_change_is_not_in_the_log(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is part of the transaction that makes the change."""
    alice = world.client("alice")
    alice.get("/api/v1/whoami")
    serial, known = last(world), alice.get("/api/v1/tokens").json()

    def fail(*_: object) -> None:
        raise RuntimeError("after the service was done")

    with monkeypatch.context() as patched:
        patched.setattr("registry.server.views.people.token", fail)
        assert alice.post("/api/v1/tokens", json={"scopes": ["read"]}).status_code == 500
    with monkeypatch.context() as patched:
        patched.setattr("registry.db.session.append_pending", fail)  # what cannot be logged does not happen
        assert alice.post("/api/v1/namespaces", json={"name": "crew"}).status_code == 500
    assert last(world) == serial
    assert alice.get("/api/v1/tokens").json() == known
    assert alice.get("/api/v1/namespaces/crew").status_code == 404
