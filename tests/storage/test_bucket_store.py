"""The store whose truth is a bucket: every byte is verified on the way in and out, and the folder may be lost."""

import errno
import os
import random
import threading
import uuid
from contextlib import ExitStack
from pathlib import Path

import pytest

from registry.errors import BlobDamaged, DigestMismatch, NotFound, StorageFailed, StorageFull, WrongState
from registry.storage.bucket import Bucket
from registry.storage.bucket_store import BucketStore
from registry.storage.store import Store
from tests.support.s3_stand_in import CUT, HALF, S3, WRONG
from tests.support.world import digest

DATA = random.Random(7).randbytes(3000)


def store_in(folder: Path, s3: S3, most: int = 10**9) -> BucketStore:
    folder.mkdir(exist_ok=True)
    access = {"endpoint": s3.url, "region": s3.region, "key_id": s3.key_id, "secret": s3.secret}
    store = BucketStore(folder, 0, bucket=Bucket(f"s3://{s3.bucket}/r", **access), most=most)
    store.prepare()
    return store


@pytest.fixture
def store(s3: S3, tmp_path: Path) -> BucketStore:
    return store_in(tmp_path / "one", s3)


def test_what_one_machine_stores_another_reads(store: BucketStore, s3: S3, tmp_path: Path) -> None:
    sha256, size = store.put([DATA[:1000], DATA[1000:]])
    assert (sha256, size) == (digest(DATA), len(DATA))
    assert s3.objects == {f"r/{sha256}": DATA}
    other = store_in(tmp_path / "two", s3)
    assert (other.size(sha256), other.exists(sha256), list(other.digests())) == (size, True, [sha256])
    assert other.read(sha256, size) == DATA
    assert other.read(sha256, size - 1) is None
    assert other.path(sha256).read_bytes() == DATA and other.path(sha256).stat().st_mode & 0o222 == 0
    assert list(store.staging.iterdir()) == list(other.staging.iterdir()) == []


def test_the_folder_may_be_lost(store: BucketStore, s3: S3) -> None:
    sha256, _ = store.put([DATA])
    store.path(sha256).unlink()
    s3.asked.clear()
    with ExitStack() as stack:
        store.hold(stack, [sha256])
        assert store.path(sha256).read_bytes() == DATA
    assert s3.methods() == ["GET"]
    with ExitStack() as stack:
        store.hold(stack, [sha256])
    assert s3.methods() == ["GET"], "what is here is not fetched again"


def test_wrong_bytes_are_not_stored_and_not_named(store: BucketStore, s3: S3) -> None:
    with pytest.raises(DigestMismatch):
        store.put([DATA], "0" * 64)
    staged = store.staging / "file"
    staged.write_bytes(DATA[:-1])
    with pytest.raises(DigestMismatch):
        store.send_ahead(staged, digest(DATA))
    with pytest.raises(DigestMismatch):
        store.adopt(staged, digest(DATA))
    assert s3.objects == {} and not staged.exists()
    with pytest.raises(NotFound):
        store.path("../etc/passwd")


@pytest.mark.parametrize("fault", [500, 503, CUT, HALF, WRONG])
def test_what_does_not_arrive_as_it_should_is_not_kept(store: BucketStore, s3: S3, fault: int) -> None:
    sha256, _ = store.put([DATA])
    store.path(sha256).unlink()
    s3.fault = lambda asked: fault if asked.method == "GET" else None
    with ExitStack() as stack, pytest.raises(BlobDamaged if fault == WRONG else StorageFailed):
        store.hold(stack, [sha256])
    assert not store.path(sha256).exists() and list(store.cache.folder.iterdir()) == []
    s3.fault = lambda asked: None
    with ExitStack() as stack:
        store.hold(stack, [sha256])
        assert store.path(sha256).read_bytes() == DATA


@pytest.mark.parametrize("fault", [500, 503, 403, CUT])
def test_what_the_bucket_does_not_take_is_not_stored(store: BucketStore, s3: S3, fault: int) -> None:
    s3.fault = lambda asked: fault if asked.method in ("PUT", "POST") else None
    with pytest.raises(StorageFailed, match="did not take"):
        store.put([DATA])
    assert s3.objects == {} and list(store.staging.iterdir()) == []


