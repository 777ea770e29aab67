"""A registry whose files are in a bucket: machines share it, uploads go through it, backups come from it."""

import os
import random
import shutil
import uuid
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import select

from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.digest import digest_checkpoint
from registry.db.session import open_database
from registry.db.tables import Blob, Job, UploadSession, now
from registry.errors import InvalidRequest, WrongState
from registry.services.blobs import damage
from registry.services.operating import backups, identity
from registry.storage.bucket_parts import PART, name_part
from registry.storage.store import Store
from tests.support import launcher, postgres
from tests.support.blobs import collect
from tests.support.bucket_worlds import another_machine, in_bucket, parts_in, store_of
from tests.support.launcher import SERVER
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.processes import open_registry, person
from tests.support.s3_stand_in import CUT, S3
from tests.support.world import World, announce, create_model, digest, push_patch, put_part, upload

pytestmark = pytest.mark.heavy
DATA = random.Random(8).randbytes(4500)
URL = "/api/v1/models/alice/tiny"


@pytest.fixture
def world_settings(s3: S3) -> dict[str, Any]:
    """Its blobs are in a bucket, and so much as a config is downloaded from there."""
    return {"store": "bucket", "bucket_least": 1000, **s3.settings("blobs")}


@pytest.fixture
def world(world: World) -> World:
    world.token("alice")
    identity.claim(world.database, world.store)
    return world


