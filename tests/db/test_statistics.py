"""Statistics of the tables: a sweep of the worker renews them."""

import pytest
from sqlalchemy import text

from tests.support.world import World, enqueue

COUNTED = {
    "sqlite": "SELECT max(stat) FROM sqlite_stat1 WHERE tbl = 'jobs'",
    "postgresql": "SELECT reltuples::int FROM pg_class WHERE relname = 'jobs'",
}


@pytest.mark.slow
def test_a_sweep_renews_the_statistics(world: World) -> None:
    kind = world.database.engine.dialect.name
    enqueue(world, 1200)
    world.worker.sweep()
    with world.database.read() as session:
        known = session.scalar(text(COUNTED[kind]))
    assert 1000 <= int(str(known).split()[0]) <= 1400  # SQLite estimates


def test_connections_of_sqlite_are_opened_anew_to_read_them(world: World) -> None:
    assert world.database.engine.dialect.name != "sqlite" or 0 < world.database.engine.pool._recycle <= 600
