"""The bucket: blobs are whole, have their own name, and can be downloaded with a signed address."""

import json
import random
import threading
import uuid
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx2
import pytest

from registry.errors import DigestMismatch, InvalidRequest, NotFound, StorageFailed
from registry.storage import bucket as buckets
from registry.storage import multipart
from registry.storage.bucket import Bucket, open_bucket
from tests.support.s3_stand_in import CUT, HALF, S3, WRONG, Asked
from tests.support.servers import serving
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
    data = random.Random(3).randbytes(2 * multipart.LEAST_PART + 12345)
    sha256, path, size = file_of(tmp_path, data)
    bucket.put(sha256, path, size)
    assert s3.objects == {sha256: data}
    parts = [asked for asked in s3.asked if "partNumber" in asked.word]
    assert sorted(len(part.body) for part in parts) == [12345, multipart.LEAST_PART, multipart.LEAST_PART]
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


def test_who_sends_is_asked_to_go_on_while_the_bucket_is_slow(
    bucket: Bucket, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multipart, "LOOK_SECONDS", 0.01)
    sha256, path, size = file_of(tmp_path, bytes(9 * 2**20))
    asked, enough = iter(range(10**6)), threading.Event()

    def beat() -> bool:
        if next(asked) > 20:  # more often than there are pieces to read
            enough.set()
        return False

    s3.fault = lambda asked: None if "partNumber" not in asked.word or enough.wait(60) else 503
    bucket.put(sha256, path, size, beat)
    assert s3.objects == {sha256: bytes(9 * 2**20)}


def test_variables_of_amazons_own_programs_change_nothing(
    bucket: Bucket, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "REGION", "ENDPOINT_URL_S3", "ENDPOINT_URL"):
        monkeypatch.setenv(f"AWS_{name}", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true")
    monkeypatch.setenv("AWS_PROFILE", "another")
    (tmp_path / "config").write_text("not a config")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
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
        {"endpoint": "https://:::"},
        {"endpoint": "https://s3.example.org:99999"},
        {"public_endpoint": "s3.example.org"},
        {"key_id": "", "secret": "", "session_token": "t"},
    ],
)
def test_a_bucket_that_cannot_be_is_refused_at_start(wrong: dict[str, str]) -> None:
    fine = {"address": "s3://crumbs/a/b", "endpoint": "", "region": "us-east-1", "key_id": "k", "secret": "s"}
    Bucket(**fine)
    with pytest.raises(InvalidRequest, match="REGISTRY_BUCKET"):
        Bucket(**{**fine, **wrong})


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


def test_an_address_is_signed_for_the_endpoint_at_which_people_reach_the_server(s3: S3, tmp_path: Path) -> None:
    public = s3.url.replace("127.0.0.1", "localhost")
    access = {"endpoint": s3.url, "region": s3.region, "key_id": s3.key_id, "secret": s3.secret}
    bucket = Bucket(f"s3://{s3.bucket}/a", public_endpoint=public, **access)
    sha256, path, size = file_of(tmp_path, DATA)
    bucket.put(sha256, path, size)
    url = bucket.url(sha256, "x", 60)
    assert url.startswith(f"{public}/crumbs/a/{sha256}?")
    assert httpx2.get(url).content == DATA
    assert httpx2.get(url.replace("localhost", "127.0.0.1")).status_code == 403, "it is signed for that host"
    assert {asked.headers["host"] for asked in s3.asked[:-2]} == {s3.url.removeprefix("http://")}


@pytest.mark.parametrize(
    ("name", "region", "begins"),
    [
        ("crumbs", "eu-central-1", "https://crumbs.s3.eu-central-1.amazonaws.com/a/"),
        ("crumbs.org", "eu-central-1", "https://s3.eu-central-1.amazonaws.com/crumbs.org/a/"),
    ],
)
def test_an_address_at_amazon_names_the_region(name: str, region: str, begins: str) -> None:
    bucket = Bucket(f"s3://{name}/a", region=region, key_id="k", secret="s")
    assert bucket.url("0" * 64, "x", 60).startswith(begins)


def test_a_region_that_is_not_the_buckets_is_refused(s3: S3) -> None:
    bucket = Bucket(f"s3://{s3.bucket}", endpoint=s3.url, region=s3.region, key_id=s3.key_id, secret=s3.secret)
    s3.fault = lambda asked: setattr(s3, "region", "eu-test-2") if asked.headers else None
    s3.verify = lambda asked: None  # type: ignore[method-assign]
    with pytest.raises(InvalidRequest, match="in the region eu-test-2; set REGISTRY_BUCKET_REGION"):
        bucket.claim(str(uuid.uuid4()))
    assert s3.objects == {}


# Credentials -----------------------------------------------------------------------------------------------------


@pytest.fixture
def nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without credentials."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "ROLE_ARN"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))


def there_and_back(s3: S3, tmp_path: Path, **access: str) -> None:
    bucket = Bucket(f"s3://{s3.bucket}", endpoint=s3.url, region=s3.region, **access)
    sha256, path, size = file_of(tmp_path, DATA)
    bucket.put(sha256, path, size)
    assert b"".join(bucket.read(sha256)) == DATA
    assert httpx2.get(bucket.url(sha256, "x", 60)).content == DATA
    assert s3.refused == []


def test_a_key_for_a_while_is_sent_with_its_token(s3: S3, tmp_path: Path) -> None:
    s3.session_token = "of/a+while=="
    there_and_back(s3, tmp_path, key_id=s3.key_id, secret=s3.secret, session_token=s3.session_token)


