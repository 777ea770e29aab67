"""A registry knows its own folder, and no server or worker works on another one."""

import shutil
import threading
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from registry.db.session import Database, open_database
from registry.db.tables import Blob, RegistryId, now
from registry.errors import StorageFailed, WrongState
from registry.services.blobs import bucket_copies
from registry.services.operating import identity
from registry.storage.bucket import Bucket
from registry.storage.store import MARK, Store
from tests.support.blobs import orphan
from tests.support.s3_stand_in import S3
from tests.support.world import World


def folder(path: Path) -> Store:
    store = Store(path, reserve=0)
    path.mkdir()
    store.prepare()
    return store


def id_of(database: Database) -> str | None:
    with database.read() as session:
        return identity.read_id(session)


def test_a_new_registry_gets_an_id_once(world: World) -> None:
    identity.claim(world.database, world.store)
    first = id_of(world.database)
    assert first is not None and first == world.store.owner()
    identity.claim(world.database, world.store)
    identity.require_own(world.database, world.store)
    assert id_of(world.database) == world.store.owner() == first


def test_what_there_was_before_there_were_ids_goes_on(world: World, tmp_path: Path) -> None:
    orphan(world)
    identity.require_own(world.database, world.store)
    with pytest.raises(WrongState, match="holds none of the files that the database knows"):
        identity.claim(world.database, folder(tmp_path / "wrong"))
    assert (id_of(world.database), Store(tmp_path / "wrong").owner()) == (None, None)
    identity.claim(world.database, world.store)
    assert world.store.owner() == id_of(world.database)


def test_another_folder_is_refused_and_left_alone(world: World, tmp_path: Path) -> None:
    identity.claim(world.database, world.store)
    empty, theirs = folder(tmp_path / "empty"), folder(tmp_path / "theirs")
    theirs.own(str(uuid.uuid4()))
    for store, words in ((empty, "has no registry-id"), (theirs, "belongs to the registry")):
        before = sorted(store.root.rglob("*"))
        for refuse in (identity.claim, identity.require_own):
            with pytest.raises(WrongState, match=words):
                refuse(world.database, store)
        assert sorted(store.root.rglob("*")) == before


def test_a_folder_that_was_put_back_without_its_id_gets_it_as_the_sentence_says(world: World) -> None:
    identity.claim(world.database, world.store)
    (world.store.root / MARK).unlink()
    with pytest.raises(WrongState, match=r"echo .* > ") as refused:
        identity.claim(world.database, world.store)
    own = str(refused.value).partition("echo ")[2].partition(" ")[0]
    (world.store.root / MARK).write_text(own + "\n")
    identity.claim(world.database, world.store)


def test_a_new_database_does_not_take_the_folder_of_another(world: World) -> None:
    sha256 = orphan(world)
    identity.claim(world.database, world.store)
    with world.database.write() as session:
        session.execute(delete(RegistryId))
        session.execute(delete(Blob))
    for refuse in (identity.claim, identity.require_own):
        with pytest.raises(WrongState, match="this database knows nothing that is in it"):
            refuse(world.database, world.store)
    with world.database.write() as session:
        session.add(Blob(sha256="0" * 64, size=1))
    with pytest.raises(WrongState, match="this database knows nothing that is in it"):
        identity.claim(world.database, world.store)
    with world.database.write() as session:
        session.add(Blob(sha256=sha256, size=1))
    identity.claim(world.database, world.store)
    assert id_of(world.database) == world.store.owner()


def test_a_full_folder_without_an_id_is_not_taken_by_a_new_database(world: World) -> None:
    world.store.put([b"of a registry that had no id yet"])
    before = sorted(world.store.root.rglob("*"))
    for refuse in (identity.claim, identity.require_own):
        with pytest.raises(WrongState, match="holds the blobs of a registry, and this database knows nothing"):
            refuse(world.database, world.store)
    assert sorted(world.store.root.rglob("*")) == before and id_of(world.database) is None


def test_an_id_that_another_process_gave_the_folder_meanwhile_is_not_written_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, faster = Store.own, str(uuid.uuid4())
    with monkeypatch.context() as patch, pytest.raises(WrongState, match="just now; start again"):
        patch.setattr(Store, "own", lambda store, _: own(store, faster))
        identity.claim(world.database, world.store)
    assert id_of(world.database) is None
    identity.claim(world.database, world.store)
    assert id_of(world.database) == world.store.owner() == faster


def test_a_bucket_of_which_nothing_is_known_is_not_taken(world: World, s3: S3) -> None:
    access = {"endpoint": s3.url, "region": s3.region, "key_id": s3.key_id, "secret": s3.secret}
    bucket, sha256 = Bucket(f"s3://{s3.bucket}", **access), orphan(world)
    identity.require_not_foreign(world.database, bucket)
    s3.keep("0" * 64, b"of another")
    with pytest.raises(StorageFailed, match="knows none of them"):
        identity.require_not_foreign(world.database, bucket)
    bucket.belongs_to = ""
    later = now() + timedelta(minutes=1)
    with pytest.raises(StorageFailed, match="knows none of them"):
        bucket_copies.reconcile(world.database, world.store, bucket, later)
    assert s3.objects == {"0" * 64: b"of another"}
    s3.keep(sha256, b"ours")
    identity.require_not_foreign(world.database, bucket)
    bucket_copies.reconcile(world.database, world.store, bucket, later)
    assert list(s3.objects) == [sha256]


def test_a_claim_that_is_killed_is_finished_by_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def kill(store: Store, registry_id: str) -> None:
        own(store, registry_id)
        raise Killed

    own = Store.own
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Store, "own", kill)
        identity.claim(world.database, world.store)
    marked = world.store.owner()
    assert marked is not None and id_of(world.database) is None
    identity.claim(world.database, world.store)
    assert id_of(world.database) == world.store.owner() == marked


def test_of_two_folders_that_claim_a_new_database_at_once_one_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, both, refused = folder(tmp_path / "other"), threading.Barrier(2), list[WrongState]()
    required = identity.require_own

    def meet(database: Database, store: Store) -> str | None:
        found = required(database, store)
        if threading.current_thread() not in met:
            met.add(threading.current_thread())
            both.wait(60)
        return found

    def claim(store: Store) -> None:
        database = open_database(world.settings.database)
        try:
            identity.claim(database, store)
        except WrongState as why:
            refused.append(why)
        finally:
            database.engine.dispose()

    met = set[threading.Thread]()
    monkeypatch.setattr(identity, "require_own", meet)
    threads = [threading.Thread(target=claim, args=(store,)) for store in (world.store, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(refused) == 1
    owners = {world.store.owner(), other.owner()}
    assert owners == {id_of(world.database), None}


def test_a_damaged_id_is_a_sentence(world: World) -> None:
    (world.store.root / MARK).write_bytes(b"\xff" * 200)
    with pytest.raises(StorageFailed, match="does not hold the id of a registry"):
        identity.claim(world.database, world.store)


def test_a_copy_of_the_folder_is_the_same_registry(world: World, tmp_path: Path) -> None:
    identity.claim(world.database, world.store)
    shutil.copytree(world.store.root, tmp_path / "copy")
    identity.claim(world.database, Store(tmp_path / "copy"))
    with world.database.write() as session:
        session.execute(update(RegistryId).values(registry_id=uuid.uuid4()))
    with pytest.raises(WrongState, match="belongs to the registry"):
        identity.require_own(world.database, Store(tmp_path / "copy"))
