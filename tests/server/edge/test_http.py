"""What holds for every request, whatever it is about."""

import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter

from registry import errors
from registry.db.tables import Token, now
from registry.logs import configure_logs
from registry.server.edge.admission import Route
from registry.server.errors import STATUS
from tests.support.routes import every_way
from tests.support.world import World, add_model, digest, open_world, statements

pytestmark = pytest.mark.heavy

UPLOAD = b'{"sha256": "%s", "size": 5}' % digest(b"bytes").encode()


def post(world: World, raw: bytes, **headers: str) -> Any:
    return world.client().post("/api/v1/uploads", content=raw, headers={"Content-Type": "application/json", **headers})


def test_every_error_class_has_a_status_and_no_two_share_a_slug() -> None:
    classes = list(errors.by_slug().values())
    assert set(STATUS) == set(classes)
    waiting, count = [errors.BreadcrumbError], 0
    while waiting:
        count += 1
        waiting += waiting.pop().__subclasses__()
    assert count == len(classes)


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    drawn = re.findall(r"[├└]── (\w+)", str(errors.__doc__))
    assert set(drawn) == {cls.__name__ for cls in errors.by_slug().values()} - {"BreadcrumbError"}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        UPLOAD[:-1],
        UPLOAD[:-1] + b', "size": 6}',
        UPLOAD.replace(b"5}", b"NaN}"),
        UPLOAD.replace(b"5}", b"Infinity}"),
        UPLOAD.replace(b"5}", b'5, "more": 1}'),
        UPLOAD.replace(b"5}", b'"\\ud800"}'),
        UPLOAD.replace(b"5}", b'"\xff"}'),
        UPLOAD.replace(b"5}", b"-1}"),
        UPLOAD.replace(b"5}", b"9" * 30 + b"}"),
        UPLOAD.replace(b"5}", b"9" * 5000 + b"}"),
        b"[" * 10_000,
    ],
)
def test_json_that_parsers_disagree_about_is_refused(world: World, raw: bytes) -> None:
    answer = post(world, raw)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["instance"] == answer.headers["x-request-id"]


def test_a_large_body_is_refused_before_and_while_it_is_read(world: World) -> None:
    assert post(world, b" " * (2**20 + 1)).status_code == 413

    def chunks():  # type: ignore[no-untyped-def]
        for _ in range(2**10 + 1):
            yield b" " * 2**10

    unannounced = world.client().post("/api/v1/uploads", content=chunks())
    assert unannounced.status_code == 413


@pytest.mark.parametrize(
    ("header", "status"), [("Bearer hf_" + "0" * 40, 401), ("Basic YTpi", 401), ("Bearer", 401), ("Bearer  ", 401)]
)
def test_a_bad_token_is_refused_everywhere(world: World, header: str, status: int) -> None:
    for path in ("/api/v1/whoami", "/api/v1/models", "/healthz"):
        assert world.client(None).get(path, headers={"Authorization": header}).status_code == status


def test_expired_and_revoked_tokens_are_refused_at_once(world: World) -> None:
    client = world.client("alice")
    assert client.get("/api/v1/whoami").json()["user"] == "alice"
    for column in ("expires_at", "revoked_at"):
        with world.database.write() as session:
            row = session.query(Token).one()
            row.expires_at = row.revoked_at = None
            setattr(row, column, now())
        refused = client.get("/api/v1/whoami")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"


def test_a_token_does_only_what_its_scopes_say(world: World) -> None:
    client = world.client("alice")
    with world.database.write() as session:
        session.query(Token).one().scopes = ["read"]
    assert client.get("/api/v1/whoami").json()["scopes"] == ["read"]
    refused = client.post("/api/v1/uploads", json={"sha256": digest(b""), "size": 1})
    assert (refused.status_code, "push" in refused.json()["detail"]) == (403, True)


def test_the_last_use_of_a_token_is_known(world: World) -> None:
    world.client("alice").get("/api/v1/whoami")
    with world.database.read() as session:
        used = session.query(Token).one().last_used_at
        assert used is not None
        assert (now() - used).total_seconds() < 60


def test_a_token_is_a_hub_token(world: World) -> None:
    assert re.fullmatch(r"hf_[A-Za-z0-9]{34,}", world.token("alice"))


def test_what_has_not_changed_is_not_sent_again(world: World) -> None:
    add_model(world)
    alice, url = world.client(), "/api/v1/models/alice/m"
    first = alice.get(url)
    etag = first.headers["etag"]
    assert (first.headers["cache-control"], alice.get(url).headers["etag"]) == ("private, no-cache", etag)
    for given in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        kept = alice.get(url, headers={"If-None-Match": given})
        assert (kept.status_code, kept.content, kept.headers["etag"]) == (304, b"", etag)
        assert "content-type" not in kept.headers
    assert alice.patch(url, json={"min_approvals": 3}).status_code == 200
    changed = alice.get(url, headers={"If-None-Match": etag})
    assert (changed.status_code, changed.json()["min_approvals"]) == (200, 3)
    assert changed.headers["etag"] != etag
    assert "etag" not in alice.get(f"{url}/patches/7").headers  # an error


def test_unknown_paths_and_methods_are_problems_too(world: World) -> None:
    ways = (("GET", "/api/v1/nope", 404), ("DELETE", "/healthz", 405), ("GET", "/api/v1/jobs/1", 422))
    for method, path, status in ways:
        answer = world.client().request(method, path)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert set(answer.json()) == {"type", "title", "status", "detail", "instance", "field"}