@pytest.mark.usefixtures("nothing_else")
def test_without_a_key_variables_of_amazons_own_programs_have_it(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.session_token = "of a while"
    for name in ("key_id", "secret", "session_token"):
        variable = {"key_id": "ACCESS_KEY_ID", "secret": "SECRET_ACCESS_KEY", "session_token": "SESSION_TOKEN"}[name]
        monkeypatch.setenv(f"AWS_{variable}", getattr(s3, name))
    there_and_back(s3, tmp_path)


@pytest.mark.usefixtures("nothing_else")
def test_without_a_key_the_role_of_the_machine_gives_one(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Role(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            end = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
            answer = {"AccessKeyId": s3.key_id, "SecretAccessKey": s3.secret, "Token": "role", "Expiration": end}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            pass

    s3.session_token = "role"
    with serving(Role) as url:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/role")
        there_and_back(s3, tmp_path)


@pytest.mark.usefixtures("nothing_else")
def test_without_any_key_there_is_a_sentence(s3: S3, tmp_path: Path) -> None:
    bucket = Bucket(f"s3://{s3.bucket}", endpoint=s3.url, region=s3.region)
    with pytest.raises(StorageFailed, match="no key to sign with; set REGISTRY_BUCKET_KEY_ID"):
        bucket.put(*file_of(tmp_path, DATA))
    with pytest.raises(StorageFailed, match="no key to sign with"):
        bucket.url("0" * 64, "x", 60)


# A bucket that fails ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [500, 503, CUT, HALF])
def test_what_does_not_arrive_whole_is_an_error(bucket: Bucket, s3: S3, tmp_path: Path, fault: int) -> None:
    sha256, path, size = file_of(tmp_path, random.Random(5).randbytes(3 * 2**20))
    bucket.put(sha256, path, size)
    s3.fault = lambda asked: fault
    with pytest.raises(StorageFailed, match=r"The bucket did not send .*\.$"):
        b"".join(bucket.read(sha256))


def test_wrong_bytes_arrive_as_they_are_for_whoever_reads_checks_them(bucket: Bucket, s3: S3, tmp_path: Path) -> None:
    sha256, path, size = file_of(tmp_path, DATA)
    bucket.put(sha256, path, size)
    s3.fault = lambda asked: WRONG
    assert digest(b"".join(bucket.read(sha256))) != sha256


def test_a_bucket_that_is_slow_is_not_waited_for_long(bucket: Bucket, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(buckets.PATIENCE, "quick", (0.2, 1))
    given_up = threading.Event()
    s3.fault = lambda asked: given_up.wait(60) and None
    with pytest.raises(StorageFailed, match="cannot be reached"):
        bucket.size("0" * 64)
    given_up.set()


def test_a_part_that_fails_leaves_nothing_behind(bucket: Bucket, s3: S3, tmp_path: Path) -> None:
    sha256, path, size = file_of(tmp_path, bytes(3 * multipart.LEAST_PART))
    s3.fault = lambda asked: 503 if asked.word.get("partNumber") == "2" else None
    with pytest.raises(StorageFailed, match="did not take"):
        bucket.put(sha256, path, size)
    assert s3.objects == s3.uploads == {}


def test_a_part_that_arrives_otherwise_is_refused_by_the_server(bucket: Bucket, s3: S3, tmp_path: Path) -> None:
    sha256, path, size = file_of(tmp_path, bytes(2 * multipart.LEAST_PART))
    put = S3.put

    def swap(asked: Asked, key: str) -> tuple[int, dict[str, str], bytes]:
        return put(s3, Asked(asked.method, asked.path, asked.query, asked.headers, asked.body[:-1] + b"!"), key)

    s3.put = swap  # type: ignore[method-assign]
    with pytest.raises(StorageFailed, match="BadDigest"):
        bucket.put(sha256, path, size)
    assert s3.objects == s3.uploads == {}


# Whose it is -----------------------------------------------------------------------------------------------------


def test_a_bucket_belongs_to_the_registry_that_takes_it_first(bucket: Bucket, s3: S3) -> None:
    own, other = str(uuid.uuid4()), str(uuid.uuid4())
    assert bucket.owner() is None
    bucket.claim(own)
    bucket.claim(own)
    assert bucket.owner() == own
    s3.keep("0" * 64, b"blob")
    before = dict(s3.objects)
    with pytest.raises(StorageFailed, match=f"belongs to the registry {own}, and this one is {other}"):
        bucket.claim(other)
    assert s3.objects == before
    assert [item.sha256 for item in bucket.list()] == ["0" * 64], "the mark is not a blob"


def test_a_registry_without_an_id_takes_nothing_from_a_bucket_that_has_one(bucket: Bucket, s3: S3) -> None:
    bucket.claim(own := str(uuid.uuid4()))
    bucket.belongs_to = ""
    with pytest.raises(StorageFailed, match=f"belongs to the registry {own}, and this one is new"):
        bucket.require_owner()


def test_of_two_that_take_a_bucket_at_once_one_has_it(bucket: Bucket, s3: S3) -> None:
    own, faster = str(uuid.uuid4()), str(uuid.uuid4())
    s3.fault = lambda asked: s3.keep("registry-id", faster.encode()) if asked.method == "PUT" else None
    with pytest.raises(StorageFailed, match=f"belongs to the registry {faster}"):
        bucket.claim(own)
    assert s3.objects == {"registry-id": faster.encode()}


def test_a_server_without_conditional_writes_is_refused(bucket: Bucket, s3: S3) -> None:
    s3.conditional = False
    with pytest.raises(InvalidRequest, match="does not honour conditional writes"):
        bucket.claim(str(uuid.uuid4()))
    assert s3.objects == {}, "and nothing is left there"
    s3.fault = lambda asked: 501 if "if-none-match" in asked.headers else None
    with pytest.raises(InvalidRequest, match="does not honour conditional writes"):
        bucket.claim(str(uuid.uuid4()))
