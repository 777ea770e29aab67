"""Webhooks: who adds them, where they may lead, and what is signed."""

import base64
import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
from huggingface_hub import WebhookPayload
from sqlalchemy import select

from registry.db.audit import check_chain
from registry.db.tables import AuditEvent, Webhook, now
from registry.outside.egress import Egress
from registry.services.events import webhooks
from registry.worker.courier import Courier
from registry.worker.worker import Worker
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.receivers import Receiver, open_canary
from tests.support.webhooks import HERE, MODEL, PUBLIC, actions, add_webhook, deliveries, happen, send_all
from tests.support.world import World, add_model, create_model, open_world, push_patch

pytestmark = pytest.mark.heavy


@pytest.fixture
def world_settings() -> dict[str, Any]:
    """It may call this machine."""
    return {"webhook_private": True, "public_url": f"{PUBLIC}/"}


def test_each_change_of_a_webhook_is_one_audit_row_and_its_secret_is_in_none(world: World) -> None:
    add_model(world)
    client = world.client("alice")
    before = len(actions(world))
    made = add_webhook(
        world, "https://hooks.example.org/T0/path-that-is-secret?key=sesame", "release.*", "patch.accept"
    )
    assert made["secret"].startswith("whsec_")
    one = f"{HERE}/{made['id']}"
    shown = {name: value for name, value in made.items() if name != "secret"}
    assert client.get(HERE).json() == [shown]
    assert client.get(one).json() == shown
    for active in (False, False, True, True):
        assert client.patch(one, json={"active": active}).json() == {**shown, "active": active}
    ping = client.post(f"{one}/test")
    assert (ping.status_code, ping.json()["state"]) == (202, "pending")
    again = client.post(f"{one}/deliveries/{ping.json()['id']}/replay").json()
    assert (again["replay"], again["serial"], again["event"]) == (1, ping.json()["serial"], "webhook.test")
    assert client.delete(one).status_code == 204
    for answer in (client.get(one), client.delete(one), client.post(f"{one}/test"), client.get(f"{one}/deliveries")):
        assert answer.status_code == 404
    assert actions(world)[before:] == [
        f"webhook.{verb}" for verb in ("create", "update", "update", "test", "replay", "delete")
    ]
    with world.database.read() as session:
        rows = session.scalars(select(AuditEvent).where(AuditEvent.action.startswith("webhook."))).all()
        said = json.dumps([[row.subject, row.before, row.after] for row in rows])
        assert made["secret"][6:] not in said
        assert "sesame" not in said
        assert "path-that" not in said
        assert "https://hooks.example.org" in said
        assert list(check_chain(session)) == []


def test_a_webhook_is_of_its_model_alone(world: World, receiver: Receiver) -> None:
    add_model(world)
    add_model(world, "n")
    made = add_webhook(world, receiver.url)
    client = world.client("alice")
    delivery = client.post(f"{HERE}/{made['id']}/test").json()["id"]
    other = f"/api/v1/models/alice/n/webhooks/{made['id']}"
    assert client.get("/api/v1/models/alice/n/webhooks").json() == []
    for method, path, body in (
        ("GET", "", None),
        ("PATCH", "", {"active": False}),
        ("DELETE", "", None),
        ("POST", "/test", None),
        ("GET", "/deliveries", None),
        ("POST", f"/deliveries/{delivery}/replay", None),
    ):
        assert client.request(method, other + path, json=body).status_code == 404, (method, path)
    elsewhere = add_webhook(world, receiver.url)["id"]
    assert client.post(f"{HERE}/{elsewhere}/deliveries/{delivery}/replay").status_code == 404
    assert client.get(f"{HERE}/{elsewhere}/deliveries", params={"before": delivery}).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"url": "https://hooks.example.org/", "events": []},
        {"url": "https://hooks.example.org/", "events": ["release"]},
        {"url": "https://hooks.example.org/", "events": ["*.publish"]},
        {"url": "https://hooks.example.org/", "events": ["token.*"]},
        {"url": "https://hooks.example.org/", "events": ["webhook.create"]},
        {"url": "https://hooks.example.org/", "events": ["release.*", "nonsense.*"]},
        {"url": "https://hooks.example.org/", "secret": "mine"},
        {"url": "https://user@hooks.example.org/"},
        {"url": "file:///etc/passwd"},
        {"url": "https://hooks.example.org/ x"},
        {"url": "https://" + "a" * 2000},
    ],
)
def test_an_invalid_webhook_is_refused(world: World, body: dict[str, Any]) -> None:
    add_model(world)
    assert world.client("alice").post(HERE, json=body).status_code == 422


