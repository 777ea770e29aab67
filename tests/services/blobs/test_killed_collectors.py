"""Collectors that are killed: the next one finishes what they began."""

import os
import signal
import time
import uuid

import pytest

from registry.services.blobs import damage
from tests.support import launcher
from tests.support.blobs import collect, orphan, refer
from tests.support.collecting import state
from tests.support.world import World, upload

KILLED = """
import os, signal, sys
from datetime import timedelta
from pathlib import Path
from registry.db.session import open_database
from registry.services.blobs import garbage
from registry.storage.store import Store

url, data, module, name, turn = sys.argv[1:]
owner = {"garbage": garbage, "path": Path, "store": Store}[module]
real, left = getattr(owner, name), [int(turn)]

def dying(*args, **words):
    found = real(*args, **words)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return found

setattr(owner, name, dying)
garbage.run(open_database(url), Store(Path(data)), timedelta(0))
"""


def kill_in(world: World, module: str, name: str, turn: int) -> None:
    """Collect in a process that is killed once a function was called a number of times."""
    arguments = [str(world.settings.database), str(world.settings.data), module, name, str(turn)]
    done = launcher.run(KILLED, *arguments, environment=os.environ)
    assert done.returncode == -signal.SIGKILL, done.stderr


POINTS = [("garbage", "doom", 1), ("garbage", "delete", 1), ("store", "set_aside", 1), ("store", "set_aside", 3)]
POINTS += [("garbage", "disk_bytes", 1), ("path", "unlink", 1), ("path", "unlink", 2)]


@pytest.mark.parametrize("point", POINTS, ids=lambda point: f"{point[1]}-{point[2]}")
def test_the_next_collector_finishes_what_a_killed_one_began(world: World, point: tuple[str, str, int]) -> None:
    world.token("alice")
    kept = upload(world.client(), b"kept")
    garbage_blobs = [orphan(world, bytes([number]) * 9) for number in range(3)]
    (world.store.staging / f"upload-{uuid.uuid4().hex}").touch()
    kill_in(world, *point)
    time.sleep(0.2)  # until PostgreSQL has noticed
    with world.database.write() as session:
        refer(session, kept)
    assert world.store.exists(kept)
    collect(world)
    assert [state(world, sha256) for sha256 in garbage_blobs] == ["gone"] * 3
    assert list(world.store.digests()) == [kept]
    assert not list(world.store.staging.iterdir())
    assert list(damage.check(world.database, world.store)) == []


def test_what_is_wanted_again_after_a_kill_is_put_back(world: World) -> None:
    world.token("alice")
    wanted, sent_again, _ = (orphan(world, data) for data in (b"wanted", b"again", b"neither"))
    kill_in(world, "store", "set_aside", 3)
    assert not list(world.store.digests())
    time.sleep(0.2)
    with world.database.write() as session:
        refer(session, wanted)
    upload(world.client(), b"again")
    collect(world)
    assert list(world.store.digests()) == sorted([wanted, sent_again])
    assert not list(world.store.staging.iterdir())
    assert list(damage.check(world.database, world.store)) == []
