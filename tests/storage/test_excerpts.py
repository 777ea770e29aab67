"""Excerpts: of a blob in a bucket only those bytes are fetched that are needed, each part verified."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import astuple
from itertools import pairwise
from pathlib import Path

import pytest

from registry.errors import BlobDamaged, StorageFailed
from registry.files.hashing import Extent
from registry.sandboxes.inputs import require_sound
from registry.storage.bucket_store import BucketStore
from registry.storage.pieces import Excerpt, idle
from registry.storage.store import Store
from tests.storage.test_bucket_store import store_in
from tests.support.s3_stand_in import CUT, HALF, S3, WRONG
from tests.support.world import digest

DATA = random.Random(3).randbytes(4 * 2**20)
SHA256 = digest(DATA)
CUTS = [0, 100, 5000, 5001, 2**20 - 7, 2**20 + 50_000, 2**20 + 2**19, 3 * 2**20, len(DATA)]
PARTS = [Extent(start, stop, digest(DATA[start:stop])) for start, stop in pairwise(CUTS)]


def excerpt(*places: int) -> Excerpt:
    return Excerpt(SHA256, len(DATA), tuple(PARTS[place] for place in places))


def take(store: Store, wanted: Excerpt) -> bytes:
    """Return the bytes of an excerpt, as whoever holds it reads them."""
    with ExitStack() as stack:
        data = store.hold_excerpt(stack, wanted).read_bytes()
        assert len(data) == wanted.size
        return b"".join(data[extent.start : extent.stop] for extent in wanted.extents)


def bytes_of(wanted: Excerpt) -> bytes:
    return b"".join(DATA[extent.start : extent.stop] for extent in wanted.extents)


@pytest.fixture
def store(s3: S3, tmp_path: Path) -> BucketStore:
    """A store whose bucket has the blob, and its folder no copy."""
    store = store_in(tmp_path / "one", s3)
    store.put([DATA])
    store.path(SHA256).unlink()
    return store


@pytest.fixture
def sent(s3: S3) -> "Sent":
    return Sent(s3)


class Sent:
    """Counts the bytes of the blob that the bucket was asked for since the last time."""

    def __init__(self, s3: S3) -> None:
        self.s3 = s3

    def __call__(self) -> int:
        return self.s3.sent.pop(f"r/{SHA256}", 0)


@pytest.mark.parametrize("places", [(0, 4), (0, 1, 5), (0, 2, 4, 6), (0, 1, 2, 3, 4, 5), (1,), (0, 3, 5)])
def test_only_what_is_needed_is_fetched_and_once(store: BucketStore, sent: Sent, places: tuple[int, ...]) -> None:
    wanted = excerpt(*places)
    assert take(store, wanted) == bytes_of(wanted)
    least = len(bytes_of(wanted))
    assert least <= sent() <= 1.02 * least
    assert not store.path(SHA256).exists(), "it does not pass for a whole copy"
    assert take(store, wanted) == bytes_of(wanted)
    assert sent() == 0
    more = excerpt(*sorted({*places, 7}))
    assert take(store, more) == bytes_of(more)
    lacking = len(bytes_of(more)) - least
    assert lacking <= sent() <= 1.02 * lacking
    with ExitStack() as stack:
        store.hold(stack, [SHA256])
        assert sent() == len(DATA)
    assert take(store, excerpt(6)) == bytes_of(excerpt(6))
    assert sent() == 0, "the whole copy has it"


def test_neighbours_are_fetched_by_one_request(store: BucketStore, s3: S3) -> None:
    s3.asked.clear()
    take(store, excerpt(0, 1, 3, 4, 6))
    ranges = [asked.headers["range"] for asked in s3.asked]
    stops = (CUTS[2], CUTS[5])
    assert sorted(ranges) == [f"bytes=0-{stops[1] - 1}", f"bytes={CUTS[6]}-{CUTS[7] - 1}"], "a gap of one byte"


def test_a_store_on_disk_has_it_all(tmp_path: Path) -> None:
    store = Store(tmp_path, 0)
    store.prepare()
    store.put([DATA])
    assert take(store, excerpt(1, 3)) == bytes_of(excerpt(1, 3))


@pytest.mark.parametrize("fault", [500, 503, CUT, HALF, WRONG])
def test_what_does_not_arrive_as_it_should_is_not_used(store: BucketStore, s3: S3, fault: int) -> None:
    wanted = excerpt(0, 4)
    s3.fault = lambda asked: fault if asked.method == "GET" else None
    with pytest.raises(BlobDamaged if fault == WRONG else StorageFailed):
        take(store, wanted)
    s3.fault = lambda asked: None
    assert take(store, wanted) == bytes_of(wanted)
    assert [path.name for path in store.cache.folder.iterdir()] == [f"{SHA256}.some"]


def test_a_bucket_that_lost_bytes_or_sends_others_is_found_out(store: BucketStore, s3: S3) -> None:
    name = f"r/{SHA256}"
    for lost in (DATA[: CUTS[4] - 1], DATA[:10], b"!" * len(DATA), None):
        s3.objects.pop(name)
        if lost is not None:
            s3.keep(name, lost)
        with pytest.raises(BlobDamaged) as refused:
            take(store, excerpt(3))
        assert refused.value.field == SHA256
        s3.keep(name, DATA)
    assert take(store, excerpt(3)) == bytes_of(excerpt(3))


def test_a_server_that_sends_objects_whole_alone_is_asked_for_the_whole(store: BucketStore, s3: S3) -> None:
    s3.ranges = False
    assert take(store, excerpt(1, 3)) == bytes_of(excerpt(1, 3))
    assert store.path(SHA256).read_bytes() == DATA
    s3.keep(f"r/{SHA256}", b"!" * len(DATA))
    store.distrust(SHA256)
    with pytest.raises(BlobDamaged):
        take(store, excerpt(1))
    assert not store.path(SHA256).exists()


def test_a_failure_is_kept_for_those_alone_who_ask_again(store: BucketStore, s3: S3) -> None:
    s3.fault = lambda asked: WRONG if asked.method == "GET" else None
    for fetches, wanted in ((store.excerpts, excerpt(1)), (store.fetches, SHA256)):
        with pytest.raises(BlobDamaged):
            fetches.wait(wanted, idle)  # type: ignore[arg-type]
        assert not fetches.failed and not fetches.asked


def test_a_hole_where_zeros_are_right_is_no_damage(store: BucketStore, s3: S3, sent: Sent) -> None:
    """A folder that was put back by `cp --sparse=always` has holes in place of zeros."""
    zeros = bytes(2**20)
    sha256, extent = digest(zeros + DATA), Extent(4096, 2**20, digest(zeros[4096:]))
    path = store.root / "sparse"
    with path.open("wb") as file:
        file.seek(2**20)
        file.write(DATA)
    require_sound({sha256: str(path)}, {sha256: [astuple(extent)]})
    with pytest.raises(BlobDamaged, match="in bytes 1 to 9"):
        require_sound({sha256: str(path)}, {sha256: [(1, 10, digest(b"not zeros"))]})
    store.put([zeros + DATA])
    store.path(sha256).unlink()
    take(store, Excerpt(sha256, 2**20 + len(DATA), (extent,)))
    assert s3.sent[f"r/{sha256}"] == 2**20 - 4096, "a file that has nothing yet does not pass for it"


def test_bytes_that_went_bad_here_are_fetched_once_more(store: BucketStore, sent: Sent) -> None:
    take(store, excerpt(1, 4))
    sent()
    with store.cache.path_of_some(SHA256).open("r+b") as file:
        file.seek(CUTS[4] + 1)
        file.write(b"!?")
    assert take(store, excerpt(1, 4)) == bytes_of(excerpt(1, 4))
    assert sent() == PARTS[4].stop - PARTS[4].start
    store.distrust(SHA256)
    assert take(store, excerpt(1)) == bytes_of(excerpt(1))
    assert sent() == PARTS[1].stop - PARTS[1].start


def test_what_is_here_in_part_counts_by_its_bytes_and_goes_like_the_rest(store: BucketStore, s3: S3) -> None:
    take(store, excerpt(1, 3))
    path = store.cache.path_of_some(SHA256)
    taken = 512 * path.stat().st_blocks
    if taken >= len(DATA):
        pytest.skip("this file system has no holes")
    assert store.cache.trim(taken) == 0
    with ExitStack() as stack:
        store.hold_excerpt(stack, excerpt(1))
        assert store.cache.trim(0) == 0 and path.exists(), "it is in use"
    assert store.cache.trim(0) == taken and not path.exists()
    store.most = 10
    with ExitStack() as stack:
        store.hold_excerpt(stack, excerpt(1))
        other, _ = store.put([b"other"])
        assert path.exists()
    take(store, excerpt(1))
    store.remove(other)
    store.remove(SHA256)
    assert list(store.cache.folder.iterdir()) == [] and s3.objects == {}


def test_two_machines_of_one_folder_may_fetch_at_once(store: BucketStore, s3: S3, sent: Sent) -> None:
    others = [store_in(store.root, s3) for _ in range(3)]  # as processes have them
    wanted = [excerpt(0, 3), excerpt(0, 3, 5), excerpt(2, 4), excerpt(0, 1, 2, 3, 4, 5)]
    together = threading.Barrier(4)

    def fetch(place: int) -> bool:
        together.wait(60)
        return take([store, *others][place], wanted[place]) == bytes_of(wanted[place])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(fetch, range(4)))
    least = len(bytes_of(excerpt(0, 1, 2, 3, 4, 5)))
    assert least <= sent() <= 1.02 * least, "nothing is fetched twice"
    assert [path.name for path in store.cache.folder.iterdir()] == [f"{SHA256}.some"]


def test_who_holds_bytes_keeps_them_while_others_are_fetched_in_vain(store: BucketStore, s3: S3) -> None:
    with ExitStack() as stack:
        path = store.hold_excerpt(stack, excerpt(0, 3))
        s3.fault = lambda asked: WRONG if asked.method == "GET" else None
        with pytest.raises(BlobDamaged):
            take(store, excerpt(0, 3, 4))
        held = path.read_bytes()
        assert [held[part.start : part.stop] == DATA[part.start : part.stop] for part in excerpt(0, 3).extents] == [
            True,
            True,
        ]
