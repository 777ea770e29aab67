"""Behind nginx and Caddy, set up as the guide says: what people do works, and who they are is known."""

import ssl
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
from tests.support.processes import Person, Registry, open_registry, person
from tests.support.proxies import open_proxy

MODEL = "alice/m"
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


def test_only_addresses_and_networks_are_proxies() -> None:
    assert Settings(proxies="10.0.0.0/8,::1").proxies == "10.0.0.0/8,::1"
    for wrong in ("proxy.example.org", "10.0.0.1/8", "10.0.0.1;10.0.0.2"):
        with pytest.raises(ValidationError, match="proxies"):
            Settings(proxies=wrong)
