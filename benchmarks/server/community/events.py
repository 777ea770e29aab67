"""Audit events, a quarter of them about the large model."""

import random
import uuid
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, select

from benchmarks.server.community.rows import START, Rows
from benchmarks.server.community.sizes import NAME, Sizes
from registry.db import tables
from registry.db.audit import hash_event

ACTIONS = ("patch.push", "patch.checked", "patch.propose", "patch.accept", "model.update", "recipe.compose")
ACTIONS += ("release.publish", "token.create", "job.cancel", "evaluation.add")
COLUMNS = ("serial", "at", "user_id", "user_name", "token_prefix", "action", "subject", "model_id", "after")
COLUMNS += ("previous_hash", "hash")


def add_events(connection: Connection, rows: Rows, sizes: Sizes) -> None:
    """Add events to the chain."""
    models = [key for (key,) in connection.execute(select(tables.Model.id).order_by(tables.Model.created_at))]
    people = list(connection.execute(select(tables.User.id, tables.User.name).order_by(tables.User.name)))
    serial, before = connection.execute(select(tables.AuditHead.serial, tables.AuditHead.hash)).one()
    head = {"serial": serial, "hash": before}

    def chained() -> Iterator[dict[str, Any]]:
        for event in events(models, people, sizes.events):
            event.serial, event.previous_hash = head["serial"] + 1, head["hash"]
            event.hash = hash_event(event)
            head.update(serial=event.serial, hash=event.hash)
            yield {name: getattr(event, name) for name in COLUMNS}

    rows.add(tables.AuditEvent, chained())
    connection.execute(tables.AuditHead.__table__.update().values(**head))


def events(models: Sequence[uuid.UUID], people: Sequence[Any], count: int) -> Iterator[tables.AuditEvent]:
    """Yield events that are in no chain yet; the first model is the large one."""
    chance = random.Random(1)  # noqa: S311
    for n in range(count):
        user_id, user_name = people[n % len(people)]
        place = 0 if chance.random() < 0.25 else chance.randrange(len(models))
        yield tables.AuditEvent(
            at=START + timedelta(seconds=n),
            user_id=user_id,
            user_name=user_name,
            token_prefix="hf_abcdef",  # noqa: S106
            action=ACTIONS[n % len(ACTIONS)],
            subject=f"{NAME}#{n % 97}",
            model_id=models[place],
            before=None,
            after={"number": n},
            request_id=None,
        )
