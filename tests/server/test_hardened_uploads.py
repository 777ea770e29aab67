"""What a hostile review found of bytes on their way in, each as it was shown to go wrong."""

import fcntl
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from registry.db.tables import Blob, UploadSession
from registry.services.blobs import blobs, damage
from tests.support.makers import make_checkpoint
from tests.support.processes import Person, Registry, open_registry, person, until
from tests.support.world import (
    World,
    announce,
    content_digest,
    digest,
    put_part,
    upload,
)

DATA = os.urandom(3000)


@pytest.fixture
def registry(tmp_path: Path, migrated_url: str) -> Iterator[Registry]:
    with open_registry(tmp_path / "registry", migrated_url, part_bytes=1000) as made:
        made.serve("--no-worker")
        yield made


def authorized(someone: Person) -> dict[str, str]:
    return {"Authorization": f"Bearer {someone.token}"}


@pytest.mark.heavy
def test_many_more_writers_than_threads_all_get_their_answer(registry: Registry) -> None:
    alice = person(registry, "alice")
    answers: list[int] = []

    def announce_some(number: int) -> None:
        with httpx2.Client(base_url=registry.url, headers=authorized(alice), verify=False) as client:
            for turn in range(2):
                body = {"sha256": digest(f"{number} {turn}".encode()), "size": 5}
                answers.append(client.post("/api/v1/uploads", json=body, timeout=60).status_code)

    threads = [threading.Thread(target=announce_some, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [201] * 128
    assert httpx2.get(f"{registry.url}/healthz", timeout=10).status_code == 200


def in_use(staged: Path) -> bool:
    """Say whether somebody is writing a part into a staged file."""
    with staged.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.heavy
def test_a_slow_part_cannot_write_into_the_blob(registry: Registry) -> None:
    """A PUT that began before the upload was completed holds a descriptor on what becomes the blob."""
    alice = person(registry, "alice")
    with httpx2.Client(base_url=registry.url, headers=authorized(alice), verify=False) as client:
        session = client.post("/api/v1/uploads", json={"sha256": digest(DATA), "size": 3000}).json()
        evil = b"e" * 1000
        host, port = registry.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            lines = [f"PUT /api/v1/uploads/{session['id']}/parts/0 HTTP/1.1", "Host: x", "Content-Length: 1000"]
            lines += [
                f"Authorization: Bearer {alice.token}",
                f"Content-Digest: {content_digest(evil)['Content-Digest']}",
            ]
            slow.sendall("\r\n".join([*lines, "", ""]).encode() + evil[:500])
            until(lambda: any(in_use(path) for path in (registry.data / "staging").glob("upload-*")))
            for number in range(3):
                part = DATA[number * 1000 : (number + 1) * 1000]
                url = f"/api/v1/uploads/{session['id']}/parts/{number}"
                assert client.put(url, content=part, headers=content_digest(part)).status_code == 200
            done = client.post(f"/api/v1/uploads/{session['id']}/complete", timeout=30)
            assert done.status_code == 409
            slow.sendall(evil[500:])
            assert slow.recv(65536).split()[1] == b"409"
        # The slow part got its bytes into the staging file: they are noticed, and the right ones sent again.
        assert client.post(f"/api/v1/uploads/{session['id']}/complete", timeout=30).status_code == 422
        assert put_part(client, session, DATA, 0).status_code == 200  # type: ignore[arg-type]
        assert client.post(f"/api/v1/uploads/{session['id']}/complete", timeout=30).status_code == 200
    registry.check()


def test_a_part_is_refused_while_the_upload_is_completed(world: World) -> None:
    client = world.client()
    session = announce(client, DATA)
    for number in (0, 1):
        put_part(client, session, DATA, number)
    (staged,) = world.store.staging.iterdir()
    with staged.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert put_part(client, session, DATA, 2).status_code == 409
    assert put_part(client, session, DATA, 2).status_code == 200


def test_killed_between_rename_and_commit_nothing_is_sent_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    client = world.client()
    client.portal = None  # what stops its event loop must not stop everybody's
    session = announce(client, DATA)
    for number in range(3):
        put_part(client, session, DATA, number)
    register = blobs.register

    def die(*arguments: Any) -> None:
        register(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(blobs, "register", die)
    with pytest.raises(BaseException):  # noqa: B017
        client.post(f"/api/v1/uploads/{session['id']}/complete")
    monkeypatch.undo()
    assert world.store.exists(digest(DATA))
    with world.database.read() as reading:
        assert reading.get(Blob, digest(DATA)) is None
    assert client.post(f"/api/v1/uploads/{session['id']}/complete").json()["state"] == "done"
    assert list(damage.check(world.database, world.store)) == []


def test_an_upload_goes_on_and_bytes_that_are_here_are_known_when_the_disk_is_nearly_full(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = world.client()
    upload(client, b"here already")
    session = announce(client, DATA)
    put_part(client, session, DATA, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10, "total": 0}))
    assert announce(client, DATA)["missing"] == [1, 2]
    assert announce(client, b"here already")["state"] == "done"
    assert client.post("/api/v1/uploads", json={"sha256": digest(b"new"), "size": 3000}).status_code == 413


def test_a_base_that_is_still_being_checked_is_nobody_elses(world: World, tmp_path: Path) -> None:
    alice, folder = world.client("alice"), make_checkpoint(tmp_path / "base")
    files = [{"path": path.name, "sha256": upload(alice, path.read_bytes())} for path in folder.iterdir()]
    alice.post("/api/v1/models", json={"name": "alice/tiny", "files": files})
    raw = (folder / "model.safetensors").read_bytes()
    assert announce(world.client("bob"), raw)["state"] == "open"
    world.work()
    assert announce(world.client("carol"), raw)["state"] == "done"


def test_bytes_the_operator_lost_can_be_brought_back(world: World) -> None:
    client = world.client()
    upload(client, DATA)
    world.store.path(digest(DATA)).unlink()
    assert announce(client, DATA)["missing"] == [0, 1, 2]
    upload(client, DATA)
    assert world.store.path(digest(DATA)).read_bytes() == DATA


def test_the_same_digest_with_another_size_says_what_to_do(world: World) -> None:
    client = world.client()
    session = announce(client, DATA)
    answer = client.post("/api/v1/uploads", json={"sha256": digest(DATA), "size": 7})
    assert answer.status_code == 409
    assert session["id"] in answer.json()["detail"]


def test_an_expired_session_that_is_swept_meanwhile_is_not_found(world: World) -> None:
    client = world.client()
    session = announce(client, DATA)
    with world.database.write() as writing:
        writing.query(UploadSession).delete()
    assert put_part(client, session, DATA, 0).status_code == 404
    assert client.post(f"/api/v1/uploads/{session['id']}/complete").status_code == 404
