"""A full disk: the registry leaves room for its database, and `crumb-server gc` makes room."""

import os
import random
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner

from registry.cli import app
from registry.db.tables import UploadSession, now
from registry.storage.folder import BALLAST_BYTES
from tests.support import launcher
from tests.support.community import URL, Community
from tests.support.launcher import SERVER
from tests.support.world import announce, content_digest, digest, open_world, upload

MiB = 2**20
RESERVE = 4 * MiB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={24 * MiB},mode=700", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no disk may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Write until there is no room at all."""
    with (disk / "foreign").open("ab", buffering=0) as file:
        size = MiB
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2


def free(disk: Path) -> int:
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize


def test_uploads_leave_the_reserve_so_that_everything_else_goes_on(disk: Path) -> None:
    url = f"sqlite:///{disk / 'registry.db'}"
    with open_world(disk, url, reserve_bytes=RESERVE, part_bytes=MiB) as world:
        client, data = world.client(), random.Random(1).randbytes(14 * MiB)
        refused = client.post("/api/v1/uploads", json={"sha256": "0" * 64, "size": 20 * MiB})
        assert refused.status_code == 413
        statuses, both = set[int](), (data, data[1:])  # there is room for each of them alone
        sessions = [announce(client, sent) for sent in both]
        for session, sent in zip(sessions, both, strict=True):
            for part in range(14):
                piece = sent[part * MiB : (part + 1) * MiB]
                where = f"/api/v1/uploads/{session['id']}/parts/{part}"
                statuses.add(client.put(where, content=piece, headers=content_digest(piece)).status_code)
        assert statuses == {200, 507}
        assert free(disk) >= RESERVE - MiB
        created = client.post("/api/v1/tokens", json={"scopes": ["read"]})
        assert created.status_code == 201
        assert client.delete(f"/api/v1/uploads/{sessions[1]['id']}").status_code == 204
        assert free(disk) > RESERVE
        upload(client, b"room again")


def test_gc_makes_room_on_a_disk_that_others_have_filled(disk: Path) -> None:
    environment = {**os.environ, "REGISTRY_RESERVE_BYTES": str(RESERVE)}
    launcher.run(SERVER, "token", "create", "alice", "--data", str(disk), environment=environment, check=True)
    for name in (f"upload-{uuid.uuid4().hex}", "put-0"):
        (disk / "staging" / name).write_bytes(bytes(3 * MiB))
    os.utime(disk / "staging" / "put-0", (0, 0))
    fill(disk)
    for words in (("token", "create", "bob"), ("token", "revoke", "hf_abcdef"), ("check",), ("gc", "--dry-run")):
        refused = launcher.run(SERVER, *words, "--data", str(disk), environment=environment)
        assert (refused.returncode, refused.stderr.count("\n"), refused.stdout) == (1, 1, ""), refused.stderr
        assert "Traceback" not in refused.stderr
    collected = launcher.run(SERVER, "gc", "--data", str(disk), environment=environment)
    assert (collected.returncode, "2 staged files removed" in collected.stdout) == (0, True), collected.stderr
    assert free(disk) >= 5 * MiB
    launcher.run(SERVER, "token", "create", "bob", "--data", str(disk), environment=environment, check=True)
    assert (disk / "ballast").stat().st_size == BALLAST_BYTES


@pytest.mark.slow
def test_gc_frees_staged_files_before_it_writes_to_the_database(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_DATA", str(disk))
    with open_world(disk, f"sqlite:///{disk / 'registry.db'}") as world:
        world.token("alice")
        (disk / "staging" / f"upload-{uuid.uuid4().hex}").write_bytes(bytes(3 * MiB))
        for number in range(60):  # too many for what the log of the database has room for
            announce(world.client(), b"expires" * (number + 1))
        with world.database.write() as session:
            session.execute(update(UploadSession).values(expires_at=now()))
        with world.database.engine.connect() as connection:
            connection.connection.driver_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # type: ignore[union-attr]
        world.store.drop_ballast()
        fill(disk)
        with pytest.raises(OperationalError, match="full"), world.database.write() as session:
            session.execute(update(UploadSession).values(size=1))
        found = CliRunner().invoke(app, ["gc"])
        assert (found.exit_code, "1 staged files removed (3145728 bytes)" in found.output) == (0, True), found.output
        assert "60 uploads expired" in found.output
        world.token("bob")


@pytest.mark.heavy
def test_a_composition_without_room_is_composed_when_it_is_read(crew: Community) -> None:
    crew.world.worker.store.reserve = 2**62
    asked = {"alpha": "1", "patches": [{"number": 1}]}
    recipe = crew.post("bob", "/compositions", 202, **asked)["recipe"]["digest"]
    crew.world.work()
    assert crew.post("bob", "/compositions", 200, **asked)["held"] is False
    sent = crew.world.client().get(f"{URL}/revisions/{recipe}/files/model.safetensors")
    assert sent.headers["etag"] == f'"{digest(sent.content)}"'
