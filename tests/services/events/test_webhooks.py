"""Webhooks: every event is delivered, signed, at least once, to every webhook that wants it."""

import base64
import hashlib
import json
import os
import signal
import threading
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
from huggingface_hub import WebhookPayload
from sqlalchemy import select, text

from registry.db.audit import check_chain, newest_serial
from registry.db.tables import AuditEvent, Model, Webhook, WebhookDelivery, now
from registry.outside.egress import Egress, Reply
from registry.services.events import deliveries as delivery_service
from registry.services.events import webhooks
from registry.services.people.actors import record
from registry.worker.courier import Courier
from registry.worker.worker import Worker
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.processes import open_registry, until
from tests.support.receivers import Received, Receiver, open_canary
from tests.support.world import World, add_model, create_model, open_world, push_patch

pytestmark = pytest.mark.heavy

MODEL = "alice/m"
HERE = f"/api/v1/models/{MODEL}/webhooks"
PUBLIC = "https://crumbs.example.org"


@pytest.fixture
def world_settings() -> dict[str, Any]:
    """It may call this machine."""
    return {"webhook_private": True, "public_url": f"{PUBLIC}/"}


def happen(world: World, *actions: str, name: str = "m") -> None:
    """Record events of a model."""
    with world.database.write() as session:
        model = session.scalars(select(Model).where(Model.name == name)).one()
        for action in actions:
            record(session, None, action, f"alice/{name}@1.0.0", model)