def test_addresses_that_are_not_public_are_refused_unless_the_operator_allows_them(
    tmp_path: Path, migrated_url: str
) -> None:
    with open_world(tmp_path / "data", migrated_url) as world, open_canary() as canary:
        add_model(world)
        client = world.client("alice")
        for url in (
            "http://hooks.example.org/",
            f"https://127.0.0.1:{canary.port}/",
            f"https://localhost:{canary.port}/",
        ):
            refused = client.post(HERE, json={"url": url})
            assert (refused.status_code, refused.json()["field"]) == (422, "url")
        add_webhook(world, f"https://hooks.example.org:{canary.port}/")
        happen(world, "release.publish")
        made = Courier(world.settings, world.database, Egress(look_up=lambda *_: ["127.0.0.1"]))
        send_all(world, made)
        (found,) = deliveries(world, client.get(HERE).json()[0])
        assert (found["state"], found["attempts"], found["status"]) == ("pending", 1, None)
        assert "not at a public address" in found["answer"]
        assert not canary.sang()
        assert not Courier(world.settings, world.database).egress.private


def test_a_model_has_at_most_twenty_webhooks(world: World) -> None:
    add_model(world)
    for number in range(20):
        add_webhook(world, f"https://hooks.example.org/{number}")
    body = {"url": "https://hooks.example.org/"}
    assert world.client("alice").post(HERE, json=body).status_code == 409


def test_a_secret_of_the_older_form_signs_in_both_forms(world: World, receiver: Receiver) -> None:
    add_model(world)
    made = add_webhook(world, receiver.url)
    older = "whsec_-_" + "Ab3" * 13 + "w"  # as secrets.token_urlsafe(32) writes it
    with world.database.write() as session:
        session.get_one(Webhook, uuid.UUID(made["id"])).secret = older
    happen(world, "release.publish")
    send_all(world)
    (request,) = receiver.received
    headers = request.headers
    assert (headers["X-Webhook-Id"], headers["X-Webhook-Timestamp"]) == (
        headers["webhook-id"],
        headers["webhook-timestamp"],
    )
    signed = f"{headers['X-Webhook-Id']}.{headers['X-Webhook-Timestamp']}.".encode() + request.body
    assert headers["X-Webhook-Signature"] == f"v1={sign(older, signed)}"
    written = "whsec_" + older.removeprefix("whsec_").replace("-", "+").replace("_", "/") + "="
    standardwebhooks.Webhook(written).verify(request.body, dict(headers))


def sign(secret: str, message: bytes) -> str:
    """Compute HMAC-SHA256 as defined in RFC 2104."""
    key = secret.encode().ljust(64, b"\0")
    assert len(key) == 64
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner).hexdigest()


def test_what_is_sent_is_signed(world: World, receiver: Receiver) -> None:
    add_model(world)
    made = add_webhook(world, f"{receiver.url}/in?x=1")
    happen(world, "release.publish")
    send_all(world)
    (found,) = deliveries(world, made)
    (request,) = receiver.received
    headers = request.headers
    assert (found["id"], found["state"], found["status"]) == (headers["webhook-id"], "delivered", 204)
    assert abs(int(headers["webhook-timestamp"]) - now().timestamp()) < 60
    assert len(base64.b64decode(made["secret"].removeprefix("whsec_"), validate=True)) == 32
    standardwebhooks.Webhook(made["secret"]).verify(request.body, dict(headers))
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(made["secret"]).verify(request.body + b" ", dict(headers))
    assert (request.path, headers["Content-Type"]) == ("/in?x=1", "application/json")
    assert headers["User-Agent"].startswith("crumb-registry/")
    assert (headers["X-Webhook-Event"], headers["X-Webhook-Serial"]) == ("release.publish", str(found["serial"]))
    assert {"Authorization", "Cookie"}.isdisjoint(headers)


