"""Files of revisions as the Hub's clients fetch them: headers, ranges, caches, odd addresses, counts."""

import asyncio
import hashlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pytest

from tests.support.community import NAME, Community, open_community
from tests.support.makers import make_checkpoint
from tests.support.world import create_model

pytestmark = pytest.mark.heavy

API = f"/api/models/{NAME}"
WEIGHTS = f"/{NAME}/resolve/main/model.safetensors"
CONFIG = f"/{NAME}/resolve/main/config.json"
ODD = "alice/odd"
ODD_FILES = ("a b/x+y.json", "sub/config.json", "empty.txt", "(1)'=&$,;@!.txt", "resolve/main/config.json")


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Community]:
    """For tests that change nothing, with a model whose files have odd names."""
    folder = tmp_path_factory.mktemp("still")
    with open_community("sqlite", folder, request, released=True) as made:
        base = make_checkpoint(folder / "odd", shapes={"w": (4, 4)})
        for path in ODD_FILES:
            (base / path).parent.mkdir(parents=True, exist_ok=True)
            (base / path).write_text("" if path == "empty.txt" else path)
        create_model(made.world, ODD, base)
        yield made


@pytest.fixture
def plain(sqlite_lived: Community) -> Community:
    """For tests that change something."""
    return sqlite_lived


def call(crew: Community, method: str, raw: bytes, user: str | None = None) -> tuple[int, dict[str, str], bytes]:
    """Send a request whose path is in these bytes, which no client of ours would."""
    told: list[Any] = []
    token = [(b"authorization", f"Bearer {crew.world.token(user)}".encode())] if user else []

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()  # it has sent all, and waits
        return {}

    async def send(message: Any) -> None:
        told.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(raw.decode("ascii")),
        "raw_path": raw,
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"testserver"), *token],
        "client": ("127.0.0.1", 1),
        "server": ("testserver", 80),
    }
    asyncio.run(crew.world.app(scope, receive, send))
    headers = {name.decode(): value.decode("latin-1") for name, value in told[0]["headers"]}
    return told[0]["status"], headers, b"".join(message.get("body", b"") for message in told[1:])


def stored(crew: Community, path: str) -> bytes:
    return (crew.base / path).read_bytes()


def sha(crew: Community, rev: str) -> str:
    return str(crew.world.client(None).get(f"{API}/revision/{rev}").json()["sha"])


# headers


@pytest.mark.parametrize("kind", ["resolve", "raw"])
def test_a_file_comes_with_all_that_a_cache_needs(still: Community, kind: str) -> None:
    client, want = still.world.client(None), stored(still, "model.safetensors")
    digest, commit = hashlib.sha256(want).hexdigest(), sha(still, "base")
    url = f"/{NAME}/{kind}/base/model.safetensors"
    got = client.get(url, headers={"accept-encoding": "gzip, deflate, br, zstd"})
    assert (got.status_code, got.content) == (200, want)
    head = client.head(url, headers={"accept-encoding": "identity", "x-hf-download-counter": "1"})
    assert (head.status_code, head.content) == (200, b"")
    for answer in (got, head):
        headers = answer.headers
        assert (headers["etag"], headers["x-repo-commit"]) == (f'"{digest}"', commit)
        assert (headers["content-length"], headers["accept-ranges"]) == (str(len(want)), "bytes")
        assert headers["cache-control"] == "public, no-cache"
        assert 'filename="model.safetensors"' in headers["content-disposition"]
        assert not {"content-encoding", "x-xet-hash", "x-linked-etag", "location"} & set(headers)


def test_only_the_address_with_the_whole_commit_is_the_same_for_ever(plain: Community) -> None:
    commit, client = sha(plain, "1.2.0"), plain.world.client("alice")
    for rev, words in (
        (commit, "public, max-age=31536000, immutable"),
        (commit[:12], "public, no-cache"),
        ("1.2.0", "public, no-cache"),
        ("main", "public, no-cache"),
    ):
        assert client.get(f"/{NAME}/resolve/{rev}/config.json").headers["cache-control"] == words
    assert client.patch(f"/api/v1/models/{NAME}", json={"visibility": "private"}).status_code == 200
    for rev, words in ((commit, "private, max-age=31536000, immutable"), ("main", "private, no-cache")):
        for method in ("GET", "HEAD"):
            answer = client.request(method, f"/{NAME}/resolve/{rev}/config.json")
            assert answer.headers["cache-control"] == words


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-0", 0, 1), ("bytes=8-99", 8, 100), ("bytes=100-", 100, None), ("bytes=-7", -7, None)],
)
def test_a_range_is_sent_alone(still: Community, asked: str, start: int, end: int | None) -> None:
    whole = stored(still, "model.safetensors")
    want = whole[start:end]
    first = start % len(whole)
    for method in ("GET", "HEAD"):
        answer = still.world.client(None).request(
            method, f"/{NAME}/resolve/base/model.safetensors", headers={"range": asked}
        )
        assert answer.status_code == 206
        assert answer.headers["content-range"] == f"bytes {first}-{first + len(want) - 1}/{len(whole)}"
        assert answer.headers["content-length"] == str(len(want))
        assert answer.content == (want if method == "GET" else b"")
        assert {"etag", "x-repo-commit"} <= set(answer.headers)


def test_a_range_after_the_end_is_refused_with_the_size(still: Community) -> None:
    size = len(stored(still, "model.safetensors"))
    answer = still.world.client(None).get(WEIGHTS, headers={"range": f"bytes={size + 1}-"})
    assert answer.status_code == 416
    assert answer.headers["content-range"].startswith("bytes */")
    assert "lies outside" in answer.json()["error"]
    empty = still.world.client(None).get(f"/{ODD}/resolve/main/empty.txt", headers={"range": "bytes=0-0"})
    assert (empty.status_code, empty.headers["content-range"]) == (416, "bytes */0")
    assert still.world.client(None).get(f"/{ODD}/resolve/main/empty.txt").content == b""


