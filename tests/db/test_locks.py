"""Locks that machines share: one holder, or several that share it, and none that died."""

import threading

import pytest
import sqlalchemy

from registry.db import locks
from registry.db.session import make_engine


def test_locks_of_postgresql_exclude_each_other_and_end_with_their_holder(postgres_url: str) -> None:
    one, two = make_engine(postgres_url), make_engine(postgres_url)
    with locks.holding(one, "gc", False, False) as held:
        assert held
        for shared in (False, True):
            with locks.holding(two, "gc", shared, False) as other:
                assert not other
        with locks.holding(two, "scrub", False, False) as other:
            assert other, "it is another lock"
    with locks.holding(one, "gc", True, False) as first, locks.holding(two, "gc", True, False) as second:
        assert first and second
        with locks.holding(two, "gc", False, False) as third:
            assert not third
    with pytest.raises(RuntimeError), locks.holding(one, "gc", False, False):
        raise RuntimeError("in the middle")
    with locks.holding(two, "gc", False, False) as free:
        assert free
    connection = one.connect()  # of a holder that dies
    connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:n)"), {"n": locks.number_of("gc")})
    got = threading.Event()

    def wait() -> None:
        with locks.holding(two, "gc", False, True):
            got.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not got.wait(0.2)
    connection.invalidate()
    assert got.wait(30)
    thread.join()
    one.dispose()
    two.dispose()
