"""Measures: what the database says of a registry that somebody watches."""

import uuid
from datetime import timedelta
from typing import Any

from sqlalchemy import select

from registry.db.tables import Job, Namespace, Webhook, WebhookDelivery, Worker, now
from registry.services.events import deliveries
from registry.services.operating import measures
from registry.services.people.actors import record
from registry.worker.courier import Courier
from tests.support.blobs import orphan, refer
from tests.support.world import World, enqueue

HOUR = timedelta(hours=1)
HOOK = {"url": "https://hooks.example.org/"}


def measured(world: World, quota_bytes: int = 1000, bucket_least: int | None = 2) -> dict[str, Any]:
    """Return the numbers by name, those with labels by these."""
    with world.database.read() as session:
        found = measures.read(session, quota_bytes=quota_bytes, bucket_least=bucket_least)
    return {measure.name: measure.values.get((), measure.values) for measure in found}


def test_an_empty_registry_has_nothing_that_an_alert_could_mean(world: World) -> None:
    found = measured(world)
    assert {name for name, value in found.items() if isinstance(value, float | int) and value} == set()
    assert found["registry_workers"] == {("idle",): 0, ("busy",): 0, ("dead",): 0}
    assert not any(name.startswith("registry_bucket") for name in measured(world, bucket_least=None))


def test_the_queue_ages_while_workers_are_idle_busy_or_gone(world: World) -> None:
    (waiting,) = enqueue(world)
    enqueue(world, kind="rebuild", user="bob")
    with world.database.write() as session:
        session.get_one(Job, waiting.id).created_at = now() - HOUR
        session.scalars(select(Job).where(Job.kind == "rebuild")).one().state = "done"
        running = Job(kind="check", key="k", model="alice/m", subject="#1", payload={}, user_id=waiting.user_id)
        running.state, running.worker = "running", "busy"
        session.add_all([running, Worker(name="busy", device="cpu"), Worker(name="idle", device="cpu")])
        session.add(Worker(name="gone", device="cpu", seen_at=now() - HOUR))
    found = measured(world)
    assert 3600 <= found["registry_queue_age_seconds"].pop(("compose",)) < 3700
    assert found["registry_queue_age_seconds"] == {}
    assert found["registry_workers"] == {("idle",): 1, ("busy",): 1, ("dead",): 1}


def test_blobs_quotas_and_the_bucket_are_measured(world: World) -> None:
    wanted = orphan(world, b"wanted", HOUR, checked_at=now() - 2 * HOUR)
    orphan(world, b"copied", bucketed_at=now())
    orphan(world, b"!", damaged_at=now(), checked_at=now() - 9 * HOUR)
    world.token("alice")
    with world.database.write() as session:
        refer(session, wanted)
        session.scalars(select(Namespace).where(Namespace.name == "alice")).one().used_bytes = 950
    found = measured(world)
    assert (found["registry_blobs"], found["registry_blob_bytes"]) == ({("live",): 3}, {("live",): 13})
    assert (found["registry_damaged_blobs"], found["registry_quota_nearly_full"]) == (1, 1)
    assert measured(world, quota_bytes=2000)["registry_quota_nearly_full"] == 0
    assert 7200 <= found["registry_scrub_age_seconds"] < 7300
    assert (found["registry_bucket_waiting_blobs"], found["registry_bucket_waiting_bytes"]) == (1, 6)
    assert 3600 <= found["registry_bucket_waiting_seconds"] < 3700


def test_webhooks_that_nobody_sends_and_those_that_fail_are_told_apart(world: World) -> None:
    enqueue(world)
    client = world.client("alice")
    made = [client.post("/api/v1/models/alice/m/webhooks", json=HOOK).json()["id"] for _ in range(2)]
    client.patch(f"/api/v1/models/alice/m/webhooks/{made[1]}", json={"active": False})
    with world.database.write() as session:
        hook = session.get_one(Webhook, uuid.UUID(made[0]))
        record(session, None, "release.publish", "alice/m@1.0.0", None)
    assert measured(world)["registry_webhook_events_behind"] == 4  # two creations, one turned off, and this
    with world.database.write() as session:
        deliveries.collect(session)
        delivery = WebhookDelivery(webhook_id=hook.id, event_serial=1, due_at=now() - HOUR)
        session.add(delivery)
    found = measured(world)
    assert (found["registry_webhook_events_behind"], found["registry_webhooks_failing"]) == (0, 0)
    assert found["registry_webhooks"] == {("on",): 1, ("off",): 1}
    assert 3600 <= found["registry_webhook_late_seconds"] < 3700
    courier = Courier(world.settings, world.database)
    courier.deliver(deliveries.DueDelivery(delivery.id, hook.id, 1, "http://10.0.0.1/", hook.secret, "x", 1))
    assert courier.metrics.registry.get_sample_value("registry_webhook_attempts_total", {"outcome": "failed"}) == 1
    with world.database.write() as session:
        session.get_one(WebhookDelivery, delivery.id).attempts = 1
    assert measured(world)["registry_webhooks_failing"] == 1
