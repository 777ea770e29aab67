"""Who gets to see which page, and whose forms are taken: every page, every role, with a cookie in place of a token."""

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from starlette.responses import HTMLResponse
from starlette.testclient import TestClient

from registry.db.tables import Model, SignIn, now
from registry.server.edge.limits import Rate
from registry.server.edge.middleware import Edge
from registry.server.pages.frame.cookies import COOKIE, csrf_of
from registry.server.processes.counters import Counters
from registry.server.processes.locks import Lock
from registry.server.processes.metrics import Metrics
from registry.services.people import sign_ins
from registry.services.people.rules import Role
from tests.support.community import NAME, Community, open_community
from tests.support.routes import Way, every_page, every_way

ROLES = {None: Role.ANYONE, "carol": Role.CONTRIBUTOR, "rita": Role.REVIEWER, "mary": Role.MAINTAINER}
ROLES |= {"alice": Role.OWNER, "chief": Role.ADMIN}
VALUES = {"namespace": "alice", "name": "tiny", "number": "1", "first": "1", "second": "2", "channel": "stable"}
VALUES |= {"version": "1.1.0", "digest": "0" * 64, "recipe": "0" * 64, "user": "bob"}


@pytest.fixture
def released(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Community]:
    """A model with three releases."""
    with open_community("sqlite", tmp_path, request, released=True) as made:
        yield made


def sign_in(community: Community, user: str | None) -> tuple[TestClient, str]:
    """Return a browser of somebody, and the secret in its cookie."""
    http = community.world.browser()
    http.headers["accept"] = "text/html"
    if user is None:
        return http, ""
    with community.world.database.write() as session:
        secret = sign_ins.start(session, community.world.token(user))
    http.cookies.set(COOKIE, secret)
    return http, secret


def address(way: Way) -> str:
    """Fill in the address of a page."""
    return way.url(**{name: VALUES.get(name, str(uuid.uuid4())) for name in way.parameters})


def post(http: TestClient, path: str, secret: str, **fields: Any) -> Any:
    """Send a form as our own pages do."""
    return http.post(path, data={"csrf": csrf_of(secret), **fields})


def test_every_page_is_shown_to_whom_the_rules_let_and_to_nobody_else(released: Community) -> None:
    pages = every_page(released.world.app)
    assert len(pages) > 40
    for user, role in ROLES.items():
        http, secret = sign_in(released, user)
        for way in pages:
            if way.path in ("/logout", "/login", "/join", "/join/accept"):
                continue
            answer = http.get(address(way)) if way.reads else post(http, address(way), secret, nonsense="x")
            if user is None and way.rule.role > Role.ANYONE:
                assert answer.status_code == (303 if way.reads else 401), way
                assert not way.reads or answer.headers["location"].startswith("/login?next="), way
            elif way.rule.on == "namespace" or (way.rule.author and user != "alice"):
                assert answer.status_code != 500, way
            elif role < way.rule.role:
                assert answer.status_code == 403, (user, way)
            else:
                assert answer.status_code not in (401, 403, 500), (user, way, answer.text)


def test_pages_of_a_private_model_are_nowhere_for_others(released: Community) -> None:
    with released.world.database.write() as session:
        session.scalars(select(Model)).one().visibility = "private"
    for user in (None, "carol"):
        http, secret = sign_in(released, user)
        for way in every_page(released.world.app):
            if not way.about_a_model:
                continue
            answer = http.get(address(way)) if way.reads else post(http, address(way), secret)
            if user is None and (not way.reads or way.rule.role > Role.ANYONE):
                assert answer.status_code in (303, 401), way
            else:
                assert answer.status_code == 404, way
                assert "Patch 1" not in answer.text, way


def test_no_form_is_taken_that_this_browser_was_not_shown(released: Community) -> None:
    http, secret = sign_in(released, "chief")
    _, other = sign_in(released, "mary")
    before = released.count_events()
    for way in every_page(released.world.app):
        if way.reads or way.action == "mail.unsubscribe":  # whose secret is its address
            continue
        for body in ({"x": "y"}, {"csrf": ""}, {"csrf": csrf_of(other)}, {"csrf": "ä"}):
            answer = http.post(address(way), data=body)
            assert answer.status_code == 403, (way, body)
        fields = {"csrf": csrf_of(secret)}
        assert http.post(address(way), data=fields, headers={"sec-fetch-site": "cross-site"}).status_code == 403, way
        assert http.post(address(way), json=fields).status_code in (403, 422), way
        assert http.post(address(way), content=b"\xff=%ff", headers={"content-type": "text/plain"}).is_client_error
    assert released.count_events() == before


