"""Garbage collection in tests: what is left of a blob, and for whom it was."""

from datetime import timedelta

from registry.db.tables import Blob
from registry.services.people import actors
from tests.support.world import World

DAY = timedelta(hours=24)


def state(world: World, sha256: str) -> str:
    with world.database.read() as session:
        row = session.get(Blob, sha256)
    assert (row is not None) == world.store.exists(sha256), "row and file come and go together"
    return row.state if row else "gone"


def actor(world: World, user: str = "alice") -> actors.Actor:
    secret = world.token(user)
    with world.database.read() as session:
        return actors.authenticate(session, secret)
