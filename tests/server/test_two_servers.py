"""Two servers on one database and one folder: what is begun at one goes on at the other."""

import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from starlette.testclient import TestClient

from registry.server.app import close_app, create_app
from tests.support.callers import Caller
from tests.support.processes import open_registry
from tests.support.world import World, announce, content_digest, digest, put_part

DATA = random.Random(6).randbytes(4500)


@pytest.fixture
def other(world: World) -> Iterator[TestClient]:
    """Alice, at another server."""
    app = create_app(world.settings)
    yield Caller(app, world.portal, {"Authorization": f"Bearer {world.token('alice')}"})
    close_app(app)


def test_an_upload_goes_on_through_any_server(world: World, other: TestClient) -> None:
    one = world.client()
    session = announce(one, DATA)
    for number in session["missing"]:
        assert put_part([one, other][number % 2], session, DATA, number).status_code == 200
        at_both = [client.get(f"/api/v1/uploads/{session['id']}").json()["missing"] for client in (one, other)]
        assert at_both[0] == at_both[1] == session["missing"][number + 1 :]
    assert announce(other, DATA)["id"] == session["id"]
    done = [client.post(f"/api/v1/uploads/{session['id']}/complete").json()["state"] for client in (other, one)]
    assert done == ["done", "done"]
    assert world.store.read(digest(DATA), 10**4) == DATA


def test_an_upload_that_two_servers_complete_at_once_is_complete_once(world: World, other: TestClient) -> None:
    one, codes = world.client(), list[int]()
    session = announce(one, DATA)
    for number in session["missing"]:
        put_part(other, session, DATA, number)

    def complete(client: TestClient) -> None:
        codes.append(client.post(f"/api/v1/uploads/{session['id']}/complete").status_code)

    threads = [threading.Thread(target=complete, args=(client,)) for client in (one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(codes) <= {200, 409} and 200 in codes, "one may be asked to come back"
    assert world.store.read(digest(DATA), 10**4) == DATA
    assert one.get(f"/api/v1/uploads/{session['id']}").json()["state"] == "done"


@pytest.mark.slow
def test_an_upload_outlives_the_server_at_which_it_was_begun(migrated_url: str, tmp_path: Path) -> None:
    with open_registry(tmp_path / "registry", migrated_url, part_bytes=1000) as registry:
        first = registry.serve("--no-worker")
        headers, urls = {"Authorization": f"Bearer {registry.token('alice')}"}, [registry.url]
        registry.url = ""
        registry.serve("--no-worker", "--no-migrate")
        urls.append(registry.url)
        with httpx2.Client(headers=headers) as client:
            words = {"sha256": digest(DATA), "size": len(DATA)}
            session = client.post(f"{urls[0]}/api/v1/uploads", json=words).json()

            def send(url: str, number: int) -> int:
                part = DATA[number * 1000 : (number + 1) * 1000]
                where = f"{url}/api/v1/uploads/{session['id']}/parts/{number}"
                return client.put(where, content=part, headers=content_digest(part)).status_code

            assert [send(urls[0], 0), send(urls[1], 1), send(urls[0], 2)] == [200] * 3
            first.send_signal(signal.SIGKILL)
            first.wait()
            left = client.get(f"{urls[1]}/api/v1/uploads/{session['id']}").json()["missing"]
            assert left == [3, 4]
            assert [send(urls[1], number) for number in left] == [200] * 2
            assert client.post(f"{urls[1]}/api/v1/uploads/{session['id']}/complete").json()["state"] == "done"
            blob = next((registry.data / "blobs").rglob(digest(DATA)))
            assert blob.read_bytes() == DATA and os.stat(blob).st_mode & 0o222 == 0
