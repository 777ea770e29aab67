"""Trusted publishing: workflows push by their own identity, checked claim by claim, once, and to one model."""

import base64
import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from registry.db.tables import Publisher as Row
from registry.db.tables import Token, UsedIdentity, now
from registry.services.catalog import publishers
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.oidc import Provider, open_provider
from tests.support.prepared import Fill, add_tiny
from tests.support.world import World, create_model, push_patch, statements, upload

pytestmark = pytest.mark.heavy

MODEL, WAY, EXCHANGE = "alice/tiny", "/api/v1/models/alice/tiny/publishers", "/api/v1/publishing/token"
HERE = "http://testserver"
GITHUB = {
    "sub": "repo:Crew/Training:ref:refs/heads/main",
    "repository": "Crew/Training",
    "repository_id": "42",
    "repository_owner_id": "7",
    "job_workflow_ref": "Crew/Training/.github/workflows/train.yml@refs/heads/main",
    "ref": "refs/heads/main",
    "sha": "a" * 40,
    "run_id": "123",
    "run_attempt": "1",
    "event_name": "push",
}
WANTED = {"kind": "github", "user": "tiny-ci", "repository": "crew/training", "workflow": "train.yml"}


@pytest.fixture
def service() -> Iterator[Provider]:
    """A build service, in place of GitHub's or GitLab's, which signs identity tokens for its jobs."""
    with open_provider() as made:
        yield made


@pytest.fixture
def other() -> Iterator[Provider]:
    """Any other issuer."""
    with open_provider() as made:
        yield made


@pytest.fixture
def world_settings(service: Provider, other: Provider, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(publishers, "ISSUERS", {"github": service.url, "gitlab": service.url})
    return {"private_issuers": f"{service.url},{other.url}", "public_url": f"{HERE}/"}


@pytest.fixture
def world_filling() -> Fill:
    return add_tiny


@pytest.fixture
def tiny(world: World) -> World:
    return world


def name(world: World, **words: Any) -> Any:
    answer = world.client("alice").post(WAY, json={**WANTED, **words})
    assert answer.status_code == 201, answer.text
    return answer.json()


def exchange(world: World, token: str, model: str = MODEL) -> Any:
    return world.client(None).post(EXCHANGE, json={"model": model, "token": token})


def identity(service: Provider, **claims: Any) -> str:
    return service.identity(HERE, **{**GITHUB, "jti": str(uuid.uuid4()), **claims})


def bearer(answer: Any) -> dict[str, str]:
    assert answer.status_code == 200, answer.text
    return {"Authorization": f"Bearer {answer.json()['token']}"}


def test_a_workflow_pushes_without_a_token_and_the_patch_says_where_it_comes_from(
    tiny: World, service: Provider, tmp_path: Path
) -> None:
    name(tiny)
    given = exchange(tiny, identity(service))
    headers = bearer(given)
    assert given.json()["user"] == "tiny-ci"
    tiny.tokens["tiny-ci"] = given.json()["token"]
    base = tmp_path / "base"
    make_patch(base, fine_tuned(base, tmp_path / "tuned"), tmp_path / "p.safetensors")
    pushed = push_patch(tiny, MODEL, tmp_path / "p.safetensors", "tiny-ci")
    origin = pushed["origin"]
    assert (pushed["author"], origin["kind"], origin["issuer"]) == ("tiny-ci", "github", service.url)
    assert origin["url"] == "https://github.com/Crew/Training/actions/runs/123"
    assert (origin["claims"]["sha"], "repository_id" in origin["claims"]) == ("a" * 40, False)
    page = tiny.browser().get(f"/{MODEL}/patches/1", headers={"accept": "text/html"}).text
    assert "Pushed by a workflow" in page
    assert "https://github.com/Crew/Training/actions/runs/123" in page
    me = tiny.client(None).get("/api/v1/whoami", headers=headers).json()
    assert me["scopes"] == ["push", "read"]
    assert tiny.client(None).get("/api/v1/tokens", headers=headers).json() == []
    (event,) = tiny.client("chief", admin=True).get("/api/v1/audit?action=publisher.exchange").json()["items"]
    assert (event["user"], event["subject"], event["after"]["claims"]["run_id"]) == ("tiny-ci", MODEL, "123")


def test_what_a_workflow_pushes_by_tools_of_the_hub_says_where_it_comes_from_as_well(
    tiny: World, service: Provider, tmp_path: Path
) -> None:
    name(tiny)
    program = tiny.client(None)
    program.headers.update(bearer(exchange(tiny, identity(service))))
    lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "By CI", "description": ""}}]
    for path in sorted(fine_tuned(tmp_path / "base", tmp_path / "tuned").iterdir()):
        content = base64.b64encode(path.read_bytes()).decode()
        lines.append({"key": "file", "value": {"path": path.name, "content": content, "encoding": "base64"}})
    where = f"/api/models/{MODEL}/commit/main?create_pr=1"
    sent = program.post(where, content="\n".join(map(json.dumps, lines)).encode())
    assert sent.status_code == 200, sent.text
    tiny.work()
    made = tiny.client(None).get(f"/api/v1/models/{MODEL}/patches/1").json()
    assert (made["author"], made["origin"]["claims"]["run_id"]) == ("tiny-ci", "123")


