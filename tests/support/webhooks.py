"""Webhooks in tests: events of a model, and a courier that sends them."""

from typing import Any

from sqlalchemy import select

from registry.db.tables import AuditEvent, Model, WebhookDelivery, now
from registry.outside.egress import Egress
from registry.services.people.actors import record
from registry.worker.courier import Courier
from tests.support.world import World

MODEL = "alice/m"
HERE = f"/api/v1/models/{MODEL}/webhooks"
PUBLIC = "https://crumbs.example.org"


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
