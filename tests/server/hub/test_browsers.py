"""Which answers pages of other sites may read: what the Hub's clients read, and nothing else."""

import pytest

from registry.server.hub.browsers import QUESTIONS
from tests.support.community import NAME, Community
from tests.support.routes import SAFE, every_page, every_way

SITE = "https://example.org"
VALUES = {"namespace": "alice", "name": "tiny", "number": "1", "first": "1", "second": "2", "channel": "stable"}
VALUES |= {"version": "1.1.0", "recipe": "0" * 64, "user": "bob", "rev": "main", "ref": "main", "path": "config.json"}
SHOWN = {"etag", "x-repo-commit", "x-linked-etag", "x-linked-size", "link", "x-error-code", "x-error-message"}
SHOWN |= {"content-range", "accept-ranges"}


def asked(method: str, names: str = "authorization,content-type,range") -> dict[str, str]:
    return {"Origin": SITE, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": names}


def test_what_the_hubs_clients_read_is_for_every_site_and_nothing_else_is(sqlite_lived: Community) -> None:
    world = sqlite_lived.world
    client, shared = world.browser(), set()
    ways = [*every_way(world.app), *every_page(world.app)]
    for way in ways:
        url = way.url(**{name: VALUES.get(name, "0" * 32) for name in way.parameters})
        if url.endswith("/events"):
            continue
        answer = client.request(way.method, url, headers={"Origin": SITE})
        before = client.options(url, headers=asked(way.method))
        allowed = answer.headers.get("access-control-allow-origin")
        assert allowed == before.headers.get("access-control-allow-origin"), way
        assert (before.status_code == 204) == (allowed is not None), way
        assert "access-control-allow-credentials" not in {*answer.headers, *before.headers}, way
        if allowed is not None:
            assert allowed == "*", way
            shared.add((way.method, way.path))
    hub = {
        (way.method, way.path)
        for way in every_way(world.app)
        if way.lenient and (way.method in SAFE or way.path in QUESTIONS)
    }
    assert shared == hub
    assert {("GET", "/{namespace}/{name}/resolve/{rev}/{path:path}"), ("GET", "/api/models")} <= shared
    assert ("POST", QUESTIONS[0]) in shared
    assert not any(path.startswith(("/api/v1", "/{namespace:space}")) for _, path in shared)


def test_a_page_of_another_site_reads_a_file_as_transformers_js_does(sqlite_lived: Community) -> None:
    client, path = sqlite_lived.world.client(None), f"/{NAME}/resolve/main/config.json"
    before = client.options(path, headers=asked("GET", "authorization, range"))
    assert (before.status_code, before.text) == (204, "")
    assert before.headers["access-control-allow-methods"] == "GET"
    assert before.headers["access-control-allow-headers"] == "authorization, range"
    part = client.get(path, headers={"Origin": SITE, "Range": "bytes=0-0"})
    assert (part.status_code, part.headers["access-control-allow-origin"]) == (206, "*")
    assert {name.strip().lower() for name in part.headers["access-control-expose-headers"].split(",")} >= SHOWN
    missing = client.get(f"/{NAME}/resolve/main/none", headers={"Origin": SITE})
    assert (missing.status_code, missing.headers["access-control-allow-origin"]) == (404, "*")


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (f"/api/v1/models/{NAME}", asked("GET")),
        (f"/{NAME}", asked("GET")),
        (f"/api/models/{NAME}/discussions/1/comment", asked("POST")),
        (f"/api/models/{NAME}", asked("DELETE")),
        (f"/api/models/{NAME}", asked("GET", "x: y")),
        (f"/api/models/{NAME}", {"Origin": SITE}),
        ("/nothing", asked("GET")),
    ],
)
def test_a_browser_is_allowed_nothing_more(sqlite_crew: Community, path: str, headers: dict[str, str]) -> None:
    answer = sqlite_crew.world.client(None).options(path, headers=headers)
    assert answer.status_code in (404, 405)
    assert not [name for name in answer.headers if name.startswith("access-control-")]