def test_ranges_that_nobody_needs_are_answered_with_the_whole(still: Community) -> None:
    whole = stored(still, "config.json")
    for asked in ("bytes=0-1,3-4", "bytes=x", "bytes=5-2", "lines=1-2", "bytes=" + "9" * 40 + "-"):
        answer = still.world.client(None).get(f"/{NAME}/resolve/base/config.json", headers={"range": asked})
        assert (answer.status_code, answer.content) == (200, whole), asked
    stale = {"range": "bytes=0-0", "if-range": '"other"'}
    assert still.world.client(None).get(f"/{NAME}/resolve/base/config.json", headers=stale).status_code == 200


def test_who_has_the_file_is_not_sent_it_again(still: Community) -> None:
    client = still.world.client(None)
    etag = client.head(WEIGHTS).headers["etag"]
    for known in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        answer = client.get(WEIGHTS, headers={"if-none-match": known})
        assert (answer.status_code, answer.content) == (304, b"")
        assert (answer.headers["etag"], answer.headers["x-repo-commit"]) == (etag, sha(still, "main"))
    assert client.get(WEIGHTS, headers={"if-none-match": '"x"'}).status_code == 200


# addresses


def test_files_are_found_by_their_names_however_they_are_written(still: Community) -> None:
    for path, written in (
        ("a b/x+y.json", ("a%20b/x+y.json", "a%20b/x%2By.json", "a%20b%2Fx%2By.json")),
        ("sub/config.json", ("sub/config.json", "sub%2Fconfig.json", "s%75b%2fconfig.json")),
        ("(1)'=&$,;@!.txt", ("(1)'=&$,;@!.txt", "%281%29%27%3D%26%24%2C%3B%40%21.txt")),
        ("resolve/main/config.json", ("resolve/main/config.json", "resolve%2Fmain%2Fconfig.json")),
    ):
        for one in written:
            for rev in ("main", "m%61in", "refs%2Fheads%2Fmain"):
                status, headers, body = call(still, "GET", f"/{ODD}/resolve/{rev}/{one}".encode())
                assert (status, body) == (200, path.encode()), (one, body)
                assert headers["content-disposition"].isascii()


MISSING = (
    *(
        "none",
        "",
        "/",
        "sub",
        "sub/",
        "/config.json",
        "config.json/",
        "./config.json",
        "sub/../config.json",
        "..",
        "%2E%2E",
    ),
    *(
        "..%2F..%2F..%2Fetc%2Fpasswd",
        "%2Fetc%2Fpasswd",
        "a+b/x+y.json",
        "a%2520b/x+y.json",
        "config.json%00",
        "%00",
        "%0A",
    ),
    *(
        "config.json%3Fx",
        "config.json%23x",
        "sub//config.json",
        "sub%5Cconfig.json",
        "CONFIG.JSON",
        "%F0%9F%99%88",
        "%25",
    ),
)


def test_a_file_that_is_not_there_is_a_miss_that_clients_remember(still: Community) -> None:
    commit = still.world.client(None).get(f"/api/models/{ODD}").json()["sha"]
    for path in MISSING:
        for method in ("GET", "HEAD"):
            status, headers, body = call(still, method, f"/{ODD}/resolve/main/{path}".encode())
            assert (status, headers.get("x-error-code")) == (404, "EntryNotFound"), (path, status, body)
            assert headers["x-repo-commit"] == commit
            assert headers["x-error-message"].isascii()


def test_addresses_that_nobody_means_are_answered(still: Community) -> None:
    """And by no file: a path is decoded once, and the names of a model not at all."""
    for raw in (
        f"/{ODD}/resolve/main",
        f"/{ODD}/resolve/",
        f"/{ODD}/resolve//config.json",
        f"//{ODD}/resolve/main/config.json",
        f"/{ODD}//resolve/main/config.json",
        "/alice%2Fodd/resolve/main/config.json",
        "/alice/odd%2Fresolve/main/config.json",
        "/alice/odd%2Fresolve%2Fmain%2Fconfig.json",
        "/alice%2Fodd/resolve/main/sub%252Fconfig.json",
        f"/{ODD}/resolv%65/main/sub%252Fconfig.json",
        "/alice/%6Fdd/resolve/main/config.json",
        "/alice/../alice/odd/resolve/main/config.json",
        "/alice/od%00d/resolve/main/config.json",
        "/alice/%FF/resolve/main/config.json",
        f"/{ODD}/resolve/main/%FF",
        f"/{ODD}/resolve/%FF/config.json",
        f"/{ODD}/resolve/%2F/config.json",
        f"/api/models%2F{ODD}",
        f"/api/models/{ODD}/",
        "/api/models/alice%2Fodd",
        f"/api/models/{ODD}/tree",
        f"/api/models/{ODD}/tree/main/%FF",
        f"/api/models/{ODD}/discussions/",
        f"/api/models/{ODD}%00",
        "/api/models/none",
        "/api/models//",
    ):
        for method in ("GET", "HEAD"):
            status, _, body = call(still, method, raw.encode())
            assert status == 307 or 400 <= status < 500, (raw, status, body)


def test_other_methods_are_refused(still: Community) -> None:
    client = still.world.client("alice")
    for method, path in (("PUT", CONFIG), ("DELETE", CONFIG), ("POST", API)):
        assert client.request(method, path).status_code == 405
    refused = client.put(f"{API}/refs")
    assert (refused.status_code, refused.json()["error"]) == (400, refused.headers["x-error-message"])
