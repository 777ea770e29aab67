import json
import os
import pwd
import shutil
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command

from registry.cli.common import settings_for
from registry.db.session import migrations_config, newest_migration, open_database
from registry.errors import Forbidden
from registry.services.operating import identity
from registry.storage.store import Store
from tests.support import launcher
from tests.support.databases import seed
from tests.support.launcher import SERVER
from tests.support.processes import until
from tests.support.world import open_world


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return launcher.run(SERVER, *arguments, environment={**os.environ, **environment})


def test_a_token_is_made_on_a_fresh_folder_and_printed_once(tmp_path: Path) -> None:
    made = run("token", "create", "alice", "--expires", "30", "--data", str(tmp_path / "new" / "data"), "--json")
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout)
    assert found["user"] == "alice"
    assert found["token"].startswith("hf_")
    assert found["expires_at"] is not None


def test_a_revoked_token_is_dead_and_a_wrong_prefix_revokes_nothing(tmp_path: Path) -> None:
    token = run("token", "create", "alice", "--data", str(tmp_path)).stdout.strip()
    assert run("token", "revoke", "hf_absent", "--data", str(tmp_path)).returncode == 1
    whole = run("token", "revoke", token, "--data", str(tmp_path))
    assert (whole.returncode, "list of processes" in whole.stderr, token in whole.stderr) == (1, True, False)
    assert "alice" in run("token", "revoke", token[:9], "--data", str(tmp_path)).stdout
    with open_world(tmp_path, None) as world:
        refused = world.client(None).get("/api/v1/whoami", headers={"Authorization": f"Bearer {token}"})
        assert refused.status_code == 401


@pytest.mark.parametrize("name", ["Alice", "../x", "api", "a--b", ""])
def test_a_bad_name_is_one_sentence_and_exit_1(tmp_path: Path, name: str) -> None:
    refused = run("token", "create", name, "--data", str(tmp_path))
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "Traceback" not in refused.stderr


def test_check_lists_what_is_wrong_and_exits_1(tmp_path: Path) -> None:
    assert run("migrate", "--data", str(tmp_path)).returncode == 0
    fine = run("check", "--data", str(tmp_path))
    assert (fine.returncode, fine.stderr) == (0, "")
    claimed(tmp_path)
    sha256, _ = Store(tmp_path).put([b"unknown"])
    wrong = run("check", "--data", str(tmp_path), "--json")
    assert wrong.returncode == 1
    assert sha256 in json.loads(wrong.stdout)["problems"][0]


def test_a_folder_that_is_not_there_is_named_and_not_the_database(tmp_path: Path) -> None:
    for name in ("check", "gc"):
        refused = run(name, "--data", str(tmp_path / "elsewhere"))
        assert (refused.returncode, "DATABASE_URL" in refused.stderr) == (1, True)
        assert f"There is no registry in {tmp_path / 'elsewhere'}; name its folder by --data" in refused.stderr
    assert not (tmp_path / "elsewhere").exists()


