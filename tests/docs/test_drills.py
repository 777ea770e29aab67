"""The commands of the operators' guides, run by bash as they are written there: the drill, incidents, going back."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from registry.db.session import open_database
from registry.services.operating import identity
from registry.storage.store import Store
from tests.support.community import NAME, Community
from tests.support.proxies import free_port

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
GUIDES = ROOT / "docs/guides/operate"
PROGRAMS = {"crumb": "client.cli", "crumb-server": "registry.cli"}


def written(page: str, name: str) -> str:
    """Return the commands of a page that are marked with a name."""
    text = (GUIDES / f"{page}.md").read_text("utf-8")
    (found,) = re.findall(rf"^<!-- run: {name} -->\n```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return str(found)


@dataclass
class Shell:
    """A folder in which an operator works, with a registry in ./registry-data and its backups elsewhere."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "registry-data"

    def run(self, commands: str, code: int = 0, **others: str) -> str:
        """Run commands as a shell script that ends at the first that fails; return all that they print."""
        words = {"/backups": str(self.folder / "backups"), "alice/tiny-llama": NAME, **others}
        for word, meant in words.items():
            commands = commands.replace(word, meant)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("REGISTRY_", "CRUMB_"))}
        environment = kept | {
            "PATH": f"{self.folder / 'bin'}:{kept['PATH']}",
            "PYTHONPATH": str(ROOT),
            "CRUMB_HOME": str(self.folder / "home"),
            "OMP_NUM_THREADS": "1",
        }
        with (self.folder / "said").open("w+") as said:  # a pipe would stay open as long as a server in the background
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", commands], cwd=self.folder, env=environment, stdout=said, stderr=said
            )
            said.seek(0)
            text = said.read()
        assert done.returncode == code, text
        return text

    def ask(self, statement: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.data / "registry.db")) as database:
            return database.execute(statement).fetchall()


@pytest.fixture
def shell(sqlite_lived: Community, tmp_path: Path) -> Iterator[Shell]:
    """A registry that nobody serves, with releases, and its backup on the same disk."""
    made = Shell(tmp_path / "operator")
    (made.folder / "bin").mkdir(parents=True)
    (made.folder / "backups").mkdir()
    for name, module in PROGRAMS.items():
        program = made.folder / "bin" / name
        program.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c 'from {module} import main; main()' \"$@\"\n")
        program.chmod(0o755)
    sqlite_lived.world.database.engine.dispose()
    shutil.copytree(sqlite_lived.world.settings.data, made.data)
    shutil.copyfile(tmp_path / "registry.db", made.data / "registry.db")
    database = open_database(f"sqlite:///{made.data / 'registry.db'}")
    identity.claim(database, Store(made.data))
    database.engine.dispose()
    made.run("crumb-server backup /backups/registry --data ./registry-data")
    yield made


def test_the_drill_restores_serves_and_verifies_a_release(shell: Shell) -> None:
    said = shell.run(written("backup", "drill"), **{"8001": str(free_port())})
    assert "and checked them and the audit log" in said
    assert "Every blob exists" in said
    assert not (shell.folder / "drill").exists()


def test_a_damaged_blob_is_named_and_put_back(shell: Shell) -> None:
    ((sha256,),) = shell.ask("SELECT sha256 FROM patch_revisions LIMIT 1")
    (blob,) = (shell.data / "blobs").rglob(str(sha256))
    raw = blob.read_bytes()
    blob.unlink()  # the backup is another name of the same file
    blob.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    said = shell.run(written("incidents", "damaged blob"), SHA256=str(sha256))
    assert str(sha256) in said.partition("Every blob exists")[0]
    assert said.count("Every blob exists") == 1
    assert blob.read_bytes() == raw
    assert shell.ask(f"SELECT damaged_at FROM blobs WHERE sha256 = '{sha256}'") == [(None,)]


def test_a_leaked_token_and_its_user_are_shut_out(shell: Shell) -> None:
    token = shell.run("crumb-server token create mallory --data ./registry-data").split()[-1]
    shell.run(written("incidents", "leaked token"), hf_abcdef=token[:9])
    rows = shell.ask(f"SELECT revoked_at IS NOT NULL FROM tokens WHERE prefix = '{token[:9]}'")
    assert rows == [(1,)]
    assert shell.ask("SELECT is_active FROM users WHERE name = 'mallory'") == [(0,)]


def test_what_is_run_on_a_full_disk_clears_away(shell: Shell) -> None:
    left = shell.data / "staging" / "upload-abandoned"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"x" * 100)
    os.utime(left, (0, 0))
    said = shell.run(written("incidents", "full disk"))
    assert "Nothing was changed: this is what would happen." in said
    assert not left.exists()


def test_the_registry_before_an_upgrade_comes_back(shell: Shell) -> None:
    shell.run("cp --archive /backups/registry /backups/before-upgrade")
    before = shell.run("crumb-server check --data ./registry-data").splitlines()[-1]
    shell.run("crumb-server token create late --data ./registry-data")
    said = shell.run(written("upgrading", "roll back"))
    assert said.splitlines()[-1] == before != shell.run("crumb-server check --data ./registry-data").splitlines()[-1]


def test_every_block_that_is_marked_is_run() -> None:
    marked = {name for page in GUIDES.glob("*.md") for name in re.findall(r"<!-- run: (.*) -->", page.read_text())}
    tests = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    assert marked == {name for text in tests for name in re.findall(r'written\("\w+", "([\w ]+)"\)', text)}
