import errno
import hashlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from registry.errors import BlobDamaged, DigestMismatch, NotFound, StorageFailed, StorageFull, TooMany
from registry.storage.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "data")
    made.root.mkdir()
    made.prepare()
    return made


def break_disk(monkeypatch: pytest.MonkeyPatch, code: int, call: str = "fsync") -> None:
    """Make every fsync, or every rename, fail with an error code."""

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os if call == "fsync" else Path, call, fail)


def test_bytes_come_back_by_their_digest(store: Store) -> None:
    sha256, size = store.put([b"bread", b"crumb"])
    assert (sha256, size) == (hashlib.sha256(b"breadcrumb").hexdigest(), 10)
    assert store.read(sha256, 10) == b"breadcrumb"
    assert store.read(sha256, 9) is None
    assert store.path(sha256).stat().st_mode & 0o777 == 0o444


def test_the_same_bytes_twice_are_one_file(store: Store) -> None:
    first, _ = store.put([b"same"])
    assert store.put([b"sa", b"me"])[0] == first
    assert list(store.digests()) == [first]


def test_a_damaged_twin_is_healed(store: Store) -> None:
    sha256, _ = store.put([b"sound"])
    path = store.path(sha256)
    path.chmod(0o644)
    path.write_bytes(b"rotten")
    store.put([b"sound"])
    assert path.read_bytes() == b"sound"


def test_a_file_that_is_no_blob_is_passed_over(store: Store) -> None:
    sha256, _ = store.put([b"bytes"])
    (store.path(sha256).parent / ".nfs000000001").touch()
    assert list(store.digests()) == [sha256]


def test_too_many_open_files_pass(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    break_disk(monkeypatch, errno.EMFILE)
    with pytest.raises(TooMany):
        store.put([b"bytes"])
    monkeypatch.undo()
    store.put([b"bytes"])


def test_wrong_bytes_are_refused_and_leave_nothing(store: Store) -> None:
    with pytest.raises(DigestMismatch):
        store.put([b"these"], hashlib.sha256(b"those").hexdigest())
    assert not list(store.digests())
    assert not list(store.staging.iterdir())


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 65, "a" * 63 + "\n"])
def test_only_a_digest_names_a_blob(store: Store, name: str) -> None:
    with pytest.raises(NotFound):
        store.path(name)


def test_an_absent_blob_is_damage(store: Store) -> None:
    assert not store.exists("a" * 64)
    assert not store.holds("a" * 64, 0)
    with pytest.raises(BlobDamaged):
        store.read("a" * 64, 10)


@pytest.mark.parametrize("damage", [b"", b"brea", b"breadcrumbs", b"Breadcrumb"])
def test_damaged_bytes_are_not_read(store: Store, damage: bytes) -> None:
    sha256, size = store.put([b"breadcrumb"])
    store.path(sha256).chmod(0o644)
    store.path(sha256).write_bytes(damage)
    assert store.holds(sha256, size) == (len(damage) == size)
    with pytest.raises(BlobDamaged):
        store.read(sha256, 100)


def test_the_reserve_stays_free(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=10**6, free=10**5))
    assert store.room() == 10**5 - 10**6 // 20
    store.reserve = 10**5 - 10
    assert store.room() == 10
    store.put([b"ten bytes."])
    with pytest.raises(StorageFull, match="beside the reserve"):
        store.put([b"eleven bytes"])
    assert not list(store.staging.iterdir())
    store.reserve = 10**6
    assert store.room() == 0


@pytest.mark.parametrize(("code", "error"), [(errno.ENOSPC, StorageFull), (errno.EIO, StorageFailed)])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_disk_is_told_and_leaves_no_blob(
    store: Store, monkeypatch: pytest.MonkeyPatch, code: int, error: type[Exception], call: str
) -> None:
    break_disk(monkeypatch, code, call)
    with pytest.raises(error):
        store.put([b"bytes"])
    monkeypatch.undo()
    assert not list(store.digests())
    assert not list(store.staging.iterdir())


def test_the_file_is_durable_before_its_name_and_the_name_before_the_answer(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 does not show a missing fsync, so the order of calls is tested."""
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(handle: int) -> None:
        calls.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{handle}')).name}")
        fsync(handle)

    def watched_replace(self: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    sha256, _ = store.put([b"bytes"])
    assert calls[0].startswith("fsync put-")
    assert calls[1:] == ["rename", f"fsync {sha256[2:4]}", f"fsync {sha256[:2]}", "fsync sha256"]


def test_a_staging_folder_is_empty_at_first_and_gone_afterwards(store: Store) -> None:
    with pytest.raises(RuntimeError), store.folder("job") as folder:
        (folder / "half").write_bytes(b"x")
        raise RuntimeError
    assert not folder.exists()
    folder.mkdir()
    (folder / "left by a killed worker").write_bytes(b"x")
    with store.folder("job") as folder:
        assert not list(folder.iterdir())


def test_after_a_failed_disk_nothing_more_is_written_but_all_is_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, _ = store.put([b"kept"])

    break_disk(monkeypatch, errno.EIO)
    with pytest.raises(StorageFailed):
        store.put([b"lost"])
    monkeypatch.undo()
    with pytest.raises(StorageFailed, match="before"):
        store.put([b"more"])
    assert store.read(kept, 4) == b"kept"


def test_a_full_disk_is_no_failed_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    break_disk(monkeypatch, errno.ENOSPC)
    with pytest.raises(StorageFull):
        store.put([b"too much"])
    monkeypatch.undo()
    assert store.exists(store.put([b"fits"])[0])
