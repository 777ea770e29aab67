"""Garbage collection removes nothing that a row refers to, and everything else in the end."""

import json
import os
import time
import uuid
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from registry.cli import app
from registry.db.tables import Blob, Job, UploadSession, now
from registry.db.tables.declare import Table
from registry.services.blobs import blobs, damage, garbage
from registry.services.blobs.garbage import Amount
from registry.services.people import actors
from tests.support.blobs import DATA, NONE, collect, orphan, refer
from tests.support.collecting import DAY, actor, state
from tests.support.world import World, announce, put_part, upload


def test_every_column_that_names_a_blob_keeps_it() -> None:
    foreign = {
        column
        for table in Table.metadata.tables.values()
        for column in table.columns
        for key in column.foreign_keys
        if key.target_fullname == "blobs.sha256"
    }
    assert {owner.property.columns[0] for owner in blobs.OWNERS} == foreign | {UploadSession.__table__.c.sha256}


def test_an_old_orphan_is_doomed_and_goes_after_a_second_grace(world: World) -> None:
    young, old = orphan(world, b"young", DAY - timedelta(minutes=1)), orphan(world, b"old", DAY)
    assert collect(world, DAY).doomed == Amount(1, 3)
    assert (state(world, young), state(world, old)) == ("live", "doomed")
    assert collect(world, DAY) == garbage.Collected(*[Amount()] * 5)
    with world.database.write() as session:
        session.get_one(Blob, old).doomed_at = now() - DAY / garbage.DOOMED_SHARE
    assert collect(world, DAY).deleted == Amount(1, 3)
    assert (state(world, young), state(world, old)) == ("live", "gone")


def test_without_a_grace_it_goes_at_once(world: World) -> None:
    many = [orphan(world, bytes([number]) * 3) for number in range(garbage.BATCH + 1)]
    found = collect(world)
    assert found.doomed == found.deleted == Amount(len(many), 3 * len(many))
    assert not list(world.store.digests())
    assert not list(world.store.staging.iterdir())


def test_a_lease_keeps_what_nothing_refers_to(world: World) -> None:
    sha256 = orphan(world, age=10 * DAY, leased_until=now() + timedelta(minutes=1))
    collect(world)
    assert state(world, sha256) == "live"


def test_an_upload_keeps_its_bytes_until_it_expires(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "LEASE", NONE)
    sha256 = upload(world.client(), DATA)
    collect(world)
    assert state(world, sha256) == "live"
    with world.database.write() as session:
        session.scalars(select(UploadSession)).one().expires_at = now()
    found = collect(world)
    assert (found.uploads, found.deleted) == (Amount(1, 2500), Amount(1, 2500))
    assert state(world, sha256) == "gone"


def test_bytes_sent_before_are_leased_when_they_are_announced_again(world: World) -> None:
    sha256 = upload(world.client(), DATA)
    with world.database.write() as session:
        row = session.get_one(Blob, sha256)
        row.state, row.doomed_at, row.leased_until = "doomed", now() - 10 * DAY, now() - 10 * DAY
        session.scalars(select(UploadSession)).one().expires_at = now()  # expired, but not swept yet
    assert announce(world.client(), DATA)["state"] == "done"
    with world.database.read() as session:
        row = session.get_one(Blob, sha256)
        assert (row.state, row.doomed_at) == ("live", None)
        assert row.leased_until > now() + blobs.LEASE * 0.9
    collect(world)
    assert state(world, sha256) == "live"


def test_a_doomed_blob_lives_again_when_its_bytes_are_sent_again(world: World) -> None:
    sha256 = orphan(world, age=10 * DAY, state="doomed", doomed_at=now() - 10 * DAY)
    upload(world.client(), DATA)
    collect(world)
    assert state(world, sha256) == "live"
    assert list(damage.check(world.database, world.store)) == []


def test_a_doomed_blob_that_a_row_refers_to_is_pardoned(world: World) -> None:
    world.token("alice")
    sha256 = orphan(world, age=10 * DAY, state="doomed", doomed_at=now() - 10 * DAY)
    with world.database.write() as session:
        refer(session, sha256)
    assert collect(world).deleted == Amount()
    assert state(world, sha256) == "live"