def test_root_writes_nothing_into_the_folder_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(tmp_path, 1, 1)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    owner = pwd.getpwuid(tmp_path.stat().st_uid).pw_name
    with pytest.raises(Forbidden, match=f"belongs to {owner}, .*runuser -u {owner} -- "):
        settings_for(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    assert settings_for(tmp_path).data == tmp_path


def test_check_asks_for_migrations_first(tmp_path: Path) -> None:
    refused = run("check", "--data", str(tmp_path))
    assert refused.returncode == 1
    assert "crumb-server migrate" in refused.stderr


def contents(data: Path) -> list[str]:
    """Return the files of a data folder with their rights, and all that its database holds."""
    with closing(sqlite3.connect(data / "registry.db")) as database:
        rows = list(database.iterdump())
    passing = ("registry.db-wal", "registry.db-shm")
    files = sorted(path for path in data.rglob("*") if path.name not in passing)
    return [f"{path} {path.stat().st_mode:o}" for path in [data, *files]] + rows


EVERY = [("serve", "--port", "0"), ("worker",), ("migrate",), ("check",), ("gc",), ("backup", "kept")]


@pytest.mark.parametrize("words", [*EVERY, ("token", "create", "bob")], ids=lambda words: words[0])
def test_a_database_of_a_later_version_is_refused_by_every_command_and_left_as_it_is(
    tmp_path: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    seed(data)
    with closing(sqlite3.connect(data / "registry.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = 'from2030'")
        database.commit()
    data.chmod(0o755)
    before = contents(data)
    monkeypatch.chdir(tmp_path)
    refused = run(*words, "--data", str(data))
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert "newer than this crumb-server" in refused.stderr and "Install the version" in refused.stderr
    assert contents(data) == before
    assert list(tmp_path.iterdir()) == [data]


@pytest.mark.parametrize("words", [("check",), ("gc",), ("backup", "kept")], ids=lambda words: words[0])
def test_commands_that_only_look_ask_for_the_migrations_that_are_missing_and_change_nothing(
    tmp_path: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = behind(tmp_path)
    before = contents(data)
    monkeypatch.chdir(tmp_path)
    refused = run(*words, "--data", str(data))
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert "run `crumb-server migrate`" in refused.stderr
    assert contents(data) == before
    assert list(tmp_path.iterdir()) == [data]


def test_serve_worker_and_migrate_bring_a_database_to_the_newest_migration_and_say_so(tmp_path: Path) -> None:
    moved = "crumb-server: The database was at migration "
    for number, words in enumerate(EVERY[:3]):
        data = behind(tmp_path / str(number))
        with (tmp_path / "log").open("w+") as log:
            everywhere = [*words, "--data", str(data)]
            process = launcher.start(SERVER, everywhere, dict(os.environ), stdout=log.fileno(), stderr=log.fileno())
            until(lambda: moved in (tmp_path / "log").read_text())
            process.terminate()
            process.wait(60)
        with closing(sqlite3.connect(data / "registry.db")) as database:
            assert database.execute("SELECT version_num FROM alembic_version").fetchall() == [(newest_migration(),)]
        again = run("migrate", "--data", str(data))
        assert (again.returncode, moved in again.stderr) == (0, False)


def behind(folder: Path) -> Path:
    """Return the data folder of a registry whose database is two migrations behind."""
    data = folder / "data"
    seed(data)
    command.downgrade(migrations_config(f"sqlite:///{data / 'registry.db'}"), "-2")
    return data


def test_a_database_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    refused = run("migrate", "--data", str(tmp_path), DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert "database" in refused.stderr


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_port_that_is_taken_is_one_sentence(tmp_path: Path, processes: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = run("serve", "--data", str(tmp_path), "--port", port, "--processes", processes)
    assert refused.returncode == 1
    assert f"127.0.0.1:{port} cannot be listened on: Address already in use" in refused.stderr
    assert refused.stderr.count("\n") == 1 and refused.stdout == ""


def test_only_the_operator_may_look_into_the_data_folder(tmp_path: Path) -> None:
    data, shared, old = tmp_path / "data", tmp_path / "shared", tmp_path / "old"
    run("token", "create", "alice", "--data", str(data))
    run("token", "create", "alice", "--data", str(shared), REGISTRY_UMASK="007")
    rights = {path.stat().st_mode & 0o077 for path in (data, data / "registry.db", data / "blobs", data / "ballast")}
    assert rights == {0}
    assert [(shared / name).stat().st_mode & 0o777 for name in ("", "registry.db", "blobs")] == [0o770, 0o660, 0o770]
    run("migrate", "--data", str(tmp_path / "sent"), REGISTRY_UMASK="027")  # a proxy sends blobs, and needs no rows
    found = [(tmp_path / "sent" / name).stat().st_mode & 0o777 for name in ("", "registry.db", "blobs")]
    assert found == [0o750, 0o600, 0o750]
    old.mkdir(mode=0o755)
    told = run("migrate", "--data", str(old))
    assert (told.returncode, "closed now" in told.stderr, old.stat().st_mode & 0o777) == (0, True, 0o700)
    old.chmod(0o1777)  # a folder that is everybody's
    told = run("migrate", "--data", str(old))
    assert (told.returncode, "cannot be closed" in told.stderr, old.stat().st_mode & 0o777) == (0, True, 0o777)


@pytest.mark.parametrize(("name", "value"), [("JSON_BYTES", "many"), ("PROXIES", "my.proxy"), ("DEVICE", "tpu")])
def test_a_setting_that_cannot_be_is_named_in_one_sentence(tmp_path: Path, name: str, value: str) -> None:
    refused = run("migrate", "--data", str(tmp_path / "data"), **{f"REGISTRY_{name}": value})
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"crumb-server: REGISTRY_{name} cannot be {value!r}: ")
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_help_needs_no_torch_and_no_server() -> None:
    script = "import sys; from registry.cli import app; print('torch' in sys.modules, 'fastapi' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.stdout == "False False\n"


def claimed(data: Path) -> Path:
    """Return the data folder of a registry that has been served."""
    seed(data)
    store, database = Store(data), open_database(f"sqlite:///{data / 'registry.db'}")
    store.prepare()
    store.ballast.chmod(0o600)  # as the command makes it
    identity.claim(database, store)
    database.engine.dispose()
    return data


@pytest.mark.parametrize("words", [words for words in EVERY if words != ("migrate",)], ids=lambda words: words[0])
def test_a_folder_and_a_database_of_two_registries_are_refused_before_anything_is_done(
    tmp_path: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = claimed(tmp_path / "one"), claimed(tmp_path / "two")
    Store(two).put([b"of the other"])
    for file in two.glob("registry.db*"):
        file.unlink()
    shutil.copyfile(one / "registry.db", two / "registry.db")
    (two / "registry.db").chmod(0o600)
    two.chmod(0o755)
    before = contents(two)
    monkeypatch.chdir(tmp_path)
    refused = run(*words, "--data", str(two))
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert f"belongs to the registry {Store(two).owner()}, and the database to {Store(one).owner()}" in refused.stderr
    assert contents(two) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


@pytest.mark.parametrize("words", [("serve", "--port", "0"), ("worker",)], ids=lambda words: words[0])
def test_without_migrating_only_a_database_at_the_newest_migration_is_taken(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    old, new = behind(tmp_path / "old"), tmp_path / "new" / "data"
    before = contents(old)
    for data in (old, new):
        refused = run(*words, "--no-migrate", "--data", str(data))
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
        assert "crumb-server migrate" in refused.stderr
    assert contents(old) == before
    assert not new.exists() or list(new.iterdir()) == []
    run("migrate", "--data", str(old))
    with (tmp_path / "log").open("w+") as log:
        everywhere = [*words, "--no-migrate", "--data", str(old)]
        process = launcher.start(SERVER, everywhere, dict(os.environ), stdout=log.fileno(), stderr=log.fileno())
        until(lambda: any(sign in (tmp_path / "log").read_text() for sign in ("Listening", "worker.start")))
        process.terminate()
        process.wait(60)
    assert Store(old).owner() is not None