def test_the_token_is_for_one_model_and_short(tiny: World, service: Provider, tmp_path: Path) -> None:
    create_model(tiny, "alice/other", make_checkpoint(tmp_path / "other", seed=5))
    name(tiny)
    headers = bearer(exchange(tiny, identity(service)))
    program = tiny.client(None)
    program.headers.update(headers)
    sha256 = upload(program, b"no patch")
    refused = program.post("/api/v1/models/alice/other/patches", json={"sha256": sha256, "title": "t"})
    assert (refused.status_code, "another model" in refused.text) == (403, True)
    for way, body in (("/api/v1/tokens", {"scopes": ["read"]}), ("/api/v1/namespaces", {"name": "mine"})):
        assert program.post(way, json=body).status_code == 403
    assert program.post(f"/api/v1/models/{MODEL}/patches/1/accept", json={}).status_code in (403, 404)
    with tiny.database.write() as session:
        token = session.scalars(select(Token).where(Token.kind == "publisher")).one()
        assert timedelta(minutes=59) < token.expires_at - now() <= timedelta(hours=1)
        token.expires_at = now()
    assert program.get("/api/v1/whoami").status_code == 401


@pytest.mark.parametrize(
    "claims",
    [
        {"repository": "crew/another"},
        {"repository": None},
        {"repository": ["crew/training"]},
        {"job_workflow_ref": "crew/training/.github/workflows/other.yml@refs/heads/main"},
        {"job_workflow_ref": "evil/training/.github/workflows/train.yml@refs/heads/main"},
        {"job_workflow_ref": "crew/training/.github/workflows/train.yml.evil.yml@refs/heads/main"},
        {"job_workflow_ref": None},
        {"ref": "refs/heads/evil"},
        {"ref": None},
        {"environment": "staging"},
        {"environment": None},
        {"event_name": "pull_request_target"},
        {"aud": "https://other.example.org"},
        {"aud": None},
        {"exp": 1_000_000_000},  # long ago
        {"iss": "https://evil.example.org"},
    ],
    ids=str,
)
def test_every_claim_has_to_be_there_as_it_was_written_down(
    tiny: World, service: Provider, claims: dict[str, Any]
) -> None:
    name(tiny, ref="refs/heads/main", environment="production")
    sound = {"environment": "production"}
    refused = exchange(tiny, identity(service, **{**sound, **claims}))
    assert refused.status_code == 401, refused.text
    assert exchange(tiny, identity(service, **sound)).status_code == 200


def test_an_identity_token_is_good_once_whatever_it_is_called(tiny: World, service: Provider) -> None:
    name(tiny)
    for token in (identity(service), identity(service, jti=None)):
        assert exchange(tiny, token).status_code == 200
        again = exchange(tiny, token)
        assert (again.status_code, "used before" in again.text) == (401, True)
    assert exchange(tiny, identity(service)).status_code == 200
    with tiny.database.write() as session:
        for row in session.scalars(select(UsedIdentity)):
            row.expires_at = now() - timedelta(seconds=1)
    exchange(tiny, identity(service))
    tiny.worker.sweep()
    with tiny.database.read() as session:
        assert len(session.scalars(select(UsedIdentity)).all()) == 1, "what is out of date anyway is forgotten"


def test_who_gets_a_name_that_somebody_gave_up_is_somebody_else(tiny: World, service: Provider) -> None:
    name(tiny)
    assert exchange(tiny, identity(service)).status_code == 200
    for stranger in ({"repository_owner_id": "8"}, {"repository_id": "43"}, {"repository_id": None}):
        assert exchange(tiny, identity(service, **stranger)).status_code == 401
    assert exchange(tiny, identity(service)).status_code == 200
    (shown,) = tiny.client("alice").get(WAY).json()
    assert shown["pinned"] == {"repository_id": "42", "repository_owner_id": "7"}
    assert shown["used_at"] is not None