def test_machines_that_share_only_bucket_and_database_are_one_registry(world: World, s3: S3, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base", shards=2)
    with another_machine(world, tmp_path / "other") as other:
        create_model(world, "alice/tiny", base)
        for seed, machine in ((1, world), (2, other)):
            file = tmp_path / f"{seed}.safetensors"
            make_patch(base, fine_tuned(base, tmp_path / f"tuned{seed}", seed=seed), file)
            push_patch(machine, "alice/tiny", file)
        shutil.rmtree(world.store.root / "cache")
        body = {"alpha": "0.4", "patches": [{"number": 1, "weight": "1"}, {"number": 2, "weight": "0.5"}]}
        assert world.client("bob").post(f"{URL}/compositions", json=body).status_code == 202
        other.work()
        done = world.client("bob").post(f"{URL}/compositions", json=body).json()
        (tmp_path / "pulled").mkdir()
        for file in world.client().get(f"{URL}/revisions/{done['recipe']['digest']}").json()["files"]:
            where = f"{URL}/revisions/{done['recipe']['digest']}/files/{file['path']}"
            answer = download(world, where)
            assert digest(answer) == file["sha256"]
            (tmp_path / "pulled" / file["path"]).write_bytes(answer)
        with open_checkpoint(tmp_path / "pulled") as pulled:
            assert digest_checkpoint(pulled) == done["weights_digest"]
        rows = set(in_bucket(s3))
        assert list(damage.check(other.database, other.store)) == []
        with world.database.read() as session:
            assert set(session.scalars(select(Blob.sha256))) == rows


def test_a_server_composes_for_readers_without_a_worker(world: World, s3: S3, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base")
    create_model(world, "alice/tiny", base)
    make_patch(base, fine_tuned(base, tmp_path / "tuned", seed=1), tmp_path / "1.safetensors")
    push_patch(world, "alice/tiny", tmp_path / "1.safetensors")
    world.worker.settings = world.settings.model_copy(update={"composed_bytes": 0})
    body = {"alpha": "0.4", "patches": [{"number": 1}]}
    world.client("bob").post(f"{URL}/compositions", json=body)
    world.work()
    recipe = world.client("bob").post(f"{URL}/compositions", json=body).json()["recipe"]["digest"]
    (file,) = (
        file
        for file in world.client().get(f"{URL}/revisions/{recipe}").json()["files"]
        if file["path"].endswith(".safetensors")
    )
    assert file["sha256"] not in in_bucket(s3)
    shutil.rmtree(world.store.root / "cache")
    where = f"{URL}/revisions/{recipe}/files/{file['path']}"
    answer = world.client(None).get(where)
    assert answer.status_code == 429 and "is being fetched" in answer.json()["detail"]
    for fetch in list(store_of(world).fetches.running.values()):
        fetch.result(60)
    assert digest(download(world, where)) == file["sha256"]
    with world.database.read() as session:
        assert not session.scalars(select(Job.id).where(Job.state == "queued")).all()


def download(world: World, where: str) -> bytes:
    """Return what a reader gets: from this server, or from the bucket to which it sends the reader."""
    answer = world.client(None).get(where, follow_redirects=False)
    if answer.status_code == 302:
        return httpx2.get(answer.headers["Location"]).content
    assert answer.status_code == 200, answer.text
    return bytes(answer.content)


def test_an_upload_goes_on_at_another_machine_and_its_parts_are_in_the_bucket(
    world: World, s3: S3, tmp_path: Path
) -> None:
    with another_machine(world, tmp_path / "other") as other:
        session = announce(world.client(), DATA)
        for number in session["missing"]:
            machine = [world, other][number % 2]
            assert put_part(machine.client(), session, DATA, number).status_code == 200
        assert len(parts_in(s3)) == 5
        assert list(world.store.staging.iterdir()) == list(other.store.staging.iterdir()) == []
        shutil.rmtree(world.store.root)
        done = other.client().post(f"/api/v1/uploads/{session['id']}/complete")
        assert (done.status_code, done.json()["state"]) == (200, "done")
        assert in_bucket(s3) == {digest(DATA): DATA}
        collect(other)
        assert parts_in(s3) == []


def test_a_part_that_the_bucket_lost_or_changed_is_sent_again(world: World, s3: S3) -> None:
    client, session = world.client(), announce(world.client(), DATA)
    for number in session["missing"]:
        put_part(client, session, DATA, number)
    lost, changed = parts_in(s3)[1], parts_in(s3)[3]
    del s3.objects[lost]
    s3.keep(changed, s3.objects[changed][:-1] + b"!")
    refused = client.post(f"/api/v1/uploads/{session['id']}/complete")
    assert refused.status_code == 400 or refused.status_code == 422, refused.text
    assert in_bucket(s3) == {}
    left = client.get(f"/api/v1/uploads/{session['id']}").json()["missing"]
    assert left == [1, 3]
    for number in left:
        assert put_part(client, session, DATA, number).status_code == 200
    assert client.post(f"/api/v1/uploads/{session['id']}/complete").json()["state"] == "done"
    assert in_bucket(s3) == {digest(DATA): DATA}


@pytest.mark.parametrize("fault", [500, 503, CUT])
def test_what_the_bucket_does_not_take_is_not_acknowledged(world: World, s3: S3, fault: int) -> None:
    client, session = world.client(), announce(world.client(), DATA)
    s3.fault = lambda asked: fault if asked.method == "PUT" else None
    assert put_part(client, session, DATA, 0).status_code >= 500
    s3.fault = lambda asked: None
    assert client.get(f"/api/v1/uploads/{session['id']}").json()["missing"] == [0, 1, 2, 3, 4]
    for number in session["missing"]:
        put_part(client, session, DATA, number)
    s3.fault = lambda asked: fault if asked.method in ("PUT", "POST") else None
    assert client.post(f"/api/v1/uploads/{session['id']}/complete").status_code >= 500
    with world.database.read() as session_:
        assert session_.scalars(select(Blob)).all() == []
    s3.fault = lambda asked: None
    assert client.post(f"/api/v1/uploads/{session['id']}/complete").json()["state"] == "done"


def test_parts_of_cancelled_and_expired_uploads_go_and_others_stay(world: World, s3: S3) -> None:
    client = world.client()
    sessions = [announce(client, DATA + bytes([number])) for number in range(3)]
    for number, session in enumerate(sessions):
        put_part(client, session, DATA + bytes([number]), 0)
    assert client.delete(f"/api/v1/uploads/{sessions[0]['id']}").status_code == 204
    with world.database.write() as session:
        for row in session.scalars(select(UploadSession)):
            if str(row.id) == sessions[1]["id"]:
                row.expires_at = now() - timedelta(hours=1)
    collect(world, dry=True)
    assert len(parts_in(s3)) == 3
    collect(world)
    assert [sessions[2]["id"].replace("-", "") in key for key in parts_in(s3)] == [True]


def test_an_empty_file_is_a_blob(world: World, s3: S3) -> None:
    assert in_bucket(s3) == {} and upload(world.client(), b"") in in_bucket(s3)


def test_the_bucket_of_another_registry_is_refused_and_so_is_a_disk(world: World, s3: S3, tmp_path: Path) -> None:
    identity.claim(world.database, world.store)
    identity.claim(world.database, world.store)
    with pytest.raises(WrongState, match="REGISTRY_STORE is disk"):
        identity.require_own(world.database, Store(tmp_path))
    s3.keep("blobs/registry-id", b"0b5e2d5c-6a0f-4b1e-9c0e-2f0f5a1f7b11\n")
    for refuse in (identity.claim, identity.require_own):
        with pytest.raises(WrongState, match="registry 0b5e2d5c"):
            refuse(world.database, world.store)


def test_a_backup_of_a_bucket_is_restored_to_disk_or_to_a_bucket(
    world: World,
    s3: S3,
    tmp_path: Path,
    database_kind: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if binaries := postgres.find_binaries():
        monkeypatch.setenv("PATH", f"{binaries}{os.pathsep}{os.environ['PATH']}")
    identity.claim(world.database, world.store)
    digests = [upload(world.client(), raw) for raw in (DATA, b"small", b"")]
    folder = tmp_path / "backup"
    assert backups.back_up(world.database, world.store, world.settings.database, folder).copied == 3
    again = backups.back_up(world.database, world.store, world.settings.database, folder)
    assert (again.kept, again.copied, again.problems) == (3, 0, [])
    own = world.store.owner()
    with ExitStack() as stack:
        for target in ("disk", "bucket"):
            data = tmp_path / target
            url = f"sqlite:///{data / 'registry.db'}"
            if database_kind == "postgresql":
                url = stack.enter_context(request.getfixturevalue("databases").lent())
            if target == "bucket":
                s3.objects = {"blobs/registry-id": s3.objects["blobs/registry-id"]}
                s3.keep(f"blobs/{digests[0]}", b"!" * len(DATA))  # there, as its size says
            opening = (lambda _: world.store) if target == "bucket" else None
            if target == "bucket":
                before = dict(s3.objects)
                with pytest.raises(InvalidRequest, match="add --replacing"):
                    backups.restore(folder, data, url, opening)
                assert s3.objects == before
            placed = backups.restore(folder, data, url, opening, replacing=target == "bucket")
            assert (placed.blobs, placed.problems) == (3, [])
            store = world.store if target == "bucket" else Store(data)
            assert [store.read(sha256, 10**4) for sha256 in digests] == [DATA, b"small", b""]
            database = open_database(url)
            assert identity.require_own(database, store) == own
            database.engine.dispose()


@pytest.mark.slow
def test_two_machines_in_processes_of_their_own(
    migrated_url: str, tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"store": "bucket", "bucket_least": 1000, **s3.settings("blobs")}
    base = make_checkpoint(tmp_path / "base", shards=2)
    make_patch(base, fine_tuned(base, tmp_path / "tuned", seed=1), tmp_path / "1.safetensors")
    with (
        open_registry(tmp_path / "one", migrated_url, **settings) as server,
        open_registry(tmp_path / "two", migrated_url, **settings) as worker,
    ):
        server.serve("--no-worker")
        worker.start("worker", "--no-migrate")
        alice = person(server, "alice")
        alice.crumb("model", "create", "alice/tiny", "--base", str(base))
        alice.crumb("push", str(tmp_path / "1.safetensors"), "alice/tiny", "-m", "one")
        recipe = alice.json("compose", "alice/tiny", "1")["recipe"]["digest"]
        alice.crumb("pull", f"alice/tiny@{recipe}", "-o", str(tmp_path / "pulled"))
        alice.crumb("verify", str(tmp_path / "pulled"), f"alice/tiny@{recipe}", "--recompose")
        server.check()
        shutil.rmtree(worker.data / "cache")
        alice.crumb("compose", "alice/tiny", "1:0.5")
        assert not list((server.data / "blobs").rglob("?" * 64)) + list((worker.data / "blobs").rglob("?" * 64))
        wrong = launcher.run(
            SERVER,
            "worker",
            "--data",
            str(tmp_path / "three"),
            environment={**worker.environment, "REGISTRY_BUCKET": f"s3://{s3.bucket}/other"},
        )
        assert wrong.returncode == 1 and "is not the one of this registry" in wrong.stderr


def test_parts_have_names_that_no_blob_has() -> None:
    name = name_part(uuid.UUID(int=1), 3, "0" * 64)
    assert name == f"uploads/{'0' * 31}1/3-{'0' * 64}" and PART.fullmatch(name)
