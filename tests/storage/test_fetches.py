"""Fetches from a bucket: a job keeps its lease meanwhile, and readers wait for a moment only."""

import fcntl
import os
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path

import pytest

from registry.errors import BlobDamaged, TooMany
from registry.storage import fetches
from registry.storage.bucket_store import BucketStore
from registry.storage.store import Store
from tests.storage.test_bucket_store import DATA, store_in
from tests.support.s3_stand_in import S3


@pytest.fixture
def store(s3: S3, tmp_path: Path) -> BucketStore:
    return store_in(tmp_path / "one", s3)


@pytest.fixture
def unheld(store: BucketStore) -> str:
    """A blob of which there is no copy."""
    sha256, _ = store.put([DATA])
    store.path(sha256).unlink()
    return sha256


def test_a_job_keeps_its_lease_while_the_bucket_is_slow(
    store: BucketStore, unheld: str, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetches, "LOOK_SECONDS", 0.01)
    beaten = threading.Event()
    s3.fault = lambda asked: None if beaten.wait(60) else 500
    with ExitStack() as stack:
        store.hold(stack, [unheld], beaten.set)
        assert store.path(unheld).read_bytes() == DATA


def test_a_job_keeps_its_lease_while_another_process_fetches(
    store: BucketStore, unheld: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetches, "LOOK_SECONDS", 0.01)
    store.cache.folder.mkdir(exist_ok=True)
    other = os.open(store.cache.folder / f"{unheld}.part", os.O_RDWR | os.O_CREAT)
    fcntl.flock(other, fcntl.LOCK_EX)
    with ExitStack() as stack:
        store.hold(stack, [unheld], lambda: fcntl.flock(other, fcntl.LOCK_UN))
        assert store.path(unheld).read_bytes() == DATA
    os.close(other)


def test_a_job_that_is_stopped_does_not_wait_for_a_slow_bucket(
    store: BucketStore, unheld: str, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetches, "LOOK_SECONDS", 0.01)
    slow = threading.Event()
    s3.fault = lambda asked: slow.wait(60) and None

    def stop() -> None:
        raise KeyError("stopped")

    with ExitStack() as stack, pytest.raises(KeyError):
        store.hold(stack, [unheld], stop)
    slow.set()


def test_few_readers_wait_for_a_slow_bucket_and_not_for_long(store: BucketStore, unheld: str, s3: S3) -> None:
    store.patience = 60.0
    slow = threading.Event()
    s3.fault = lambda asked: slow.wait(60) and None
    with ThreadPoolExecutor(fetches.MOST_WAITING + 1) as pool:
        waiting = [pool.submit(store.bring, unheld) for _ in range(fetches.MOST_WAITING + 1)]
        refused, _ = wait(waiting, 60, FIRST_COMPLETED)
        assert [type(future.exception()) for future in refused] == [TooMany]
        slow.set()
        assert [type(future.exception()) for future in waiting].count(TooMany) == 1
    assert store.path(unheld).read_bytes() == DATA
    store.path(unheld).unlink()
    slow.clear()
    store.patience = 0.01
    with pytest.raises(TooMany, match="slow to send"):
        store.bring(unheld)
    slow.set()
    store.patience = 60.0
    store.bring(unheld)
    assert s3.methods().count("GET") == 2, "the fetch went on"


def test_whoever_asks_again_gets_the_copy_or_hears_why_there_is_none(store: BucketStore, unheld: str) -> None:
    sizes = {unheld: len(DATA), "0" * 64: 1}
    assert store.to_fetch(sizes) == list(sizes) and store.begin_to_fetch(sizes)
    store.fetches.wait(unheld, lambda: None)
    with pytest.raises(BlobDamaged):
        store.fetches.wait("0" * 64, lambda: None)
    with pytest.raises(BlobDamaged):
        store.begin_to_fetch(sizes)
    assert store.to_fetch(sizes) == ["0" * 64]
    store.most = len(DATA)
    assert not store.begin_to_fetch(sizes), "that never fits"


def test_a_full_disk_makes_the_cache_smaller(store: BucketStore, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = (store.put([DATA + bytes([number])])[0] for number in range(2))
    store.path(new).unlink()
    monkeypatch.setattr(Store, "room", lambda _: 0 if store.path(old).exists() else 10**9)
    store.bring(new)
    assert store.path(new).exists() and not store.path(old).exists()


def test_a_small_copy_that_went_bad_is_not_sent(store: BucketStore, s3: S3) -> None:
    sha256, _ = store.put([DATA])
    store.path(sha256).unlink()
    store.path(sha256).write_bytes(DATA[:-1] + b"?")
    store.bring(sha256)
    assert store.path(sha256).read_bytes() == DATA