def test_gitlab_and_any_other_issuer_are_checked_by_their_own_claims(
    tiny: World, service: Provider, other: Provider
) -> None:
    host = service.url.partition("://")[2]
    name(tiny, kind="gitlab", user="lab-ci", repository="group/sub/project", workflow=".gitlab-ci.yml")
    claims = {
        "sub": "project_path:group/sub/project:ref_type:branch:ref:main",
        "project_path": "group/sub/project",
        "ci_config_ref_uri": f"{host}/group/sub/project//.gitlab-ci.yml@refs/heads/main",
        "project_id": "1",
        "namespace_id": "2",
        "job_id": "99",
    }
    assert exchange(tiny, service.identity(HERE, jti="a", **claims)).json()["user"] == "lab-ci"
    for change in ({"project_path": "group/sub"}, {"ci_config_ref_uri": f"{host}/x//y"}, {"namespace_id": "3"}):
        assert exchange(tiny, service.identity(HERE, jti=str(change), **{**claims, **change})).status_code == 401
    body = {"kind": "oidc", "user": "own-ci", "issuer": other.url, "claims": {"sub": "job:train", "level": "3"}}
    assert tiny.client("alice").post(WAY, json=body).status_code == 201
    assert exchange(tiny, other.identity(HERE, jti="b", sub="job:train", level=3)).json()["user"] == "own-ci"
    assert exchange(tiny, other.identity(HERE, jti="c", sub="job:train")).status_code == 401
    body["issuer"] = service.url
    refused = tiny.client("alice").post(WAY, json=body)
    assert (refused.status_code, "rules of their own" in refused.text) == (422, True)


def test_a_branch_at_gitlab_is_no_tag_of_its_name_and_no_merge_request(tiny: World, service: Provider) -> None:
    host = service.url.partition("://")[2]
    name(tiny, kind="gitlab", user="lab-ci", repository="group/project", workflow=".gitlab-ci.yml", ref="main")
    claims = {
        "sub": "project_path:group/project:ref_type:branch:ref:main",
        "project_path": "group/project",
        "ci_config_ref_uri": f"{host}/group/project//.gitlab-ci.yml@refs/heads/main",
        "ref": "main",
        "ref_path": "refs/heads/main",
    }
    for change in ({"ref_path": "refs/tags/main"}, {"ref_path": None}, {"pipeline_source": "merge_request_event"}):
        assert exchange(tiny, service.identity(HERE, jti=str(change), **{**claims, **change})).status_code == 401
    assert exchange(tiny, service.identity(HERE, jti="d", **claims)).status_code == 200


def test_a_workflow_that_was_removed_can_be_named_again_and_by_nobody_else(tiny: World, tmp_path: Path) -> None:
    one = name(tiny)
    assert tiny.client("alice").delete(f"{WAY}/{one['id']}").status_code == 204
    create_model(tiny, "bob/own", make_checkpoint(tmp_path / "own", seed=3), "bob")
    assert tiny.client("bob").put("/api/v1/models/bob/own/members/tiny-ci", json={"role": "owner"}).status_code == 204
    assert tiny.client("bob").post("/api/v1/models/bob/own/publishers", json=WANTED).status_code == 409
    assert name(tiny)["user"] == "tiny-ci"


@pytest.mark.parametrize("strange", [{"alg": 1}, {"alg": "RS256", "kid": [1]}, {"alg": "RS256", "iss": "\ud800"}])
def test_what_looks_like_a_token_and_is_none_is_refused(tiny: World, strange: dict[str, Any]) -> None:
    head = {name: value for name, value in strange.items() if name != "iss"}
    parts = (head, {"iss": strange.get("iss", "https://id.example.org")})
    written = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    for first in (written[0], base64.urlsafe_b64encode(b'["alg"]').decode().rstrip("=")):
        assert exchange(tiny, f"{first}.{written[1]}.c2ln").status_code == 401


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ({"workflow": None}, 422),
        ({"repository": "no-slash"}, 422),
        ({"workflow": "../../x.txt"}, 422),
        ({"issuer": "https://evil.example.org"}, 422),
        ({"claims": {"sub": "x"}}, 422),
        ({"kind": "oidc"}, 422),
        ({"user": "alice"}, 409),
        ({"user": "admin"}, 422),
    ],
)
def test_what_cannot_be_a_publisher_is_refused(tiny: World, words: dict[str, Any], status: int) -> None:
    assert tiny.client("alice").post(WAY, json={**WANTED, **words}).status_code == status


