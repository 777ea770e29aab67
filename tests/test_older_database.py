"""A database older than its blobs and its clients: a copy of it is put back, or a backup is restored; all go on."""

import shutil
from pathlib import Path

import pytest

from client import Client
from registry.errors import NotFound, Unauthenticated
from tests.support import launcher
from tests.support.launcher import SERVER
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.processes import Person, open_registry, person, until

pytestmark = pytest.mark.slow
MODEL = "alice/m"


def test_what_is_newer_than_a_database_that_was_put_back_is_gone_with_a_sentence_and_can_be_sent_again(
    tmp_path: Path,
) -> None:
    base, backup = make_checkpoint(tmp_path / "base"), tmp_path / "backup"
    for seed in (1, 2, 3):
        make_patch(base, fine_tuned(base, tmp_path / f"tuned{seed}", seed=seed), tmp_path / f"{seed}.safetensors")
    with open_registry(tmp_path / "registry") as registry:
        data = ("--data", str(registry.data))
        server, alice = registry.serve(), person(registry, "alice")
        alice.crumb("model", "create", MODEL, "--base", str(base))
        alice.crumb("push", str(tmp_path / "1.safetensors"), MODEL, "-m", "one")
        launcher.run(SERVER, "backup", str(backup), *data, environment=registry.environment, check=True)
        alice.crumb("push", str(tmp_path / "2.safetensors"), MODEL, "-m", "two")
        alice.crumb("compose", MODEL, "2")
        late = registry.token("bob")
        with Client(registry.url, alice.token) as client:
            upload = client.announce_upload("ab" * 32, 5)
            recipe = client.compose(MODEL, [(2, "1")]).recipe.digest
        alice.crumb("pull", f"{MODEL}@{recipe}", "-o", str(tmp_path / "pulled"))
        server.terminate()
        server.wait()
        for file in registry.data.glob("registry.db*"):
            file.unlink()
        shutil.copy(next(backup.glob("database-*.db")), registry.data / "registry.db")
        registry.serve()
        # a worker gives rows to the files that are newer than the database
        until(lambda: launcher.run(SERVER, "check", *data, environment=registry.environment).returncode == 0)
        with Client(registry.url, alice.token) as client:
            with pytest.raises(NotFound, match=f"no patch {MODEL}#2"):
                client.patch(MODEL, 2)
            with pytest.raises(NotFound, match="announce the bytes again"):
                client.upload(upload.id)
            with pytest.raises(NotFound, match="compose it first"):
                client.snapshot(MODEL, recipe)
        with Client(registry.url, late) as client, pytest.raises(Unauthenticated, match="log in again"):
            client.whoami()
        alice.crumb("pull", f"{MODEL}@{recipe}", "-o", str(tmp_path / "pulled"), code=1)
        alice.crumb("pull", MODEL, "-o", str(tmp_path / "pulled"))
        alice.crumb("push", str(tmp_path / "3.safetensors"), MODEL, "-m", "another patch takes the number")
        alice.crumb("push", str(tmp_path / "2.safetensors"), MODEL, "-m", "two, again")
        with Client(registry.url, alice.token) as client:
            assert client.compose(MODEL, [(3, "1")]).recipe.digest == recipe, "what was sent again is what it was"
        launcher.run(SERVER, "gc", "--grace", "0", *data, environment=registry.environment, check=True)
        registry.check()


def release(alice: Person, version: str, patch: str, key: Path) -> None:
    """Accept a patch, and publish a signed release of it."""
    alice.crumb("propose", MODEL, patch)
    alice.crumb("accept", MODEL, patch)
    alice.crumb("release", "cut", MODEL, version, patch)
    alice.crumb("release", "publish", MODEL, version, "--recompose", "--sign", str(key))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_pulled_before_a_restore_is_the_same_after_it_and_what_came_later_has_a_sentence(
    tmp_path: Path,
) -> None:
    base, backup = make_checkpoint(tmp_path / "base"), tmp_path / "backup"
    for seed in (1, 2, 3):
        make_patch(base, fine_tuned(base, tmp_path / f"tuned{seed}", seed=seed), tmp_path / f"{seed}.safetensors")
    earlier, later, private, public = (tmp_path / name for name in ("earlier", "later", "private.pem", "public.pem"))
    with open_registry(tmp_path / "registry") as registry:
        server, alice = registry.serve(), person(registry, "alice")
        alice.crumb("model", "create", MODEL, "--base", str(base))
        alice.crumb("model", "set", MODEL, "--approvals", "0")
        alice.crumb("key", "make", str(private), str(public))
        alice.crumb("push", str(tmp_path / "1.safetensors"), MODEL, "-m", "one")
        release(alice, "1.0.0", "1", private)
        alice.crumb("pull", f"{MODEL}@1.0.0", "-o", str(earlier))
        data = ("--data", str(registry.data))
        launcher.run(SERVER, "backup", str(backup), *data, environment=registry.environment, check=True)
        alice.crumb("push", str(tmp_path / "2.safetensors"), MODEL, "-m", "two")
        release(alice, "1.1.0", "2", private)
        alice.crumb("pull", f"{MODEL}@1.1.0", "-o", str(later))
        there, url = {folder: files_of(folder) for folder in (earlier, later)}, registry.url
        server.terminate()
        server.wait()
    with open_registry(tmp_path / "restored") as registry:
        shutil.rmtree(registry.data)
        data = ("--data", str(registry.data))
        launcher.run(SERVER, "restore", str(backup), *data, environment=registry.environment, check=True)
        registry.url = url  # so that it is served where it was
        registry.serve()
        alice = Person(registry, "alice", alice.home, alice.token)
        alice.crumb("pull", f"{MODEL}@1.0.0", "-o", str(earlier))
        assert files_of(earlier) == there[earlier]
        alice.crumb("pull", f"{MODEL}@1.0.0", "-o", str(tmp_path / "anew"))
        assert files_of(tmp_path / "anew") == there[earlier]
        for folder in (earlier, tmp_path / "anew"):
            assert "same" in alice.crumb("verify", str(folder), "--recompose", "--key", str(public))
        for words in (("verify", str(later)), ("pull", f"{MODEL}@1.1.0", "-o", str(later))):
            assert f"There is no release {MODEL}@1.1.0" in alice.said(*words)
        assert files_of(later) == there[later], "and the files that are there stay"
        alice.crumb("push", str(tmp_path / "3.safetensors"), MODEL, "-m", "another patch takes the number")
        release(alice, "1.1.0", "2", private)
        assert "DIFFER" in alice.said("verify", str(later), "--key", str(public), code=3)
        alice.crumb("status", str(later))
        assert f"{MODEL}@1.1.0 has other weights than when it was pulled" in alice.said(
            "pull", f"{MODEL}@1.1.0", "-o", str(later), code=0
        )
        alice.crumb("verify", str(later), "--key", str(public))
        registry.check()
