"""Couriers: many send side by side, and one that is killed loses nothing."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from registry.db.tables import WebhookDelivery
from registry.outside.egress import Reply
from registry.services.events import deliveries as delivery_service
from tests.support.processes import open_registry, until
from tests.support.receivers import Received, Receiver
from tests.support.webhooks import HERE, PUBLIC, add_webhook, courier, deliveries, happen, make_due, send_all
from tests.support.world import World, add_model, open_world

pytestmark = pytest.mark.heavy


@pytest.fixture
def world_settings() -> dict[str, Any]:
    """It may call this machine."""
    return {"webhook_private": True, "public_url": f"{PUBLIC}/"}


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