def test_what_the_bucket_lost_is_damaged(store: BucketStore, s3: S3) -> None:
    sha256, _ = store.put([DATA])
    store.path(sha256).unlink()
    s3.objects.clear()
    for lose in (lambda: store.read(sha256, 10**4), lambda: store.bring(sha256)):
        with pytest.raises(BlobDamaged):
            lose()
    with pytest.raises(FileNotFoundError):
        store.hash(sha256)
    assert (store.size(sha256), store.identity(sha256)) == (None, None)


def test_bytes_that_were_sent_ahead_are_not_sent_again(store: BucketStore, s3: S3) -> None:
    data, staged, beats = bytes(2 * 2**20), store.staging / "file", list[int]()
    staged.write_bytes(data)
    store.send_ahead(staged, digest(data), lambda: beats.append(1) or True)  # a heartbeat was written
    assert beats and staged.exists()
    s3.asked.clear()
    store.adopt(staged, digest(data))
    assert s3.methods() == ["HEAD"]
    assert not staged.exists() and store.path(digest(data)).read_bytes() == data
    store.remove(digest(data))
    assert s3.objects == {} and not store.path(digest(data)).exists()


def test_damaged_bytes_are_replaced_even_if_their_size_is_right(store: BucketStore, s3: S3) -> None:
    data, staged = bytes(2 * 2**20), store.staging / "file"
    s3.keep(f"r/{digest(data)}", b"!" * len(data))
    staged.write_bytes(data)
    store.adopt(staged, digest(data), again=True)
    assert s3.objects == {f"r/{digest(data)}": data}


def test_a_copy_that_is_not_durable_is_not_kept(store: BucketStore, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "lost")

    monkeypatch.setattr(os, "fsync", fail)
    sha256, _ = store.put([DATA])
    assert s3.objects == {f"r/{sha256}": DATA} and not store.path(sha256).exists()
    assert list(store.staging.iterdir()) == []


def test_a_copy_that_went_bad_is_fetched_once_more(store: BucketStore, s3: S3) -> None:
    sha256, size = store.put([DATA])
    for bad in (DATA[:-1] + b"?", DATA[:-1]):
        store.path(sha256).unlink()
        store.path(sha256).write_bytes(bad)
        assert store.read(sha256, size) == DATA
    s3.keep(f"r/{sha256}", DATA[:-1] + b"?")
    store.path(sha256).unlink()
    with pytest.raises(BlobDamaged):
        store.read(sha256, size)


def test_the_cache_is_bounded_except_for_what_is_in_use(s3: S3, tmp_path: Path) -> None:
    store = store_in(tmp_path / "one", s3, most=2 * len(DATA))
    digests = [store.put([DATA + bytes([number])])[0] for number in range(4)]
    for path in store.cache.folder.iterdir():
        path.unlink()
    with ExitStack() as stack:
        store.hold(stack, digests)
        assert all(store.path(sha256).is_file() for sha256 in digests)
    with ExitStack() as stack:
        store.hold(stack, digests[:1])
    assert sum(path.stat().st_size for path in store.cache.folder.iterdir()) <= 2 * len(DATA)


def test_two_that_need_a_blob_fetch_it_once(store: BucketStore, s3: S3) -> None:
    sha256, _ = store.put([DATA])
    store.path(sha256).unlink()
    s3.asked.clear()
    threads = [threading.Thread(target=store.bring, args=(sha256,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert s3.methods() == ["GET"]
    assert store.path(sha256).read_bytes() == DATA


def test_a_disk_without_room_for_a_copy_is_a_sentence(store: BucketStore, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256, _ = store.put([DATA])
    store.path(sha256).unlink()
    monkeypatch.setattr(Store, "room", lambda _: len(DATA) - 1)
    with pytest.raises(StorageFull, match="no room left for the cache"):
        store.bring(sha256)
    assert list(store.cache.folder.iterdir()) == []


def test_bucket_and_folder_belong_to_one_registry(store: BucketStore, s3: S3, tmp_path: Path) -> None:
    own = str(uuid.uuid4())
    assert store.owner() is None
    store.own(own)
    assert (store.owner(), Store(store.root).owner()) == (own, None), "a cache does not pass for the data folder"
    assert store_in(tmp_path / "new", s3).owner() == own
    theirs = store_in(tmp_path / "theirs", s3)
    Store(theirs.root).own(other := str(uuid.uuid4()))
    with pytest.raises(WrongState, match=f"belongs to the registry {other}, and the bucket .* {own}"):
        theirs.owner()
