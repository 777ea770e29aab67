"""The bucket on somebody else's S3 server, which checks no signatures but was not written by us."""

import random
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from registry.errors import StorageFailed
from registry.storage.bucket import LEAST_PART, Bucket
from registry.storage.bucket_store import BucketStore
from tests.support.world import digest

pytestmark = pytest.mark.slow

DATA = random.Random(11).randbytes(2 * LEAST_PART + 12345)


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        made = Bucket("s3://crumbs/r", endpoint=f"http://{host}:{port}", key_id="key", secret="secret")
        made.place.connect(10).create_bucket(Bucket="crumbs")
        yield made
    finally:
        server.stop()


def test_all_that_a_store_does_works_there(bucket: Bucket, tmp_path: Path) -> None:
    store = BucketStore(tmp_path, 0, bucket=bucket, most=10**9)
    store.prepare()
    own = str(uuid.uuid4())
    store.own(own)
    store.own(own)
    assert store.owner() == own
    with pytest.raises(StorageFailed, match=f"belongs to the registry {own}"):
        Bucket("s3://crumbs/r", endpoint=bucket.place.endpoint, key_id="k", secret="s").claim(str(uuid.uuid4()))
    small, large = store.put([DATA[:1000]])[0], store.put([DATA])[0]
    assert large == digest(DATA) and sorted(store.digests()) == sorted([small, large])
    assert (store.size(small), store.size(large), store.size("0" * 64)) == (1000, len(DATA), None)
    for path in store.cache.folder.iterdir():
        path.unlink()
    with ExitStack() as stack:
        store.hold(stack, [small, large])
        assert store.path(large).read_bytes() == DATA
    assert store.hash(large) == large
    url = store.lend(small, "config.json", 60)
    assert url is not None
    assert httpx2.get(url, headers={"Range": "bytes=10-19"}).content == DATA[10:20]
    store.remove(small)
    assert list(store.digests()) == [large]