def add_webhook(world: World, url: str, *events: str, name: str = "m") -> dict[str, Any]:
    body = {"url": url, **({"events": events} if events else {})}
    answer = world.client("alice").post(f"/api/v1/models/alice/{name}/webhooks", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def courier(world: World, **how: Any) -> Courier:
    return Courier(world.settings, world.database, Egress(private=True, **how))


def send_all(world: World, made: Courier | None = None) -> None:
    """Send everything that is due, also to resting webhooks."""
    made = made or courier(world)
    while made.step():
        made.failures.clear()


def make_due(world: World) -> None:
    """Make pending deliveries due."""
    with world.database.write() as session:
        for row in session.scalars(select(WebhookDelivery).where(WebhookDelivery.state == "pending")):
            row.due_at = now()


def deliveries(world: World, webhook: dict[str, Any], **query: Any) -> list[dict[str, Any]]:
    answer = world.client("alice").get(f"{HERE}/{webhook['id']}/deliveries", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


def actions(world: World) -> list[str]:
    with world.database.read() as session:
        return list(session.scalars(select(AuditEvent.action).order_by(AuditEvent.serial)))


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


def test_only_chosen_events_are_delivered_and_only_from_then_on(world: World, receiver: Receiver) -> None:
    add_model(world)
    add_model(world, "n")
    happen(world, "release.cut")
    some = add_webhook(world, f"{receiver.url}/some", "release.publish", "patch.*")
    all_ = add_webhook(world, f"{receiver.url}/all")
    off = add_webhook(world, f"{receiver.url}/off")
    world.client("alice").patch(f"{HERE}/{off['id']}", json={"active": False})
    told = ["release.cut", "release.publish", "patch.push", "patch.accept", "channel.move", "job.cancel"]
    happen(world, *told, "token.create", "patchwork.sew")
    happen(world, "release.publish", "patch.push", name="n")
    send_all(world)
    assert sorted(row["event"] for row in deliveries(world, some)) == ["patch.accept", "patch.push", "release.publish"]
    assert sorted(row["event"] for row in deliveries(world, all_)) == sorted(told)
    assert deliveries(world, off) == []
    world.client("alice").patch(f"{HERE}/{off['id']}", json={"active": True})
    happen(world, "release.yank")
    send_all(world)
    assert [row["event"] for row in deliveries(world, off)] == ["release.yank"]
    assert len(receiver.received) == 3 + (len(told) + 1) + 1


def test_collecting_continues_at_the_cursor_however_many_events_there_are(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_model(world)
    monkeypatch.setattr(delivery_service, "COLLECTED_AT_ONCE", 3)
    made = [add_webhook(world, receiver.url, "patch.push") for _ in range(5)]
    happen(world, *["patch.push", "release.cut"] * 10)
    rounds = 0
    with world.database.read() as session:
        assert delivery_service.waiting(session)
    while True:
        with world.database.write() as session:
            if not delivery_service.collect(session):
                break
        rounds += 1
        assert rounds < 100
    for webhook in made:
        assert len(deliveries(world, webhook)) == 10
    with world.database.read() as session:
        assert {row.cursor for row in session.scalars(select(Webhook))} == {newest_serial(session)}


def test_a_failed_delivery_is_tried_again_later_under_the_same_id(world: World, receiver: Receiver) -> None:
    add_model(world)
    made = add_webhook(world, receiver.url)
    happen(world, "release.publish")
    answers = [(500, {}, b"not \x00now"), (302, {"Location": receiver.url}, b""), (299, {}, b"thanks")]
    receiver.answer = lambda _: answers.pop(0)
    pauses = []
    for status, kept in ((500, "not now"), (302, "")):
        send_all(world)
        (row,) = deliveries(world, made)
        assert (row["state"], row["status"], row["answer"], row["delivered_at"]) == ("pending", status, kept, None)
        with world.database.read() as session:
            pauses.append((session.scalars(select(WebhookDelivery)).one().due_at - now()).total_seconds())
        send_all(world)  # not due yet
        make_due(world)
    send_all(world)
    (row,) = deliveries(world, made)
    assert (row["state"], row["status"], row["answer"], row["attempts"]) == ("delivered", 299, "thanks", 3)
    assert row["delivered_at"] is not None
    assert receiver.ids() == [row["id"]] * 3
    assert 11 < pauses[0] < 18
    assert 46 < pauses[1] < 72


def test_a_delivery_that_fails_eight_times_ends_and_can_be_replayed(world: World, receiver: Receiver) -> None:
    add_model(world)
    made = add_webhook(world, receiver.url)
    happen(world, "release.publish")
    receiver.answer = lambda _: (503, {}, b"")
    for _ in range(10):
        send_all(world)
        make_due(world)
    (row,) = deliveries(world, made)
    assert (row["state"], row["attempts"], row["due_at"]) == ("failed", 8, None)
    assert len(receiver.received) == 8
    receiver.answer = lambda _: (200, {}, b"")
    again = world.client("alice").post(f"{HERE}/{made['id']}/deliveries/{row['id']}/replay").json()
    send_all(world)
    found = {row["replay"]: row for row in deliveries(world, made)}
    assert found[0] == row
    assert (found[1]["id"], found[1]["state"], found[1]["serial"]) == (again["id"], "delivered", row["serial"])
    assert receiver.ids()[8:] == [again["id"]]


def test_the_pauses_grow_over_a_day() -> None:
    least = sum(
        (delivery_service.pause(attempts) for attempts in range(1, delivery_service.MOST_ATTEMPTS)), timedelta()
    )
    assert timedelta(hours=18) < least < timedelta(hours=28)
    assert len({delivery_service.pause(1) for _ in range(10)}) > 1


def test_nobody_fills_the_queue_by_asking_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    add_model(world)
    monkeypatch.setattr(delivery_service, "MOST_PENDING", 3)
    made = add_webhook(world, "https://hooks.example.org/")
    client = world.client("alice")
    found = [client.post(f"{HERE}/{made['id']}/test") for _ in range(4)]
    assert [answer.status_code for answer in found] == [202, 202, 202, 429]
    assert client.post(f"{HERE}/{made['id']}/deliveries/{found[0].json()['id']}/replay").status_code == 429
    client.patch(f"{HERE}/{made['id']}", json={"active": False})
    assert client.post(f"{HERE}/{made['id']}/test").status_code == 409
    with world.database.read() as session:
        assert not delivery_service.waiting(session)  # what is off is not sent


def test_deliveries_come_in_pages_newest_first(world: World) -> None:
    add_model(world)
    made = add_webhook(world, "https://hooks.example.org/")
    happen(world, *["patch.push"] * 5)
    with world.database.write() as session:
        delivery_service.collect(session)
    client, seen, cursor = world.client("alice"), [], None
    while True:
        query = {"limit": 2, **({"before": cursor} if cursor else {})}
        page = client.get(f"{HERE}/{made['id']}/deliveries", params=query).json()
        seen += [row["serial"] for row in page["items"]]
        if (cursor := page["next"]) is None:
            break
    assert len(seen) == 5
    assert seen == sorted(seen, reverse=True)


def test_many_couriers_send_each_delivery_once(world: World, receiver: Receiver) -> None:
    add_model(world)
    for number in range(4):
        add_webhook(world, f"{receiver.url}/{number}")
    happen(world, *["patch.push"] * 10)
    start = threading.Barrier(3)

    def work() -> None:
        made = courier(world)
        start.wait()
        send_all(world, made)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    send_all(world)
    assert len(receiver.received) == 40
    assert len(set(receiver.ids())) == 40
    with world.database.read() as session:
        assert {row.state for row in session.scalars(select(WebhookDelivery))} == {"delivered"}


def test_what_one_courier_has_claimed_another_skips(world: World, database_kind: str) -> None:
    if database_kind == "sqlite":
        pytest.skip("one writer at a time")
    add_model(world)
    for _ in range(2):
        add_webhook(world, "https://hooks.example.org/")
    happen(world, "patch.push")
    with world.database.write() as one, world.database.write() as other:
        other.execute(text("SET LOCAL lock_timeout = '2s'"))
        assert (delivery_service.collect(one), delivery_service.collect(other)) == (2, 0)
    with world.database.write() as one, world.database.write() as other:
        other.execute(text("SET LOCAL lock_timeout = '2s'"))
        (first,), (second,) = delivery_service.claim(one, (), 1), delivery_service.claim(other, (), 8)
    assert first.delivery_id != second.delivery_id


def test_a_slow_receiver_keeps_nobody_else_waiting(world: World, receiver: Receiver) -> None:
    add_model(world)
    over = threading.Event()

    def answer(request: Received) -> tuple[int, dict[str, str], bytes]:
        if request.path == "/slow":
            over.wait(30)
        return 204, {}, b""

    receiver.answer = answer
    slow = add_webhook(world, f"{receiver.url}/slow")
    quick = add_webhook(world, f"{receiver.url}/quick")
    happen(world, *["patch.push"] * 6)
    made = courier(world, seconds=0.5)
    try:
        while made.step():
            pass
    finally:
        over.set()
    assert [row["state"] for row in deliveries(world, quick)] == ["delivered"] * 6
    rows = deliveries(world, slow)
    assert [row["state"] for row in rows] == ["pending"] * 6
    assert sum(row["attempts"] for row in rows) == 1  # after which it rests
    (tried,) = [row for row in rows if row["attempts"]]
    assert (tried["status"], "within 0.5 seconds" in tried["answer"]) == (None, True)
    made.failures.clear()
    send_all(world, made)
    assert [row["state"] for row in deliveries(world, slow)].count("delivered") == 5


def test_no_transaction_is_open_while_a_receiver_thinks(world: World, receiver: Receiver) -> None:
    add_model(world)
    made = add_webhook(world, receiver.url)
    happen(world, "release.publish")
    seen: list[Any] = []

    def answer(_: Received) -> tuple[int, dict[str, str], bytes]:
        happen(world, "release.yank")  # would wait for a writer
        seen.extend(deliveries(world, made))
        return 204, {}, b""

    receiver.answer = answer
    assert courier(world).step()
    assert (seen[0]["state"], seen[0]["attempts"]) == ("pending", 1)


def test_a_delivery_whose_webhook_is_deleted_meanwhile_ends_quietly(world: World, receiver: Receiver) -> None:
    add_model(world)
    made = add_webhook(world, receiver.url)
    happen(world, "release.publish")
    receiver.answer = lambda _: (world.client("alice").delete(f"{HERE}/{made['id']}").status_code, {}, b"")
    send_all(world)
    (delivery,) = receiver.ids()
    gone = delivery_service.DueDelivery(
        uuid.UUID(delivery), uuid.UUID(made["id"]), 1, receiver.url, "", "release.publish", 1
    )
    with world.database.write() as session:
        assert session.scalars(select(WebhookDelivery)).all() == []
        assert delivery_service.finish(session, gone, Reply(204, "")) is None


def test_of_two_couriers_with_the_same_delivery_the_success_counts(world: World) -> None:
    add_model(world)
    made = add_webhook(world, "https://hooks.example.org/")
    happen(world, "release.publish")
    claims = []
    for _ in range(2):
        with world.database.write() as session:
            delivery_service.collect(session)
            claims += delivery_service.claim(session, (), 8)
        make_due(world)  # as if the lease had run out
    first, second = claims
    assert (first.delivery_id, first.attempt, second.attempt) == (second.delivery_id, 1, 2)
    for claim, status, state in ((first, 500, "pending"), (first, 200, "delivered"), (second, 500, "delivered")):
        with world.database.write() as session:
            assert delivery_service.finish(session, claim, Reply(status, str(status))) == state
    (row,) = deliveries(world, made)
    assert (row["status"], row["answer"]) == (200, "200")


def test_old_deliveries_are_forgotten_and_waiting_ones_are_not(world: World, receiver: Receiver) -> None:
    add_model(world)
    made = add_webhook(world, receiver.url)
    happen(world, "release.publish", "release.yank", "patch.push")
    send_all(world)
    with world.database.write() as session:
        old, waiting, _ = session.scalars(select(WebhookDelivery)).all()
        old.created_at = waiting.created_at = now() - timedelta(days=31)
        waiting.state = "pending"
    courier(world).sweep()
    assert len(deliveries(world, made)) == 2


def test_a_broken_delivery_stops_no_other(world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    from registry.services.events import payloads

    add_model(world)
    made = add_webhook(world, receiver.url)
    happen(world, "release.publish", "patch.push")
    real = payloads.describe

    def describe(session: Any, event: AuditEvent, *rest: Any) -> Any:
        if event.action == "release.publish":
            raise ZeroDivisionError
        return real(session, event, *rest)

    monkeypatch.setattr(payloads, "describe", describe)
    send_all(world)
    found = {row["event"]: row for row in deliveries(world, made)}
    assert (found["patch.push"]["state"], found["release.publish"]["state"]) == ("delivered", "pending")
    assert "could not send" in found["release.publish"]["answer"]


@pytest.mark.timeout(120)
def test_a_courier_killed_between_sending_and_writing_down_loses_nothing(
    tmp_path: Path, migrated_url: str, receiver: Receiver
) -> None:
    """The receiver kills the process that calls it; the delivery is repeated, under the same id."""
    with (
        open_registry(tmp_path / "registry", migrated_url, webhook_private=True) as registry,
        open_world(registry.data, migrated_url, webhook_private=True) as world,
    ):
        add_model(world)
        made = add_webhook(world, receiver.url)
        happen(world, "release.publish")
        started = threading.Event()

        def kill(_: Received) -> tuple[int, dict[str, str], bytes]:
            started.wait(60)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return 204, {}, b""

        receiver.answer = kill  # before the start, since the process may call at once
        process = registry.start("worker")
        started.set()
        assert process.wait(60) == -signal.SIGKILL
        (row,) = deliveries(world, made)
        assert (row["state"], row["attempts"], row["status"]) == ("pending", 1, None)
        receiver.answer = lambda _: (204, {}, b"")
        send_all(world)
        assert len(receiver.received) == 1  # the dead courier's lease holds
        make_due(world)
        registry.start("worker")
        until(lambda: deliveries(world, made)[0]["state"] == "delivered")
        assert receiver.ids() == [row["id"]] * 2


def test_the_server_that_people_start_sends_too(tmp_path: Path, migrated_url: str, receiver: Receiver) -> None:
    with open_registry(tmp_path / "registry", migrated_url, webhook_private=True) as registry:
        registry.serve()
        with open_world(registry.data, migrated_url, webhook_private=True) as world:
            add_model(world)
            made = add_webhook(world, receiver.url)
            world.client("alice").post(f"{HERE}/{made['id']}/test")
            until(lambda: deliveries(world, made)[0]["state"] == "delivered")
    assert receiver.events() == ["webhook.test"]


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