def test_an_unexpected_error_is_a_problem_without_insides(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the secret inside")

    monkeypatch.setattr("registry.services.catalog.models.listing", fail)
    answer = world.client().get("/api/v1/models")
    assert (answer.status_code, "secret" in answer.text) == (500, False)
    assert answer.headers["content-type"] == "application/problem+json"


def test_no_token_reaches_a_log(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = world.client("alice")
    for form in ("json", "text"):
        configure_logs(form)
        client.get("/api/v1/whoami")
        client.get(f"/api/v1/models?search={world.token('alice')}")
        monkeypatch.setattr("registry.server.views.people.whoami", lambda actor: 1 / 0)
        client.get("/api/v1/whoami")
        out, err = capsys.readouterr()
        assert "ZeroDivisionError" in err
        assert "alice" in err
        assert world.token("alice") not in out + err


def test_a_route_without_a_policy_cannot_be_registered() -> None:
    router = APIRouter(route_class=Route)
    with pytest.raises(KeyError):
        router.get("/open")(lambda: None)


def test_a_commit_that_fails_is_not_answered_as_done(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transaction ends before the answer leaves."""
    from sqlalchemy.orm import Session

    def fail(_: Session) -> None:
        raise OSError("the disk is gone")

    client = world.client()
    client.get("/api/v1/whoami")
    monkeypatch.setattr(Session, "commit", fail)
    monkeypatch.setattr("sqlalchemy.orm.SessionTransaction.commit", fail)
    assert client.post("/api/v1/uploads", json={"sha256": digest(b"b"), "size": 1}).status_code == 500


def test_health_is_asked_of_the_database_once_for_many(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    client = world.client(None)
    with statements(world) as seen:
        assert {client.get("/healthz").json()["status"] for _ in range(5)} == {"ok"}
    assert [statement for statement in seen if "SELECT" in statement] == ["SELECT 1"]
    staging = world.store.staging
    staging.rename(staging.with_name("away"))
    world.app.state.health.known = None  # a moment later
    assert [client.get("/healthz").status_code for _ in range(2)] == [500, 500]
    staging.with_name("away").rename(staging)
    world.app.state.health.known = None
    assert client.get("/healthz").status_code == 200


SCRAPER = "a-token-of-the-scraper"


@pytest.mark.parametrize("world_settings", [{}, {"metrics_token": SCRAPER}])
def test_metrics_are_for_admins_and_for_the_scraper(world: World, world_settings: dict[str, Any]) -> None:
    client = world.client(None)
    assert client.get("/healthz").status_code == 200
    text = world.client("chief", admin=True).get("/metrics").text
    assert 'registry_requests_total{method="GET",route="/healthz",status="200"} 1.0' in text
    assert "registry_jobs" in text
    assert client.get("/metrics").status_code == 401
    assert world.client("alice").get("/metrics").status_code == 403
    scraped = client.get("/metrics", headers={"Authorization": f"Bearer {SCRAPER}"})
    assert scraped.status_code == (200 if world_settings else 401)
    assert client.get("/metrics", headers={"Authorization": f"Bearer {SCRAPER}x"}).status_code == 401
    assert client.get("/api/v1/whoami", headers={"Authorization": f"Bearer {SCRAPER}"}).status_code == 401


def test_the_api_is_described(world: World) -> None:
    client = world.client(None)
    schema = client.get("/openapi.json").json()
    assert "/api/v1/models/{namespace}/{name}/compositions" in schema["paths"]
    shown = client.get("/docs")
    assert shown.status_code == 200
    for way in every_way(world.app):
        assert way.path not in schema["paths"] or way.method == "HEAD" or f"{way.method} {way.path}<" in shown.text
    for name in schema["components"]["schemas"]:
        assert f'<h3 id="{name}">' in shown.text
    assert client.get("/redoc").status_code == 404


def test_the_request_id_of_a_proxy_is_kept_when_it_is_sane(world: World) -> None:
    kept = world.client().get("/healthz", headers={"X-Request-Id": "proxy-12345678"})
    assert kept.headers["x-request-id"] == "proxy-12345678"
    made = world.client().get("/healthz", headers={"X-Request-Id": "a b\tc"})
    assert re.fullmatch(r"[0-9a-f]{32}", made.headers["x-request-id"])


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from registry.settings import Settings

    monkeypatch.setenv("DATABASE_URL", "postgres://u@h/d")
    monkeypatch.setenv("REGISTRY_JSON_BYTES", "99")
    made = Settings(data=tmp_path)
    assert (made.database, made.json_bytes) == ("postgresql+psycopg://u@h/d", 99)
    monkeypatch.delenv("DATABASE_URL")
    assert Settings(data=tmp_path).database == f"sqlite:///{tmp_path / 'registry.db'}"


@pytest.mark.parametrize(
    ("address", "told"),
    [("https://crumbs.example.org", "max-age=31536000"), ("http://crumbs.example.org", None), ("", None)],
)
def test_browsers_are_told_to_come_by_https_if_that_is_where_the_registry_is(
    tmp_path: Path, address: str, told: str | None
) -> None:
    with open_world(tmp_path / "data", f"sqlite:///{tmp_path / 'registry.db'}", public_url=address) as world:
        for path in ("/healthz", "/", "/static/style.css", "/api/v1/absent"):
            assert world.client(None).get(path).headers.get("strict-transport-security") == told