def test_a_lease_only_moves_forward(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    far = now() + 100 * DAY
    sha256 = orphan(world, leased_until=far)
    with world.database.write() as session:
        assert blobs.lease(session, [sha256, "0" * 64]) == {sha256: 2500}
        assert session.get_one(Blob, sha256).leased_until == far


def test_a_file_without_a_row_gets_one_and_its_whole_grace(world: World) -> None:
    sha256, _ = world.store.put([DATA])
    assert collect(world, DAY, orphans=False).orphans == Amount()
    assert collect(world, DAY).orphans == Amount(1, 2500)
    assert state(world, sha256) == "live"
    collect(world)
    assert state(world, sha256) == "gone"


def test_an_orphan_that_somebody_else_clears_away_meanwhile_is_passed_over(world: World) -> None:
    gone, there = "0" * 64, world.store.put([DATA])[0]
    with world.database.write() as session:
        assert blobs.adopt(session, world.store, [gone, there]) == {there: 2500}
    with world.database.read() as session:
        assert session.get(Blob, gone) is None


def test_staged_files_of_dead_processes_are_removed_and_those_of_running_jobs_stay(world: World) -> None:
    with world.database.write() as session:
        user = actors.authenticate(session, world.token("alice")) if world.tokens else None
    user = user or actor(world)
    job = Job(kind="compose", key="k", model="a/b", subject="s", payload={}, user_id=user.user_id)
    job.state, job.attempt = "running", 3
    with world.database.write() as session:
        session.add(job)
    kept, old = {f"job-{job.id.hex}-3", "put-new", "mirror-new"}, {"put-old", "mirror-old"}
    dead = {f"job-{job.id.hex}-2", f"job-{uuid.uuid4().hex}-1", "job-what", f"upload-{uuid.uuid4().hex}", *old}
    for name in kept | dead:
        (world.store.staging / name).mkdir() if name.startswith("job") else (world.store.staging / name).touch()
    hours_ago = time.time() - 3 * 3600
    for name in old:
        os.utime(world.store.staging / name, (hours_ago, hours_ago))
    time.sleep(0.01)
    assert collect(world).staged.count == len(dead)
    assert {path.name for path in world.store.staging.iterdir()} == kept


def everything(world: World) -> Any:
    with world.database.read() as session:
        rows = [
            session.connection().exec_driver_sql(f"SELECT * FROM {table} ORDER BY 1").all()
            for table in ("blobs", "upload_sessions", "upload_parts", "audit_events")
        ]
    return rows, sorted(
        (str(path), path.stat().st_mtime_ns) for path in world.settings.data.rglob("*/*") if "db" not in path.name
    )


def litter(world: World) -> None:
    """Leave garbage of every kind."""
    put_part(world.client(), announce(world.client(), b"open" * 500), b"open" * 500, 0)
    upload(world.client(), b"sent")
    with world.database.write() as session:
        for row in session.scalars(select(UploadSession)):
            row.expires_at = now()
        for blob in session.scalars(select(Blob)):
            blob.leased_until = now()
    orphan(world, b"old", 10 * DAY)
    orphan(world, b"doomed", 10 * DAY, state="doomed", doomed_at=now() - DAY)
    world.store.put([b"no row"])
    (world.store.staging / f"upload-{uuid.uuid4().hex}").touch()


@pytest.mark.parametrize("grace", [DAY, NONE])
def test_a_dry_run_returns_what_would_be_removed_and_changes_nothing(world: World, grace: timedelta) -> None:
    litter(world)
    before = everything(world)
    would = collect(world, grace, dry=True)
    assert everything(world) == before
    assert collect(world, grace) == would
    assert would.uploads.count == 2
    assert would.staged.count == 2
    assert would.orphans == Amount(1, 6)
    assert (would.doomed.count, would.deleted.count) == ((1, 1) if grace else (3, 4))
    assert everything(world) != before


def test_the_command_says_it_too(world: World) -> None:
    litter(world)
    before = everything(world)
    environment = {"DATABASE_URL": str(world.settings.database_url)}

    def gc(*options: str) -> str:
        done = CliRunner().invoke(app, ["gc", "--data", str(world.settings.data), *options], env=environment)
        assert done.exit_code == 0, done.output
        return done.output

    assert "4 blobs deleted" in gc("--dry-run", "--grace", "0")
    found = json.loads(gc("--dry-run", "--json"))
    assert (found["dry_run"], found["deleted"]) == (True, {"count": 1, "bytes": 6})
    assert everything(world) == before
    assert "1 blobs deleted (6 bytes)" in gc()
    assert "3 blobs deleted" in gc("--grace", "0")
    assert not list(world.store.digests())
    assert list(damage.check(world.database, world.store)) == []
