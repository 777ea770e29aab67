"""What every store does: on a disk, in a bucket of the stand-in, and on servers that were not written by us.

Those of others check no signatures. s3rver is taken from the PATH, or from TEST_S3RVER, a program.
"""

import os
import random
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import pytest

from registry.errors import DigestMismatch, InvalidRequest, NotFound, StorageFailed
from registry.storage.bucket import Bucket
from registry.storage.bucket_store import BucketStore
from registry.storage.multipart import LEAST_PART
from registry.storage.parts import Announced
from registry.storage.store import Store
from tests.support.s3_stand_in import open_s3
from tests.support.world import digest

LARGE = random.Random(11).randbytes(LEAST_PART + 12345)
SMALL = LARGE[:1000]
NAMES = ["disk", "stand-in", *(pytest.param(name, marks=pytest.mark.slow) for name in ("moto", "s3rver"))]


@contextmanager
def moto() -> Iterator[Bucket]:
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        prefix = uuid.uuid4().hex  # a new server has what the one before had
        yield Bucket(f"s3://crumbs/{prefix}", endpoint=f"http://{host}:{port}", key_id="key", secret="secret")
    finally:
        server.stop()


@contextmanager
def s3rver() -> Iterator[Bucket]:
    program = os.environ.get("TEST_S3RVER") or shutil.which("s3rver")
    if program is None:
        pytest.skip("no s3rver here: npm install s3rver, and name its program in TEST_S3RVER")
    with TemporaryDirectory() as folder:
        words = [program, "--directory", folder, "--port", "0", "--address", "127.0.0.1"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                said = next(line for line in server.stdout if "listening" in line)
                port = int(said.rpartition(":")[2])
                yield Bucket("s3://crumbs/r", endpoint=f"http://127.0.0.1:{port}", key_id="S3RVER", secret="S3RVER")
            finally:
                server.terminate()


@contextmanager
def stand_in() -> Iterator[Bucket]:
    with open_s3() as s3:
        yield Bucket(f"s3://{s3.bucket}/r", endpoint=s3.url, region=s3.region, key_id=s3.key_id, secret=s3.secret)


SERVERS = {"stand-in": stand_in, "moto": moto, "s3rver": s3rver}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(name: str, tmp_path: Path) -> Iterator[Store]:
    if name == "disk":
        made = Store(tmp_path, 0)
        made.prepare()
        yield made
        return
    with SERVERS[name]() as bucket:
        if name != "stand-in":
            bucket.place.connect(10).create_bucket(Bucket="crumbs")
        made = BucketStore(tmp_path, 0, bucket=bucket, most=10**9)
        made.prepare()
        yield made


def forget_copies(store: Store) -> None:
    for path in store.root.glob("cache/*"):
        path.unlink()


def test_what_is_stored_is_there_until_it_is_deleted(store: Store) -> None:
    assert store.put([SMALL]) == (digest(SMALL), len(SMALL))
    large, size = store.put([LARGE[:LEAST_PART], LARGE[LEAST_PART:]], digest(LARGE))
    store.take(digest(b""), 0, [])
    assert sorted(store.digests()) == sorted([digest(SMALL), large, digest(b"")])
    assert [store.size(sha256) for sha256 in (digest(SMALL), large, "0" * 64)] == [len(SMALL), size, None]
    forget_copies(store)
    with ExitStack() as stack:
        store.hold(stack, [digest(SMALL), large])
        assert store.path(large).read_bytes() == LARGE
    assert store.hash(large) == large and store.has(large, size) and not store.has(large, size - 1)
    assert b"".join(store.chunks(large)) == LARGE
    assert (store.read(digest(SMALL), 1000), store.read(digest(SMALL), 999)) == (SMALL, None)
    before = store.identity(large)
    assert before is not None and before == store.identity(large)
    for sha256 in (large, digest(SMALL)):
        store.set_aside(sha256)
        store.drop(sha256)
        store.remove(sha256)
    assert list(store.digests()) == [digest(b"")] and store.identity(large) is None
    with pytest.raises(NotFound):
        list(store.chunks(large))


def test_other_bytes_are_never_stored(store: Store) -> None:
    for data in (SMALL, LARGE):
        with pytest.raises(DigestMismatch):
            store.take(digest(data), len(data), [data[:-1] + b"?"])
        with pytest.raises(DigestMismatch):
            store.take(digest(data), len(data), [data[:-1]])
        with pytest.raises(DigestMismatch):
            store.put([data], "0" * 64)
    assert list(store.digests()) == list(store.staging.iterdir()) == []


def test_parts_become_a_blob_once_all_are_right(store: Store, name: str) -> None:
    upload_id, part_size = uuid.uuid4(), len(LARGE) // 2 + 1
    cuts = [LARGE[:part_size], LARGE[part_size:]]
    digests = {number: digest(part) for number, part in enumerate(cuts)}
    upload = Announced(upload_id, digest(LARGE), len(LARGE), part_size, digests)
    with store.parts.completing(upload) as damaged:
        assert damaged == [0, 1], "nothing is here"
    for number, part in enumerate(cuts):
        slot = store.parts.slot(upload_id, number * part_size, len(part), None)
        with slot.path.open("r+b" if slot.path.exists() else "wb") as file:
            file.seek(slot.offset)
            file.write(part)
        store.parts.keep(upload_id, number, slot, digest(part))
        if slot.apart:
            slot.path.unlink()
    with store.parts.completing(upload) as damaged:
        assert damaged == []
        if (staged := store.parts.completed(upload_id)) is not None:
            store.adopt(staged, digest(LARGE))
    assert store.hash(digest(LARGE)) == digest(LARGE)
    assert store.parts.collect(lambda: {upload_id}) == 0
    with suppress(StorageFailed) if name == "s3rver" else nullcontext():  # it fails on deletes of neighbours at once
        store.parts.collect(set)
    with suppress(StorageFailed) if name == "s3rver" else nullcontext():  # it does not list what was not finished
        store.discard_unfinished(datetime.now(UTC))
    assert list(store.digests()) == [digest(LARGE)]


def test_a_store_belongs_to_one_registry(store: Store, name: str) -> None:
    own = str(uuid.uuid4())
    if name == "s3rver":  # it overwrites whatever a request says, and is refused for it
        with pytest.raises(InvalidRequest, match="does not honour conditional writes"):
            store.own(own)
        assert store.owner() is None
        return
    store.own(own)
    store.own(own)
    assert store.owner() == own
    if isinstance(store, BucketStore):
        with pytest.raises(StorageFailed, match=f"belongs to the registry {own}"):
            store.bucket.claim(str(uuid.uuid4()))


def test_an_address_of_a_bucket_gives_a_range(store: Store) -> None:
    sha256, _ = store.put([SMALL])
    url = store.lend(sha256, "config.json", 60)
    assert (url is None) == (store.kind == "disk")
    if url is not None:
        assert httpx2.get(url, headers={"Range": "bytes=10-19"}).content == SMALL[10:20]
