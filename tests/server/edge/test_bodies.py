"""The worst body of any route costs the event loop, and so everybody else, next to nothing."""

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import TooLarge
from registry.server.edge.admission import Route
from registry.server.edge.bodies import MEMBERS, NAMES, has_few_members, load_json
from registry.server.pages.frame.cookies import COOKIE, csrf_of
from registry.services.people import sign_ins
from registry.settings import MiB
from tests.support.community import Community
from tests.support.routes import SAFE, Way, every_page, every_way, flat
from tests.support.world import World, digest

LOOP_SECONDS = 0.1  # of the event loop's thread; an ordinary request takes 0.005, and 120,000 unknown names took 1.3
JSON = {"Content-Type": "application/json"}
VALUES = {"namespace": "alice", "name": "tiny", "number": "1", "first": "1", "second": "2", "channel": "stable"}
VALUES |= {"version": "1.1.0", "recipe": "0" * 64, "user": "bob", "rev": "main", "ref": "main", "path": "x"}


def fields(community: Community, way: Way) -> list[str]:
    """Return the names in the body of a route."""
    for route in flat(community.world.app.routes):
        if isinstance(route, Route) and (route.path, way.method in route.methods) == (way.path, True):
            return list(route.shape.model_fields) if route.body_field else []
    raise KeyError(way)


def worst_bodies(names: list[str]) -> Iterator[bytes]:
    """Yield JSON that is as much work as its bytes allow: within the limit of members, and far above it."""
    yield b"{" + b",".join(b'"k%d":1' % n for n in range(95_000)) + b"}"
    yield b'{"%s":[' % (names or ["x"])[0].encode() + b",".join([b'"\\u0041"'] * 100_000) + b"]}"
    yield b'{"x":0.%s}' % (b"1" * 1_000_000)
    for name in names:
        yield b'{"%s":[' % name.encode() + b",".join([b'{"a":1}'] * (MEMBERS // 4)) + b"]}"
    yield b'{"%s":"%s"}' % ((names or ["x"])[0].encode(), b'\\"' * 500_000)


def url(way: Way) -> str:
    return way.url(**{name: VALUES.get(name, str(uuid.uuid4())) for name in way.parameters})


@pytest.fixture
def database_kind() -> str:
    """SQLite alone: bodies are refused before it is asked, where the database decides nothing."""
    return "sqlite"


def loop_seconds(world: World, *request: Any, **more: Any) -> tuple[float, Any]:
    """Send a request of chief's; return the processor time of the event loop's thread, and the answer."""
    client = world.client("chief")
    client.follow_redirects = False
    before = world.portal.call(time.thread_time)
    answer = client.request(*request, **more)
    return world.portal.call(time.thread_time) - before, answer


@pytest.mark.slow
def test_no_json_body_holds_up_the_event_loop(sqlite_lived: Community) -> None:
    world, slow = sqlite_lived.world, []
    warm_up(world)
    for way in every_way(world.app):
        if way.method in SAFE:
            continue
        for raw in worst_bodies(fields(sqlite_lived, way)):
            assert len(raw) <= MiB
            seconds, answer = loop_seconds(world, way.method, url(way), content=raw, headers=JSON)
            assert answer.status_code < 500, (way, answer.text)
            if seconds > LOOP_SECONDS:
                slow.append((way.method, way.path, raw[:40], seconds))
    assert not slow


def warm_up(world: World) -> None:
    """Send a first request, after which FastAPI has looked through the routes of the app."""
    assert loop_seconds(world, "GET", "/api/v1/whoami")[1].status_code == 200


@pytest.mark.slow
def test_no_form_holds_up_the_event_loop(sqlite_lived: Community) -> None:
    world = sqlite_lived.world
    warm_up(world)
    with world.database.write() as session:
        secret = sign_ins.start(session, world.token("chief"))
    head = f"csrf={csrf_of(secret)}&x=".encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": f"{COOKIE}={secret}"}
    for way in every_page(world.app):
        if way.method in SAFE or way.path == "/logout":
            continue
        for raw in (head + b"%41" * 340_000, head + b"&".join(b"k%d=1" % n for n in range(3000)), b"&" * MiB):
            seconds, answer = loop_seconds(world, way.method, url(way), content=raw, headers=headers)
            assert answer.status_code < 500, (way, answer.text)
            assert seconds < LOOP_SECONDS, (way, raw[90:130])


def test_many_names_of_a_stranger_are_refused_at_once_in_one_sentence(sqlite_crew: Community) -> None:
    path = "/api/v1/models/alice/tiny/preview"
    client = sqlite_crew.world.client(None)
    for count, status in ((NAMES + 1, 422), (MEMBERS, 413)):
        raw = b"{" + b",".join(b'"k%d":1' % n for n in range(count)) + b"}"
        answer = client.post(path, content=raw, headers=JSON)
        assert answer.status_code == status
        assert len(answer.text) < 500
    assert client.post(path, content=b" " * (MiB // 4 + 1), headers=JSON).status_code == 413
    signed = sqlite_crew.world.client("bob").post(path, content=b" " * (MiB // 4 + 1), headers=JSON)
    assert signed.status_code == 422, "who has a token may send more"


def test_the_largest_model_fits(world: World) -> None:
    files = [{"path": f"part-{n}.txt", "sha256": digest(b"%d" % n)} for n in range(2000)]
    answer = world.client().post("/api/v1/models", json={"name": "alice/tiny", "files": files})
    assert (answer.status_code, answer.json()["field"]) == (422, "files"), answer.text


@pytest.mark.parametrize("size", ["true", "5.0", '"5"', "5.5", "null"])
def test_only_an_integer_is_an_integer(world: World, size: str) -> None:
    raw = f'{{"sha256": "{digest(b"bytes")}", "size": {size}}}'
    answer = world.client().post("/api/v1/uploads", content=raw, headers=JSON)
    assert (answer.status_code, answer.json()["field"]) == (422, "size")


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('ab",:[{\\\n', max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('x",:\\', max_size=3), inner, max_size=4),
    max_leaves=30,
)


def count(value: Any) -> int:
    """Count the names and values inside a value, and 1 for each empty list or object."""
    if isinstance(value, dict):
        return 2 * len(value) + sum(map(count, value.values())) or 1
    return (len(value) + sum(map(count, value)) or 1) if isinstance(value, list) else 0


@given(VALUE)
def test_names_and_values_are_counted_without_parsing(value: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        exact = count(value)
        for most in (exact, exact - 1):
            patch.setattr("registry.server.edge.bodies.MEMBERS", most)
            strings = json.dumps(value).replace("\\\\", "").replace('\\"', "").count('"')
            assert has_few_members(json.dumps(value).encode()) == (most >= exact and strings <= 2 * most)


@pytest.mark.parametrize(
    "raw", [b"[" + b"[]," * MEMBERS + b"[]]", b'["' + b'","' * MEMBERS + b'"]', b'"\\"' * MEMBERS * 3]
)
def test_what_has_too_many_members_is_not_parsed(raw: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.server.edge.bodies.json", None)
    with pytest.raises(TooLarge, match="more than 20000 names and values"):
        load_json(raw)
