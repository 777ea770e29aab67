"""Fixtures of tests of services."""

from typing import Any

import pytest
import sqlalchemy

from registry.db.tables import User
from tests.support.lives import PEOPLE
from tests.support.world import World


@pytest.fixture
def quick(world: World) -> World:
    """A registry that need not survive a power cut."""

    def forget(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        lite = world.database.engine.dialect.name == "sqlite"
        cursor.execute("PRAGMA synchronous=OFF" if lite else "SET synchronous_commit TO OFF")
        cursor.close()
        if not lite:
            connection.commit()

    world.database.engine.dispose()
    sqlalchemy.event.listen(world.database.engine, "connect", forget)
    for user in ("owner", "chief", *PEOPLE):
        world.token(user, admin=user == "chief")
    with world.database.read() as session:
        assert session.query(User).count() == 6
    return world
