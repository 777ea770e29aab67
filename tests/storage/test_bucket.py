"""The bucket: blobs are whole, have their own name, and can be downloaded with a signed address."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from registry.errors import DigestMismatch, InvalidRequest, NotFound, StorageFailed
from registry.storage import bucket as buckets
from registry.storage.bucket import Bucket, open_bucket, presign
from tests.support.s3_stand_in import S3
from tests.support.world import digest

DATA = random.Random(2).randbytes(2000)


@pytest.fixture
def bucket(s3: S3) -> Bucket:
    """A bucket without a registry."""
    return Bucket(f"s3://{s3.bucket}", endpoint=s3.url, region=s3.region, key_id=s3.key_id, secret=s3.secret)


def file_of(folder: Path, data: bytes) -> tuple[str, Path, int]:
    path = folder / "file"
    path.write_bytes(data)
    return digest(data), path, len(data)


def test_a_large_file_goes_in_parts_that_each_carry_their_digest(bucket: Bucket, s3: S3, tmp_path: Path) -> None:
    data = random.Random(3).randbytes(2 * buckets.LEAST_PART + 12345)
    sha256, path, size = file_of(tmp_path, data)
    bucket.put(sha256, path, size)
    assert s3.objects == {sha256: data}
    parts = [asked for asked in s3.asked if "partNumber" in asked.word]
    assert sorted(len(part.body) for part in parts) == [12345, buckets.LEAST_PART, buckets.LEAST_PART]
    assert all("x-amz-checksum-sha256" in part.headers for part in parts)
    assert s3.uploads == {}


@pytest.mark.parametrize("size", [2000, 9 * 2**20])
def test_a_damaged_file_does_not_get_its_name_in_the_bucket(bucket: Bucket, s3: S3, tmp_path: Path, size: int) -> None:
    sha256, path, size = file_of(tmp_path, random.Random(4).randbytes(size))
    for harm in (lambda raw: raw[:-1], lambda raw: raw + b"!", lambda raw: raw[:-1] + bytes([raw[-1] ^ 1])):
        whole = path.read_bytes()
        path.write_bytes(harm(whole))
        with pytest.raises(DigestMismatch, match=sha256):
            bucket.put(sha256, path, size)
        path.write_bytes(whole)
    path.unlink()
    with pytest.raises(NotFound, match=sha256):
        bucket.put(sha256, path, size)
    assert s3.objects == s3.uploads == {}


def test_a_copy_is_given_up_in_the_middle_when_the_worker_stops(bucket: Bucket, s3: S3, tmp_path: Path) -> None:
    sha256, path, size = file_of(tmp_path, bytes(9 * 2**20))
    asked = iter(range(100))
    with pytest.raises(StorageFailed, match="was stopped"):
        bucket.put(sha256, path, size, lambda: next(asked) == 5)
    assert s3.objects == s3.uploads == {}


def test_variables_of_amazons_own_programs_change_nothing(
    bucket: Bucket, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "REGION", "ENDPOINT_URL_S3", "ENDPOINT_URL"):
        monkeypatch.setenv(f"AWS_{name}", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true")
    made = open_bucket("s3://crumbs", endpoint=s3.url, region=s3.region, key_id=s3.key_id, secret=s3.secret)
    assert made is not None
    made.put(*file_of(tmp_path, DATA))
    assert list(s3.objects.values()) == [DATA]


@pytest.mark.parametrize(
    "wrong",
    [
        {"address": "https://crumbs"},
        {"address": "s3://Crumbs"},
        {"address": "s3://crumbs/../x"},
        {"address": "s3://crumbs/a//b"},
        {"key_id": ""},
        {"secret": ""},
        {"endpoint": "s3.example.org"},
        {"endpoint": "https://s3.example.org/path"},
    ],
)
def test_a_bucket_that_cannot_be_is_refused_at_start(wrong: dict[str, str]) -> None:
    fine = {"address": "s3://crumbs/a/b", "endpoint": "", "region": "us-east-1", "key_id": "k", "secret": "s"}
    Bucket(**fine)
    with pytest.raises(InvalidRequest, match="REGISTRY_BUCKET"):
        Bucket(**{**fine, **wrong})


def test_an_address_is_signed_as_in_amazons_own_example() -> None:
    url = presign(
        "GET",
        "https://examplebucket.s3.amazonaws.com/test.txt",
        {},
        "us-east-1",
        "AKIAIOSFODNN7EXAMPLE",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        86400,
        datetime(2013, 5, 24, tzinfo=UTC),
    )
    assert url.endswith("X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404")


def test_anybody_downloads_with_an_address_until_it_expires(bucket: Bucket, s3: S3, tmp_path: Path) -> None:
    sha256, path, size = file_of(tmp_path, DATA)
    bucket.put(sha256, path, size)
    s3.asked.clear()
    url = bucket.url(sha256, "weights/modèle 1.safetensors", 60)
    assert s3.asked == [], "signing asks nobody"
    whole = httpx2.get(url)
    assert (whole.status_code, whole.content) == (200, DATA)
    assert whole.headers["Content-Disposition"] == "attachment; filename*=UTF-8''mod%C3%A8le%201.safetensors"
    part = httpx2.get(url, headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, DATA[100:200])
    assert httpx2.head(url).status_code == 403, "it is good for one method"
    assert httpx2.head(bucket.url(sha256, "x", 60, "HEAD")).status_code == 200
    for old, new in (("Expires=60", "Expires=61"), (sha256, "0" * 64), ("filename", "filenama")):
        assert httpx2.get(url.replace(old, new)).status_code == 403
    s3.late = timedelta(seconds=50)
    assert httpx2.get(url).status_code == 200
    s3.late = timedelta(seconds=61)
    assert httpx2.get(url).status_code == 403
    assert s3.secret not in url
