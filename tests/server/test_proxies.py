"""Behind nginx and Caddy, set up as the guide says: what people do works, and who they are is known."""

import grp
import hashlib
import os
import pwd
import re
import shlex
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import ValidationError

from registry.settings import Settings
from tests.support.launcher import Process
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.processes import Cutter, Person, Registry, open_registry, person
from tests.support.proxies import GUIDE, open_proxy

MODEL = "alice/m"
METRICS_TOKEN = "of-the-operator-for-prometheus"
NOBODY = "www-data"  # as whom Debian's nginx runs
RATE = 200  # requests a minute and address; the other tests stay far below


@dataclass
class Behind:
    """A registry behind a proxy, and somebody who uses it over TLS."""

    registry: Registry
    worker: Process
    certificate: Path
    alice: Person
    folder: Path

    def client(self, address: str = "127.0.0.1") -> httpx2.Client:
        """Return a client that comes from an address."""
        trusted = ssl.create_default_context(cafile=str(self.certificate))
        transport = httpx2.HTTPTransport(verify=trusted, local_address=address)
        return httpx2.Client(base_url=self.registry.url, transport=transport, timeout=60)

    def push(self) -> None:
        """Create a model and push a patch, in parts that are larger than the 1 MB that nginx takes by default."""
        base = make_checkpoint(self.folder / "base", shapes={"w": (1024, 2048)})
        make_patch(base, fine_tuned(base, self.folder / "tuned"), self.folder / "patch.safetensors")
        self.alice.crumb("model", "create", MODEL, "--base", str(base))
        self.alice.crumb("push", str(self.folder / "patch.safetensors"), MODEL, "-m", "a patch")


@pytest.fixture(params=["nginx", "caddy"])
def behind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Behind]:
    settings: dict[str, Any] = {"rate_address": f"{RATE}/minute", "proxies": "127.0.0.1", "part_bytes": 3 * 2**20}
    with open_registry(tmp_path / "registry", **settings) as registry:
        registry.serve("--no-worker")
        worker = registry.start("worker")
        alice = person(registry, "alice")
        with open_proxy(request.param, tmp_path, registry.url) as (registry.url, certificate):
            registry.environment["SSL_CERT_FILE"] = str(certificate)
            yield Behind(registry, worker, certificate, alice, tmp_path)


@pytest.mark.slow
def test_people_push_compose_pull_and_resume(behind: Behind) -> None:
    behind.push()
    recipe = behind.alice.crumb("compose", MODEL, "1", "-q").split()[0]
    merged = behind.folder / "merged"
    behind.alice.crumb("pull", f"{MODEL}@{recipe}", "-o", str(merged))
    behind.alice.crumb("verify", str(merged))
    whole = (merged / "model.safetensors").read_bytes()
    with behind.client() as client:
        path = f"/{MODEL}/resolve/{recipe}/model.safetensors"
        etag = client.head(path).headers["etag"]
        rest = client.get(path, headers={"Range": "bytes=1000000-", "If-Range": etag})
        assert (rest.status_code, rest.content, rest.headers["etag"]) == (206, whole[1_000_000:], etag)


@pytest.mark.slow
def test_events_come_as_they_happen(behind: Behind) -> None:
    behind.push()
    behind.worker.terminate()
    behind.worker.wait(30)  # so that the job stays queued, and its stream open
    with behind.client() as client:
        token = {"Authorization": f"Bearer {behind.alice.token}"}
        url, body = f"/api/v1/models/{MODEL}/compositions", {"patches": [{"number": 1}]}
        job = client.post(url, json=body, headers=token).json()["job"]["id"]
        with client.stream("GET", f"/jobs/{job}/events", headers={"Accept": ""}) as answer:
            assert next(answer.iter_lines()).startswith("data:")


@pytest.mark.slow
def test_cookies_and_links_are_for_https(behind: Behind) -> None:
    with behind.client() as client:
        cookie = client.get("/login").headers["set-cookie"].lower()
        assert "secure" in cookie and "httponly" in cookie
        assert f"crumb login {behind.registry.url}\n" in client.get("/").text


