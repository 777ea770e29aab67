"""Sign-in by a provider: the whole way of a browser, accounts, groups, and what a provider or a browser may not do."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from registry.db.tables import Identity, NamespaceMember, SignIn, Token, User, now
from registry.server.edge import providers
from registry.server.pages.frame.cookies import COOKIE, csrf_of
from registry.server.pages.people.provider import FLOW, LINK
from registry.settings import Settings
from tests.support.oidc import CLIENT, SECRET, Provider, open_provider
from tests.support.world import World

pytestmark = pytest.mark.heavy

GROUPS = "speech=crew:maintainer,everybody=crew:contributor,heads=crew:owner"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with open_provider() as made:
        made.who = {
            "sub": "u-1",
            "preferred_username": "Ada.L@Example",
            "name": "Ada Lovelace",
            "groups": ["everybody"],
        }
        yield made


@pytest.fixture
def world_settings(provider: Provider) -> dict[str, Any]:
    return {
        "oidc_issuer": provider.url,
        "oidc_client_id": CLIENT,
        "oidc_client_secret": SECRET,
        "oidc_groups": GROUPS,
        "oidc_join": "everybody",
        "private_issuers": provider.url,
    }


def there_and_back(browser: TestClient, begun: httpx2.Response) -> str:
    """Go to the provider as a browser does, and return the address at which it comes back."""
    assert begun.status_code == 303, begun.text
    sent = httpx2.get(begun.headers["location"], follow_redirects=False)
    return sent.headers["location"].removeprefix(str(browser.base_url).rstrip("/"))


def sign_in(world: World, browser: TestClient | None = None, path: str = "/login/provider?next=/alice") -> Any:
    """Sign a browser in by the provider, and return the last answer."""
    browser = browser or world.browser()
    return browser.get(there_and_back(browser, browser.get(path)))


def whoami(browser: TestClient) -> str | None:
    """Return who is signed in in a browser."""
    found = re.search(r'<a href="/([a-z0-9.-]+)">\1</a>', browser.get("/").text)
    return found[1] if found else None


def members(world: World) -> dict[str, str]:
    return {row["user"]: row["role"] for row in world.client("alice").get("/api/v1/namespaces/crew").json()["members"]}


def organise(world: World) -> None:
    assert world.client("alice").post("/api/v1/namespaces", json={"name": "crew"}).status_code == 201


def test_whoever_signs_in_for_the_first_time_gets_an_account_like_their_name_there(world: World) -> None:
    world.token("alice")
    browser = world.browser()
    done = sign_in(world, browser)
    assert (done.status_code, done.headers["location"]) == (303, "/alice")
    assert whoami(browser) == "ada-l"
    shown = world.client(None).get("/api/v1/users/ada-l").json()
    assert shown["display_name"] == "Ada Lovelace"
    again = world.browser()
    sign_in(world, again)
    assert whoami(again) == "ada-l", "and the same account the next time"


def test_a_name_that_is_taken_or_looks_like_another_gets_a_number(world: World, provider: Provider) -> None:
    world.token("ada1")  # which a hasty reader takes for adal
    browser = world.browser()
    sign_in(world, browser)
    assert whoami(browser) == "ada-l-2"
    provider.who = {"sub": "u-2", "preferred_username": "admin"}
    second = world.browser()
    sign_in(world, second)
    assert whoami(second) == "admin-2"


def test_groups_give_roles_and_take_them_away_at_the_next_sign_in(world: World, provider: Provider) -> None:
    organise(world)
    sign_in(world)
    assert members(world) == {"alice": "owner", "ada-l": "contributor"}
    for groups, role in ((["speech", "everybody"], "maintainer"), (["unknown"], None), ("speech", None)):
        provider.who = {**(provider.who or {}), "groups": groups}
        sign_in(world)
        assert members(world).get("ada-l") == role


def test_groups_may_come_from_elsewhere_and_an_organisation_keeps_its_last_owner(
    world: World, provider: Provider
) -> None:
    organise(world)
    provider.who = {"sub": "u-1", "preferred_username": "ada"}
    provider.userinfo = {"groups": [{"preferred_username": "heads"}, 7]}
    sign_in(world)
    assert members(world) == {"alice": "owner", "ada": "owner"}
    assert world.client("alice").delete("/api/v1/namespaces/crew/members/alice").status_code == 204
    provider.userinfo = {"groups": []}
    sign_in(world)
    with world.database.read() as session:
        assert session.scalars(select(NamespaceMember.role).where(NamespaceMember.role == "owner")).all()
    provider.userinfo = {"sub": "somebody-else", "groups": ["heads"]}
    assert sign_in(world).status_code == 403


def test_somebody_who_is_removed_there_can_do_nothing_here_after_the_time_of_a_sign_in(world: World) -> None:
    browser = world.browser()
    sign_in(world, browser)
    secret = browser.cookies[COOKIE]
    made = browser.post(
        "/settings/tokens", data={"csrf": csrf_of(secret), "scopes": ["read", "push"], "expires_days": "300"}
    )
    token = re.search(r"hf_[A-Za-z0-9]{40}", made.text)
    assert token, made.text
    program = world.client(None)
    program.headers["Authorization"] = f"Bearer {token[0]}"
    assert program.get("/api/v1/whoami").json()["user"] == "ada-l"
    with world.database.write() as session:
        user = session.scalars(select(User).where(User.name == "ada-l")).one()
        assert abs((user.vouched_until - now()).total_seconds() - 24 * 3600) < 60
        user.vouched_until = now() - timedelta(seconds=1)
    refused = program.get("/api/v1/whoami")
    assert (refused.status_code, "Sign in again" in refused.text) == (401, True)
    assert whoami(browser) is None
    sign_in(world)
    assert program.get("/api/v1/whoami").status_code == 200, "until the provider lets them in again"


def test_a_disabled_user_does_not_come_in_by_the_provider(world: World) -> None:
    sign_in(world)
    with world.database.write() as session:
        session.scalars(select(User).where(User.name == "ada-l")).one().is_active = False
    browser = world.browser()
    assert sign_in(world, browser).status_code == 403
    assert whoami(browser) is None


def test_a_browser_that_did_not_begin_is_not_signed_in(world: World) -> None:
    begun = world.browser()
    back = there_and_back(begun, begun.get("/login/provider"))
    victim = world.browser()
    assert victim.get(back).status_code == 422
    victim.get("/login/provider")  # begun, but with another secret
    assert victim.get(back).status_code == 422
    assert begun.get(back).status_code == 303
    assert begun.get(back).status_code == 422, "and nobody comes back twice"
    with world.database.read() as session:
        assert len(session.scalars(select(SignIn)).all()) == 1


@pytest.mark.parametrize(
    "claims",
    [{"nonce": "another"}, {"nonce": None}, {"aud": "another-client"}, {"aud": [CLIENT, "x"]}, {"azp": "x"},
     {"iat": 1}, {"sub": ""}, {"sub": "x" * 256}, {"at_hash": "AAAA"}, {"iss": "https://evil.example.org"}],
    ids=str,
)  # fmt: skip
def test_a_token_that_is_not_for_this_sign_in_is_refused(
    world: World, provider: Provider, claims: dict[str, Any]
) -> None:
    provider.claims = claims
    browser = world.browser()
    assert sign_in(world, browser).status_code == 403
    assert whoami(browser) is None


def test_who_says_no_at_the_provider_is_told_so(world: World, provider: Provider) -> None:
    provider.who = None
    answer = sign_in(world)
    assert (answer.status_code, "access_denied" in answer.text) == (403, True)


def test_a_provider_that_is_down_says_so_on_the_page(world: World, provider: Provider) -> None:
    provider.answers["/.well-known/openid-configuration"] = (500, b"")
    assert world.browser().get("/login/provider").status_code == 503


def test_after_signing_in_nobody_is_led_elsewhere(world: World) -> None:
    done = sign_in(world, path="/login/provider?next=//evil.example.org/x")
    assert done.headers["location"] == "/"


def test_an_account_is_linked_by_its_owner_and_then_signs_in_to_theirs(world: World, provider: Provider) -> None:
    browser, secret = signed_in(world, "bob")
    page = browser.post("/settings/sessions/link", data={"csrf": csrf_of(secret)})
    there = re.search(r'href="([^"]+/authorize[^"]+)"', page.text)
    assert there, page.text
    sent = httpx2.get(there[1].replace("&amp;", "&"), follow_redirects=False).headers["location"]
    linked = browser.get(sent.removeprefix(str(browser.base_url).rstrip("/")))
    assert linked.headers["location"] == "/settings/sessions"
    other = world.browser()
    sign_in(world, other)
    assert whoami(other) == "bob"
    listed = world.client("bob").get("/api/v1/sessions").json()
    assert [(row["name"], row["joined"]) for row in listed["accounts"]] == [("Ada.L@Example", False)]
    assert any("sign-in by" in row["by"] for row in listed["sessions"])
    with world.database.read() as session:
        assert session.scalars(select(User.vouched_until).where(User.name == "bob")).one() is None
    one = f"/api/v1/sessions/accounts/{listed['accounts'][0]['id']}"
    assert world.client("alice").delete(one).status_code == 404
    assert world.client("bob").delete(one).status_code == 204
    third = world.browser()
    sign_in(world, third)
    assert whoami(third) == "ada-l"
    with world.database.read() as session:
        mine = session.scalars(select(Identity.id)).one()
    third_secret = third.cookies[COOKIE]
    refused = third.post(f"/settings/sessions/accounts/{mine}/unlink", data={"csrf": csrf_of(third_secret)})
    assert refused.status_code == 409, "an account that came by it stays linked"


def begin_link(browser: TestClient, secret: str) -> str:
    """Begin to link an account, and return the address at which the browser comes back from the provider."""
    page = browser.post("/settings/sessions/link", data={"csrf": csrf_of(secret)})
    there = re.search(r'href="([^"]+/authorize[^"]+)"', page.text)
    assert there, page.text
    sent = httpx2.get(there[1].replace("&amp;", "&"), follow_redirects=False).headers["location"]
    return str(sent.removeprefix(str(browser.base_url).rstrip("/")))


def test_a_session_that_may_not_manage_the_account_links_nothing_whatever_its_cookies_say(world: World) -> None:
    less = world.client("bob").post("/api/v1/tokens", json={"scopes": ["read"]}).json()["token"]
    world.tokens["bob"] = less
    browser, secret = signed_in(world, "bob")
    assert browser.post("/settings/sessions/link", data={"csrf": csrf_of(secret)}).status_code == 403
    back = there_and_back(browser, browser.get("/login/provider"))
    flow = browser.cookies[FLOW].strip('"').partition(".")[0]
    browser.cookies.delete(FLOW)
    browser.cookies.set(FLOW, f"{flow}.{LINK}{csrf_of(secret)}")
    assert browser.get(back).status_code == 403
    with world.database.read() as session:
        assert session.scalars(select(Identity)).all() == []


def test_a_flow_that_another_session_began_links_nothing(world: World) -> None:
    thief, theirs = signed_in(world, "mallory")
    back, flow = begin_link(thief, theirs), thief.cookies[FLOW]
    victim, _ = signed_in(world, "bob")
    victim.cookies.set(FLOW, flow)
    assert victim.get(back).status_code == 403
    with world.database.read() as session:
        assert session.scalars(select(Identity)).all() == []


def test_a_linked_account_gets_no_role_that_nothing_would_take_away(world: World) -> None:
    organise(world)
    browser, secret = signed_in(world, "bob")
    assert browser.get(begin_link(browser, secret)).status_code == 303
    sign_in(world)
    assert members(world) == {"alice": "owner"}


def signed_in(world: World, user: str) -> tuple[TestClient, str]:
    """Return a browser that a user signed in in with a token, and the secret of its cookie."""
    browser = world.browser()
    csrf = re.search(r'name="csrf" value="([^"]+)"', browser.get("/login").text)
    assert csrf
    fields = {"csrf": csrf[1], "token": world.token(user)}
    assert browser.post("/login", data=fields, headers={"user-agent": "Firefox on a laptop"}).status_code == 303
    return browser, browser.cookies[COOKIE]


def test_sessions_are_listed_and_one_that_is_ended_is_signed_out_at_once(world: World) -> None:
    browser, _ = signed_in(world, "bob")
    listed = world.client("bob").get("/api/v1/sessions").json()["sessions"]
    assert [(row["agent"], row["current"]) for row in listed] == [("Firefox on a laptop", False)]
    assert "this one" in browser.get("/settings/sessions").text
    one = f"/api/v1/sessions/{listed[0]['id']}"
    assert world.client("alice").delete(one).status_code == 404
    assert whoami(browser) == "bob"
    assert world.client("bob").delete(one).status_code == 204
    assert whoami(browser) is None
    assert world.client("bob").get("/api/v1/whoami").status_code == 200, "the token itself stays"


def test_signing_out_ends_what_a_provider_began(world: World) -> None:
    browser = world.browser()
    sign_in(world, browser)
    browser.post("/logout", data={"csrf": csrf_of(browser.cookies[COOKIE])})
    with world.database.read() as session:
        assert session.scalars(select(Token).where(Token.kind == "session")).all() == []
        assert session.scalars(select(SignIn)).all() == []


class TestMapped:
    @pytest.fixture
    def world_settings(self, provider: Provider) -> dict[str, Any]:
        return {
            "oidc_issuer": provider.url,
            "oidc_client_id": CLIENT,
            "oidc_client_secret": SECRET,
            "oidc_groups": GROUPS,
            "oidc_join": "mapped",
            "private_issuers": provider.url,
        }

    def test_only_who_is_in_a_mapped_group_gets_an_account(self, world: World, provider: Provider) -> None:
        provider.who = {"sub": "u-9", "preferred_username": "eve", "groups": ["others"]}
        refused = sign_in(world)
        assert (refused.status_code, "ask for an invitation" in refused.text) == (403, True)
        provider.who = {"sub": "u-1", "preferred_username": "ada", "groups": ["speech"]}
        assert sign_in(world).status_code == 303


def test_hugging_face_is_a_word_and_any_other_provider_four_settings() -> None:
    hub = Settings(oidc_issuer="huggingface", oidc_client_id="x")
    access = providers.provider_access(hub)
    assert access is not None
    assert (access["issuer"], access["groups_claim"]) == ("https://huggingface.co", "orgs")
    assert hub.oidc_title == "Hugging Face"
    own = Settings(oidc_issuer="https://id.example.org/x", oidc_client_id="x", oidc_groups="a b=c:owner,d=e:reviewer")
    assert own.oidc_title == "id.example.org"
    assert providers.group_roles(own.oidc_groups) == [("a b", "c", "owner"), ("d", "e", "reviewer")]
    assert providers.provider_access(Settings()) is None
    for wrong in ({"oidc_issuer": "id.example.org"}, {"oidc_issuer": "huggingface"}, {"oidc_groups": "a=b:king"}):
        with pytest.raises(ValueError, match="oidc"):
            Settings(**wrong)


def test_without_a_provider_its_pages_are_not_there(calm: World) -> None:
    assert calm.browser().get("/login/provider").status_code == 404
    assert calm.browser().get("/login/provider/callback?state=x&code=y").status_code in (404, 422)
    assert "/login/provider" not in calm.browser().get("/login").text


# -------------------------------------------------------------------------------------------------- logins by a code


def test_a_program_is_let_in_by_a_code_and_gets_one_token(world: World) -> None:
    program = world.client(None)
    codes = program.post("/api/v1/device", json={"label": "crumb on a laptop"}).json()
    question = {"device_code": codes["device_code"]}
    assert program.post("/api/v1/device/token", json=question).json()["state"] == "waiting"
    browser, secret = signed_in(world, "bob")
    page = browser.get(codes["url"].removeprefix(str(browser.base_url).rstrip("/")))
    assert "crumb on a laptop" in page.text
    decided = {"csrf": csrf_of(secret), "user_code": codes["user_code"].lower(), "approve": "true"}
    assert "It is let in" in browser.post("/device", data=decided).text
    given = program.post("/api/v1/device/token", json=question).json()
    assert (given["state"], given["user"]) == ("approved", "bob")
    program.headers["Authorization"] = f"Bearer {given['token']}"
    assert program.get("/api/v1/whoami").json()["user"] == "bob"
    assert world.client(None).post("/api/v1/device/token", json=question).status_code == 404
    assert "crumb on a laptop" in {row["label"] for row in world.client("bob").get("/api/v1/tokens").json()}


def test_a_program_that_is_turned_away_or_too_late_gets_nothing(world: World) -> None:
    program, way = world.client(None), "/api/v1/device"
    codes = program.post(way, json={}).json()
    body = {"user_code": codes["user_code"], "approve": False}
    assert world.client("bob").post(f"{way}/decide", json=body).json()["state"] == "denied"
    assert program.post(f"{way}/token", json={"device_code": codes["device_code"]}).status_code == 409
    assert world.client("bob").post(f"{way}/decide", json={**body, "approve": True}).status_code == 404
    assert world.client("bob").post(f"{way}/decide", json={**body, "user_code": "BBBB-BBBB"}).status_code == 404
    less = world.client("bob").post("/api/v1/tokens", json={"scopes": ["read", "push"]}).json()["token"]
    refused = program.post(f"{way}/decide", json=body, headers={"Authorization": f"Bearer {less}"})
    assert refused.status_code == 403, "a token that may make no other lets nobody in"