def test_looking_changes_nothing(released: Community) -> None:
    http, _ = sign_in(released, "chief")
    before = released.count_events()
    for way in every_page(released.world.app):
        if way.reads and "{job_id}" not in way.path:
            assert http.get(address(way)).status_code < 500, way
    assert released.count_events() == before


def test_every_answer_says_what_a_browser_may_do_with_it(released: Community) -> None:
    http, _ = sign_in(released, "chief")
    ways = [way for way in (*every_way(released.world.app), *every_page(released.world.app)) if way.method == "GET"]
    paths = [address(way) for way in ways if not way.path.endswith("/events")]
    shown = 0
    for path in (*paths, "/nothing/here", "/api/v1/nothing", "/static/style.css", "/static/nothing"):
        answer = http.get(path)
        (policy,) = answer.headers.get_list("content-security-policy")
        assert "'unsafe" not in policy and "default-src 'none'" in policy and "frame-ancestors 'none'" in policy, path
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        html = answer.headers.get("content-type", "").startswith("text/html")
        assert html != policy.endswith("sandbox"), path
        if html:
            shown += 1
            assert answer.headers["cache-control"] == "private, no-store", path
            assert "style=" not in answer.text and "onclick" not in answer.text, path
            assert not re.search(r"""(src|action)=["'](https?:)?//""", answer.text), path
    assert shown > 30


def test_a_route_that_answers_html_and_forgets_its_policy_gets_it() -> None:
    inner = HTMLResponse("<script>alert(1)</script>", media_type="Text/HTML")
    app = Edge(inner, Metrics(), Rate("address", "", Counters(8, Lock())), body_seconds=1, body_rate=0)
    policy = TestClient(app).get("/new").headers["content-security-policy"]
    assert "script-src 'self'" in policy and "frame-ancestors 'none'" in policy


def test_a_sign_in_ends_with_its_token_its_time_and_its_user(released: Community) -> None:
    http, secret = sign_in(released, "mary")
    assert http.get("/settings/tokens").status_code == 200
    with released.world.database.write() as session:
        row = session.scalars(select(SignIn)).one()
        assert secret not in (row.secret_hash, str(row.id))
        row.expires_at = now()
    assert http.get("/settings/tokens").status_code == 303
    http, _ = sign_in(released, "mary")
    released.disable("mary")
    assert http.get("/settings/tokens").status_code == 303
    released.disable("mary", active=True)
    assert http.get("/settings/tokens").status_code == 200


def test_signing_in_gives_a_new_secret_and_leads_nowhere_else(released: Community) -> None:
    http, _ = sign_in(released, None)
    assert http.get("/login").status_code == 200
    planted = http.cookies[COOKIE]
    for where in ("https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)", "/\tx"):
        answer = post(http, "/login", http.cookies[COOKIE], token=released.world.token("bob"), next=where)
        assert (answer.status_code, answer.headers["location"]) == (303, "/"), where
        assert http.cookies[COOKIE] != planted
    answer = post(http, "/login", http.cookies[COOKIE], token=released.world.token("bob"), next=f"/{NAME}?x=1")
    assert answer.headers["location"] == f"/{NAME}?x=1"


def test_the_cookie_is_sent_over_tls_alone_where_the_registry_is_reached_by_tls(released: Community) -> None:
    for base, secure in (("http://testserver", False), ("https://testserver", True)):
        http = released.world.browser(base_url=base)
        said = http.get("/login").headers["set-cookie"].lower()
        assert "httponly" in said and "samesite=lax" in said and ("secure" in said) == secure


def test_a_token_in_a_header_opens_no_page_and_a_cookie_no_api(released: Community) -> None:
    http = released.world.browser()
    token = {"authorization": f"Bearer {released.world.token('chief')}"}
    assert http.get("/admin", headers=token).status_code == 303
    http, _ = sign_in(released, "chief")
    assert http.get("/api/v1/whoami").status_code == 401
    assert http.get("/api/v1/nothing").headers["content-type"] == "application/problem+json"