@pytest.mark.slow
def test_each_client_has_its_own_limit_whatever_it_says_of_itself(behind: Behind) -> None:
    with behind.client("127.0.0.2") as busy, behind.client("127.0.0.3") as other:
        answers = [
            busy.get("/api/v1/models", headers={"X-Forwarded-For": f"203.0.113.{number % 250}"}).status_code
            for number in range(RATE + 20)
        ]
        assert set(answers[:RATE]) == {200} and answers[-1] == 429
        assert other.get("/api/v1/models").status_code == 200


@pytest.fixture
def accelerated(tmp_path: Path) -> Iterator[Behind]:
    """A registry whose files are sent by nginx."""
    with open_registry(
        tmp_path / "registry", accel="/_blobs", part_bytes=3 * 2**20, metrics_token=METRICS_TOKEN
    ) as registry:
        registry.serve("--no-worker")
        worker = registry.start("worker")
        alice = person(registry, "alice")
        behind = registry.url
        with open_proxy("nginx", tmp_path, registry.url, registry.data) as (registry.url, certificate):
            registry.environment |= {"SSL_CERT_FILE": str(certificate), "BEHIND": behind}
            yield Behind(registry, worker, certificate, alice, tmp_path)


@pytest.mark.slow
def test_nginx_sends_files_as_the_registry_would(accelerated: Behind) -> None:
    accelerated.push()
    path, here = f"/{MODEL}/resolve/main/model.safetensors", accelerated.registry.environment["BEHIND"]
    with accelerated.client() as there, httpx2.Client(base_url=here) as direct:
        ours = direct.get(path)  # from a trusted address, but on nobody's behalf
        whole, etag = ours.content, ours.headers["etag"]
        told = direct.get(path, headers={"X-Forwarded-For": "203.0.113.1"})
        assert (told.content, told.headers["x-accel-redirect"][:15]) == (b"", "/_blobs/sha256/")
        last = f"bytes={len(whole) - 5}-"
        for conditions in (
            {},
            {"Range": "bytes=10-19"},
            {"Range": last},
            {"Range": "bytes=-7"},
            {"Range": "bytes=0-1,5-6"},
            {"Range": "bytes=9-2"},
            {"Range": f"bytes={len(whole)}-"},
            {"Range": last, "If-Range": etag},
            {"Range": last, "If-Range": '"another"'},
            {"Range": last, "If-Match": etag},
            {"If-Match": '"another"'},
            {"If-None-Match": etag},
            {"If-None-Match": '"another"'},
            {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"},
            {"If-Unmodified-Since": "Thu, 01 Jan 1970 00:00:01 GMT"},
        ):
            for method in ("GET", "HEAD"):
                answers = [client.request(method, path, headers=conditions) for client in (direct, there)]
                ours, theirs = ({**answer.headers, "status": answer.status_code} for answer in answers)
                own = {"date", "server", "connection", "x-request-id", "accept-ranges"}  # nginx: none in a 206
                assert {name for name in ours if ours[name] != theirs.get(name)} <= own, conditions
                assert set(theirs) - set(ours) <= own and len(theirs["x-request-id"]) == 32
                if answers[0].status_code < 400:
                    assert answers[0].content == answers[1].content
        there.get(f"/{MODEL}/resolve/main/config.json").raise_for_status()
        assert there.get(f"/api/models/{MODEL}").json()["downloadsAllTime"] == 1


@pytest.mark.slow
def test_what_nginx_sends_is_neither_public_nor_anywhere_else(accelerated: Behind) -> None:
    accelerated.push()
    accelerated.alice.crumb("model", "set", MODEL, "--private")
    path = f"/{MODEL}/resolve/main/model.safetensors"
    with accelerated.client() as client:
        assert client.get(path).status_code in (401, 404)
        token = {"Authorization": f"Bearer {accelerated.alice.token}"}
        sent = client.get(path, headers=token)
        sha256 = sent.headers["etag"].strip('"')
        assert hashlib.sha256(sent.content).hexdigest() == sha256
        assert sent.headers["cache-control"].startswith("private")
        for inside in (f"sha256/{sha256[:2]}/{sha256[2:4]}/{sha256}", "../registry.db", "%2e%2e/registry.db", ""):
            assert client.get(f"/_blobs/{inside}", headers=token).status_code == 404


@pytest.mark.slow
def test_a_pull_through_nginx_resumes(accelerated: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerated.push()
    pulled, before = accelerated.folder / "pulled", sent_bytes(accelerated)
    monkeypatch.setenv("SSL_CERT_FILE", str(accelerated.certificate))
    with Cutter(accelerated.registry.url, after=2**21) as cutter:
        accelerated.registry.url = cutter.url
        accelerated.alice.crumb("pull", f"{MODEL}@base", "-o", str(pulled))
    weights = (accelerated.folder / "base" / "model.safetensors").read_bytes()
    assert (pulled / "model.safetensors").read_bytes() == weights
    assert cutter.cut.is_set() and any(cutter.ranges)
    assert sent_bytes(accelerated) - before < 2**18 < len(weights)


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that every user can enter, as none below pytest's own is."""
    with tempfile.TemporaryDirectory(prefix="crumbs-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can run nginx as another user")
def test_nginx_as_another_user_of_the_group_reads_blobs_and_nothing_else(open_place: Path) -> None:
    try:
        stranger = pwd.getpwnam(NOBODY).pw_uid
    except KeyError:
        pytest.skip(f"there is no user {NOBODY}")
    with open_registry(open_place / "registry", accel="/_blobs", part_bytes=3 * 2**20) as registry:
        server, alice = registry.serve(), person(registry, "alice")
        group = grp.getgrgid(registry.data.stat().st_gid).gr_name
        with open_proxy("nginx", open_place, registry.url, registry.data, f"{NOBODY} {group}") as (there, certificate):
            behind = Behind(registry, server, certificate, alice, open_place)
            behind.push()
            path = f"{there}/{MODEL}/resolve/main/model.safetensors"
            trusted = ssl.create_default_context(cafile=str(certificate))
            assert httpx2.get(path, verify=trusted).status_code == 403, "the folder is closed to all others at first"
            for line in opening(registry.data):
                subprocess.run(shlex.split(line), check=True)
            server.terminate()
            server.wait(30)
            registry.environment["REGISTRY_UMASK"] = "027"
            registry.serve()
            weights = (open_place / "base" / "model.safetensors").read_bytes()
            assert httpx2.get(path, verify=trusted).content == weights
            make_patch(
                open_place / "base", fine_tuned(open_place / "base", open_place / "two", seed=2), open_place / "2"
            )
            alice.crumb("push", str(open_place / "2"), MODEL, "-m", "stored since the folder was opened")
            sent = httpx2.get(f"{there}/api/v1/models/{MODEL}/patches/2/file", verify=trusted)
            assert sent.content == (open_place / "2").read_bytes()
        for name, readable in {"registry.db": False, "registry.db-wal": False, "staging": False, "blobs": True}.items():
            done = subprocess.run(
                ["test", "-r", str(registry.data / name)], user=stranger, group=registry.data.stat().st_gid
            )
            assert (done.returncode == 0) is readable, name


def opening(data: Path) -> list[str]:
    """Return the lines of the guide that let a group read the blobs of a registry, for a data folder."""
    text = (GUIDE / "proxy.md").read_text()
    return [
        line.replace("./registry-data", str(data))
        for line in re.findall(r"^chmod (?:-R )?g.*?(?=\s+#|$)", text, re.MULTILINE)
    ]


def sent_bytes(behind: Behind) -> float:
    """Return how many bytes the registry itself has sent."""
    headers = {"Authorization": f"Bearer {METRICS_TOKEN}"}
    text = httpx2.get(f"{behind.registry.environment['BEHIND']}/metrics", headers=headers).text
    return float(re.findall(r"^registry_sent_bytes_total (.*)$", text, re.MULTILINE)[0])


def test_a_location_needs_a_proxy_that_has_it() -> None:
    for wrong in (
        {"accel": "/_blobs", "proxies": ""},
        {"accel": "_blobs"},
        {"accel": "/_blobs/"},
        {"accel": "/a/../b"},
    ):
        with pytest.raises(ValidationError, match="accel"):
            Settings(**wrong)


def test_only_addresses_and_networks_are_proxies() -> None:
    assert Settings(proxies="10.0.0.0/8,::1").proxies == "10.0.0.0/8,::1"
    for wrong in ("proxy.example.org", "10.0.0.1/8", "10.0.0.1;10.0.0.2"):
        with pytest.raises(ValidationError, match="proxies"):
            Settings(proxies=wrong)