def test_the_hubs_own_library_reads_what_is_sent(world: World, receiver: Receiver, tmp_path: Path) -> None:
    """The whole life of a model, from its creation to a channel that moves."""
    base = make_checkpoint(tmp_path / "base")
    create_model(world, MODEL, base)
    made = add_webhook(world, receiver.url)
    for number in (1, 2):
        make_patch(base, fine_tuned(base, tmp_path / f"tuned{number}", seed=number), tmp_path / f"{number}.safetensors")
    push_patch(world, MODEL, tmp_path / "1.safetensors", title="Sums")
    alice, bob = world.client("alice"), world.client("bob")
    here, one = f"/api/v1/models/{MODEL}", f"/api/v1/models/{MODEL}/patches/1"

    def did(answer: Any) -> Any:
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None

    did(bob.post(f"{one}/propose"))
    did(bob.post(f"{one}/comments", json={"message": "<b>Look</b> \u202e at this"}))
    did(alice.post(f"{one}/reviews", json={"revision": 1, "verdict": "approve", "message": "fine"}))
    did(alice.post(f"{one}/accept", json={"message": "thanks"}))
    for version in ("1.0.0", "1.0.1"):
        patches = {"patches": [{"number": 1}], "alpha": "0.3"} if version == "1.0.0" else {"from_ref": "1.0.0"}
        did(alice.post(f"{here}/releases", json={"version": version, **patches}))
        world.work()
        second = Worker(world.settings, world.database, world.store)
        while second.step():
            pass
        did(alice.post(f"{here}/releases/{version}/publish"))
        did(alice.put(f"{here}/channels/stable", json={"version": version, "reason": "it is good"}))
    push_patch(world, MODEL, tmp_path / "2.safetensors", title="More")
    did(bob.post(f"{here}/patches/2/withdraw", json={"message": "no good"}))
    did(alice.put(f"{here}/members/bob", json={"role": "reviewer"}))
    did(alice.patch(here, json={"visibility": "private"}))
    send_all(world)
    bodies = {body["crumb"]["serial"]: body for body in (json.loads(request.body) for request in receiver.received)}
    sent = [bodies[serial] for serial in sorted(bodies)]
    for body in sent:
        read = WebhookPayload(**body)
        assert (read.webhook.id, read.repo.name, read.repo.type) == (made["id"], MODEL, "model")
        assert read.repo.private
        assert read.repo.url.web == f"{PUBLIC}/{MODEL}"
        assert (read.discussion is not None) == body["crumb"]["event"].startswith("patch.")
        assert "token" not in json.dumps(body)
    with world.database.read() as session:
        logged = list(
            session.scalars(select(AuditEvent).where(AuditEvent.model_id.is_not(None)).order_by(AuditEvent.serial))
        )
    logged = [
        event
        for event in logged
        if webhooks.matches(["*"], event.action) and event.serial >= sent[0]["crumb"]["serial"]
    ]
    assert [body["crumb"]["event"] for body in sent] == [event.action for event in logged]
    first = {}
    for body in sent:
        first.setdefault(body["crumb"]["event"], body)
    words = {name: (body["event"]["action"], body["event"]["scope"]) for name, body in first.items()}
    assert words["patch.push"] == ("create", "discussion")
    assert words["patch.comment"] == ("create", "discussion.comment")
    assert words["patch.accept"] == words["patch.checked"] == ("update", "discussion")
    assert words["release.publish"] == words["channel.move"] == ("update", "repo.content")
    assert words["model.member"] == words["model.update"] == ("update", "repo.config.model")
    status = {name: first[name]["discussion"]["status"] for name in ("patch.push", "patch.propose", "patch.accept")}
    assert status == {"patch.push": "draft", "patch.propose": "open", "patch.accept": "merged"}
    assert first["patch.withdraw"]["discussion"]["status"] == "closed"
    comment = WebhookPayload(**first["patch.comment"]).comment
    assert comment is not None
    assert comment.content == "<b>Look</b> \u202e at this"
    uuid.UUID(comment.id)
    commits = [
        did(alice.get(f"/api/models/{here.removeprefix('/api/v1/models/')}/revision/{version}"))["sha"]
        for version in ("1.0.0", "1.0.1")
    ]
    moves = [body["updatedRefs"] for body in sent if body["crumb"]["event"] == "channel.move"]
    assert moves == [
        [{"ref": "refs/heads/stable", "oldSha": None, "newSha": commits[0]}],
        [{"ref": "refs/heads/stable", "oldSha": commits[0], "newSha": commits[1]}],
    ]
    tags = [body["updatedRefs"][0] for body in sent if body["crumb"]["event"] == "release.publish"]
    assert [(tag["ref"], tag["newSha"]) for tag in tags] == [
        ("refs/tags/1.0.0", commits[0]),
        ("refs/tags/1.0.1", commits[1]),
    ]
    assert sent[-1]["repo"]["headSha"] == sent[-1]["repo"]["head_sha"] == commits[1]
