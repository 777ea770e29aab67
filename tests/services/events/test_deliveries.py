"""Deliveries: each event is delivered at least once, to every webhook that wants it."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from registry.db.audit import newest_serial
from registry.db.tables import AuditEvent, Webhook, WebhookDelivery, now
from registry.outside.egress import Reply
from registry.services.events import deliveries as delivery_service
from tests.support.receivers import Receiver
from tests.support.webhooks import HERE, PUBLIC, add_webhook, courier, deliveries, happen, make_due, send_all
from tests.support.world import World, add_model

pytestmark = pytest.mark.heavy


@pytest.fixture
def world_settings() -> dict[str, Any]:
    """It may call this machine."""
    return {"webhook_private": True, "public_url": f"{PUBLIC}/"}


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
