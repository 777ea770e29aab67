"""The cache: bytes kept by sha256, bounded, the least recently used thrown away first, and never what is in use."""

import fcntl
import hashlib
import os
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from registry.errors import StorageFull
from registry.storage.cache import Cache
from registry.storage.store import Store


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    store = Store(tmp_path)
    store.prepare()
    return Cache(store)


def put(cache: Cache, data: bytes, used: float | None = None) -> str:
    """Keep bytes, last used at some time; return their digest."""
    sha256 = hashlib.sha256(data).hexdigest()
    with cache.partial("name") as file:
        file.write(data)
        cache.keep(file, "name", sha256)
    if used is not None:
        os.utime(cache.path(sha256), (used, used))
    return sha256


def test_least_recently_used_files_leave_the_cache_unless_they_are_in_use(cache: Cache) -> None:
    names = [put(cache, bytes([place]) * 100, used=place) for place in range(3)]
    with ExitStack() as stack:
        assert cache.hold(stack, [names[0], "f" * 64]) == ["f" * 64]
        assert cache.trim(150) == 200
        assert cache.path(names[0]).exists()
        assert cache.trim(0) == 0
    assert cache.trim(0) == 100
    assert list(cache.folder.iterdir()) == []


def test_no_more_goes_than_has_to(cache: Cache) -> None:
    oldest, middle, newest = (put(cache, bytes([place]) * 100, used=place) for place in (1, 2, 3))
    assert cache.trim(300) == 0
    assert cache.trim(299) == 100
    assert [cache.path(sha256).exists() for sha256 in (oldest, middle, newest)] == [False, True, True]


def test_what_was_held_counts_as_used(cache: Cache) -> None:
    first, second = put(cache, b"a" * 100, used=1), put(cache, b"b" * 100, used=2)
    with ExitStack() as stack:
        assert cache.hold(stack, [first]) == []
    assert cache.trim(100) == 100
    assert (cache.path(first).exists(), cache.path(second).exists()) == (True, False)


def test_partial_files_count_and_go_too_unless_somebody_writes_them(cache: Cache) -> None:
    with cache.partial("begun") as file:
        file.write(b"x" * 100)
        file.flush()
        assert cache.trim(0) == 0
    assert cache.trim(99) == 100
    assert list(cache.folder.iterdir()) == []


def test_a_download_goes_on_where_it_was_and_its_bytes_cannot_be_changed_then(cache: Cache) -> None:
    with cache.partial("name") as file:
        file.write(b"first half, ")
    sha256 = hashlib.sha256(b"first half, second half").hexdigest()
    with cache.partial("name") as file:
        assert file.read() == b"first half, "
        file.write(b"second half")
        cache.keep(file, "name", sha256)
    assert cache.path(sha256).read_bytes() == b"first half, second half"
    assert cache.path(sha256).stat().st_mode & 0o222 == 0
    assert [path.name for path in cache.folder.iterdir()] == [sha256]


def test_one_process_at_a_time_has_a_partial_file_and_the_next_one_starts_anew_when_it_is_kept(cache: Cache) -> None:
    waiting, seen = threading.Event(), list[bytes]()

    def second() -> None:
        waiting.set()
        with cache.partial("name") as file:
            seen.append(file.read())

    thread = threading.Thread(target=second)
    with cache.partial("name") as file:
        thread.start()
        waiting.wait(10)
        file.write(b"whole")
        cache.keep(file, "name", hashlib.sha256(b"whole").hexdigest())
        assert seen == []
    thread.join(10)
    assert seen == [b""]  # the file it waited for has another name now


def test_what_is_discarded_is_begun_again(cache: Cache) -> None:
    with cache.partial("name") as file:
        file.write(b"wrong")
        cache.discard("name")
    with cache.partial("name") as file:
        assert file.read() == b""


def test_only_a_digest_names_what_is_kept(cache: Cache) -> None:
    with cache.partial("name") as file, pytest.raises(ValueError):
        cache.keep(file, "name", "../blobs/name")


def test_a_full_disk_is_said_to_be_full(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageFull), cache.partial("name"):
        raise OSError(28, "No space left on device")


def test_what_is_lent_outlives_its_place_in_the_cache(cache: Cache, tmp_path: Path) -> None:
    sha256, folder = put(cache, b"bytes"), tmp_path / "job"
    folder.mkdir()
    cache.lend(sha256, folder)
    cache.lend("f" * 64, folder)  # the blobs may have it in the cache's place
    assert cache.trim(0) == 5
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [(sha256, b"bytes")]


def test_a_file_that_is_thrown_away_while_somebody_reaches_for_it_is_not_there(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = put(cache, b"bytes")
    lock = fcntl.flock

    def late(handle: int, how: int) -> None:
        cache.path(sha256).unlink(missing_ok=True)  # between opening and locking
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with ExitStack() as stack:
        assert cache.hold(stack, [sha256]) == [sha256]


def test_a_cache_that_was_never_written_to_is_empty(cache: Cache) -> None:
    assert cache.trim(0) == 0
    with ExitStack() as stack:
        assert cache.hold(stack, ["a" * 64]) == ["a" * 64]
