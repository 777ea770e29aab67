"""The courier: who is sent to when a receiver fails, and what is written down when something goes wrong."""

import json
import uuid
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from registry.db.session import Database
from registry.db.tables import WebhookDelivery, now
from registry.outside.egress import Egress
from registry.services.events import deliveries
from registry.worker import courier as couriers
from registry.worker.courier import Courier
from tests.support.receivers import Received, Receiver
from tests.support.world import World, add_model

HERE = "/api/v1/models/alice/m/webhooks"
AWAY = OperationalError("UPDATE", {}, Exception("server closed the connection"))


@pytest.fixture
def world_settings() -> dict[str, Any]:
    """It may call this machine."""
    return {"webhook_private": True}


@pytest.fixture
def courier(world: World) -> Courier:
    add_model(world)
    return Courier(world.settings, world.database, Egress(private=True))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The courier's clock, which goes when it is set."""
    made = [1000.0]
    monkeypatch.setattr(couriers.time, "monotonic", lambda: made[0])
    return made


def add(world: World, url: str) -> uuid.UUID:
    answer = world.client("alice").post(HERE, json={"url": url})
    assert answer.status_code == 201, answer.text
    return uuid.UUID(answer.json()["id"])


def ping(world: World, webhook: uuid.UUID) -> None:
    assert world.client("alice").post(f"{HERE}/{webhook}/test").status_code == 202


def rows(world: World) -> list[WebhookDelivery]:
    with world.database.read() as session:
        return list(session.scalars(select(WebhookDelivery)))


def make_due(world: World) -> None:
    with world.database.write() as session:
        for row in session.scalars(select(WebhookDelivery).where(WebhookDelivery.state == "pending")):
            row.due_at = now()


def test_a_webhook_that_fails_rests_twice_as_long_each_time_up_to_five_minutes(
    courier: Courier, clock: list[float]
) -> None:
    webhook, rests = uuid.uuid4(), list[float]()
    for _ in range(10):
        courier.note(webhook, False)
        rests.append(courier.failures[webhook][1] - clock[0])
    assert rests == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    courier.failures[webhook] = (5000, 0.0)
    courier.note(webhook, False)
    assert courier.failures[webhook] == (5001, clock[0] + 300), "whatever the count"
    courier.note(webhook, True)
    assert courier.failures == {}
    courier.note(webhook, False)
    assert courier.failures[webhook] == (1, clock[0] + 2)


def test_while_a_webhook_rests_only_others_are_sent_to(
    world: World, courier: Courier, receiver: Receiver, clock: list[float]
) -> None:
    broken, sound = add(world, f"{receiver.url}/broken"), add(world, f"{receiver.url}/sound")
    receiver.answer = lambda request: (500 if request.path == "/broken" else 204, {}, b"")
    ping(world, broken)
    assert courier.step() is True
    make_due(world)
    ping(world, sound)
    while courier.step():
        pass
    assert [request.path for request in receiver.received] == ["/broken", "/sound"]
    clock[0] += 2.5
    assert courier.step() is True
    assert [request.path for request in receiver.received] == ["/broken", "/sound", "/broken"]


def test_an_address_that_may_not_be_called_is_written_down_as_a_sentence(world: World, receiver: Receiver) -> None:
    """As when the operator forbids private addresses after a webhook was made."""
    add_model(world)
    ping(world, add(world, receiver.url))
    strict = Courier(world.settings, world.database, Egress(private=False))
    assert strict.step() is True
    (row,) = rows(world)
    assert (row.state, row.attempts, row.status) == ("pending", 1, None)
    assert "https://" in (row.answer or "")
    assert receiver.received == []


def test_what_cannot_be_written_down_is_sent_again_under_the_same_id_when_the_lease_ends(
    world: World, receiver: Receiver
) -> None:
    away: list[bool] = []

    class Failing(Database):
        def write(self) -> Any:
            if away:
                raise AWAY
            return super().write()

    def arrive(_: Received) -> tuple[int, dict[str, str], bytes]:
        away.append(True)
        return 204, {}, b""

    add_model(world)
    ping(world, add(world, receiver.url))
    receiver.answer = arrive
    failing = Courier(world.settings, Failing(world.database.engine), Egress(private=True))
    assert failing.step() is True
    (row,) = rows(world)
    assert (row.state, row.attempts, row.status) == ("pending", 1, None)
    away.clear()
    assert failing.step() is False
    make_due(world)
    receiver.answer = lambda _: (204, {}, b"")
    assert failing.step() is True
    assert [row.state for row in rows(world)] == ["delivered"]
    assert len(receiver.received) == 2
    assert len(set(receiver.ids())) == 1
    assert json.loads(receiver.received[0].body) == json.loads(receiver.received[1].body)


def test_the_loop_survives_a_database_that_is_away_and_sweeps_at_start_and_every_ten_minutes(
    courier: Courier, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, sweeps, pauses = list[float](), list[float](), list[float]()

    def step() -> bool:
        steps.append(clock[0])
        clock[0] += 300
        if len(steps) == 2:
            raise AWAY
        if len(steps) == 5:
            courier.stopping.set()
        return len(steps) == 1

    monkeypatch.setattr(courier, "step", step)
    monkeypatch.setattr(courier, "sweep", lambda: sweeps.append(clock[0]))
    monkeypatch.setattr(courier.stopping, "wait", lambda seconds: pauses.append(seconds) or courier.stopping.is_set())
    courier.run()
    assert len(steps) == 5
    assert sweeps == [1000.0, 1600.0, 2200.0]
    assert pauses == [courier.settings.poll_seconds] * 4  # none after the step that had something to do


def test_a_delivery_waits_for_no_time_that_a_wrong_clock_set(
    world: World, courier: Courier, receiver: Receiver
) -> None:
    webhook = add(world, receiver.url)
    for _ in range(3):
        ping(world, webhook)
    day = timedelta(days=1)
    with world.database.write() as session:
        fresh, tried, late = session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.event_serial))
        fresh.due_at, tried.due_at, late.due_at = now() + day, now() + day, now() + day / 2
        tried.attempts, late.attempts = 2, 7
    courier.sweep()
    with world.database.read() as session:
        due = session.scalars(deliveries.due().order_by(WebhookDelivery.event_serial)).all()
    assert [row.id for row in due] == [fresh.id, tried.id], "after seven attempts half a day is a fair pause"