@pytest.mark.parametrize("issuer", ["http://id.example.org", "https://127.0.0.1", "https://id.internal"])
def test_an_issuer_that_would_never_be_called_cannot_be_named(tiny: World, issuer: str) -> None:
    body = {"kind": "oidc", "user": "own-ci", "issuer": issuer, "claims": {"sub": "x"}}
    assert tiny.client("alice").post(WAY, json=body).status_code == 422


def test_a_token_for_another_service_is_not_good_here_by_whatever_name_the_server_is_called(
    tiny: World, service: Provider
) -> None:
    name(tiny)
    token = service.identity("http://other.example.org", **{**GITHUB, "jti": "x"})
    body = {"model": MODEL, "token": token}
    assert tiny.client(None).post(EXCHANGE, json=body, headers={"Host": "other.example.org"}).status_code == 401
    settings = tiny.settings.model_copy(update={"public_url": ""})
    tiny.app.state.context.providers.settings = settings
    context = tiny.app.state.context
    tiny.app.state.context = replace(context, settings=settings)
    refused = tiny.client(None).post(EXCHANGE, json=body, headers={"Host": "other.example.org"})
    assert (refused.status_code, "REGISTRY_PUBLIC_URL" in refused.text) == (409, True)


def test_only_owners_name_workflows_and_only_so_many(tiny: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tiny.client("bob").post(WAY, json=WANTED).status_code == 403
    assert tiny.client("bob").get(WAY).status_code == 403
    first = name(tiny)
    assert name(tiny)["id"] == first["id"], "the same again is the same"
    monkeypatch.setattr(publishers, "MOST", 2)
    name(tiny, workflow="other.yml")  # as the same program
    assert tiny.client("alice").post(WAY, json={**WANTED, "workflow": "third.yml"}).status_code == 409


def test_a_program_of_one_namespace_is_not_to_be_had_by_another(tiny: World, tmp_path: Path) -> None:
    name(tiny)
    create_model(tiny, "bob/own", make_checkpoint(tmp_path / "own", seed=3), "bob")
    taken = tiny.client("bob").post("/api/v1/models/bob/own/publishers", json=WANTED)
    assert taken.status_code == 409


def test_a_workflow_that_is_removed_can_do_nothing_from_then_on(tiny: World, service: Provider) -> None:
    one = name(tiny)
    headers = bearer(exchange(tiny, identity(service)))
    assert tiny.client("alice").delete(f"{WAY}/{one['id']}").status_code == 204
    assert tiny.client(None).get("/api/v1/whoami", headers=headers).status_code == 401
    assert exchange(tiny, identity(service)).status_code == 401
    assert tiny.client("alice").delete(f"{WAY}/{one['id']}").status_code == 404


def test_a_private_model_answers_as_one_that_nobody_has_and_calls_nobody(tiny: World, service: Provider) -> None:
    tiny.client("alice").patch(f"/api/v1/models/{MODEL}", json={"visibility": "private"})
    hidden, missing = (exchange(tiny, identity(service), model).json() for model in (MODEL, "alice/nothing"))
    assert hidden["detail"].replace(MODEL, "X") == missing["detail"].replace("alice/nothing", "X")
    assert service.asked == [], "no owner has named this issuer"
    name(tiny)
    for claims in ({"repository": "crew/another"}, {"aud": "https://other.example.org"}, {"exp": 1}):
        token = identity(service, **claims)
        hidden, missing = (exchange(tiny, token, model).json() for model in (MODEL, "alice/nothing"))
        assert hidden["detail"].replace(MODEL, "X") == missing["detail"].replace("alice/nothing", "X")
    with statements(tiny) as seen:
        program = bearer(exchange(tiny, identity(service)))
    assert len(seen) < 40
    assert tiny.client(None).get(f"/api/v1/models/{MODEL}", headers=program).status_code == 200
    with tiny.database.read() as session:
        assert session.scalars(select(Row.used_at)).one() is not None


def test_a_disabled_program_gets_no_token(tiny: World, service: Provider) -> None:
    name(tiny)
    chief = tiny.client("chief", admin=True)
    assert chief.patch("/api/v1/admin/users/tiny-ci", json={"active": False}).status_code == 200
    assert exchange(tiny, identity(service)).status_code == 401
