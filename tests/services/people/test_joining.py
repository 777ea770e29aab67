"""Joining: invitations, requests that admins decide about, accounts that they make, and profiles."""

import re
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from registry.db.tables import Invitation, User, now
from registry.services.people.joining import invitations
from registry.services.people.tokens import create_token
from tests.support.community import Community
from tests.support.world import World

pytestmark = pytest.mark.heavy

ACCEPT, ADMIN = "/api/v1/joining/accept", "/api/v1/admin/invitations"


@pytest.fixture
def world_settings() -> dict[str, Any]:
    return {"registration": "open"}


def chief(world: World) -> TestClient:
    return world.client("chief", admin=True)


def secret_of(answer: Any) -> str:
    """Return the secret in the address that an answer shows."""
    assert answer.status_code == 201, answer.text
    found = re.fullmatch(r"https?://[^/]+/join\?invitation=([\w-]{43})", answer.json()["url"])
    assert found
    return found[1]


def accept(world: World, secret: str, name: str | None = None, user: str | None = None, **more: Any) -> Any:
    body = {"invitation": secret, **({"name": name} if name else {}), **more}
    return world.client(user).post(ACCEPT, json=body)


def test_whoever_is_invited_joins_once_with_a_token_that_works(world: World) -> None:
    secret = secret_of(chief(world).post(ADMIN, json={"label": "Ada"}))
    joined = accept(world, secret, "ada", display_name="Ada Lovelace")
    assert joined.status_code == 200, joined.text
    assert joined.json() | {"token": None} == {"user": "ada", "token": None, "namespace": None, "role": None}
    world.tokens["ada"] = joined.json()["token"]
    me = world.client("ada").get("/api/v1/whoami").json()
    assert (me["user"], me["admin"], len(me["scopes"])) == ("ada", False, 5)
    assert world.client(None).get("/api/v1/users/ada").json()["display_name"] == "Ada Lovelace"
    again = accept(world, secret, "eve")
    assert (again.status_code, "used" in again.text) == (404, True)
    assert world.client(None).get("/api/v1/users/eve").status_code == 404


def test_an_owner_invites_to_their_organisation_with_a_role_and_nobody_else_does(world: World) -> None:
    alice, where = world.client("alice"), "/api/v1/namespaces/crew/invitations"
    assert alice.post("/api/v1/namespaces", json={"name": "crew"}).status_code == 201
    world.token("mary")
    assert alice.put("/api/v1/namespaces/crew/members/mary", json={"role": "maintainer"}).status_code == 204
    assert world.client("mary").post(where, json={"role": "owner"}).status_code == 403
    assert world.client("mary").get(where).status_code == 403
    assert world.client("mary").post(ADMIN, json={}).status_code == 403
    secret = secret_of(alice.post(where, json={"role": "reviewer"}))
    assert [row["role"] for row in alice.get(where).json()["items"]] == ["reviewer"]
    assert accept(world, secret, "rita").json()["namespace"] == "crew"
    members = {row["user"]: row["role"] for row in alice.get("/api/v1/namespaces/crew").json()["members"]}
    assert members == {"alice": "owner", "mary": "maintainer", "rita": "reviewer"}
    assert alice.get(where).json()["items"] == []


def test_somebody_with_an_account_gets_the_role_and_never_loses_a_greater_one(world: World) -> None:
    alice, where = world.client("alice"), "/api/v1/namespaces/alice/invitations"
    for user, role, wanted in (
        ("bob", "reviewer", "reviewer"),
        ("bob", "owner", "owner"),
        ("bob", "reviewer", "owner"),
    ):
        secret = secret_of(alice.post(where, json={"role": role}))
        taken = accept(world, secret, user=user)
        assert (taken.status_code, taken.json()["token"]) == (200, None)
        members = {row["user"]: row["role"] for row in alice.get("/api/v1/namespaces/alice").json()["members"]}
        assert members["bob"] == wanted
    plain = secret_of(chief(world).post(ADMIN, json={}))
    assert accept(world, plain, user="bob").status_code == 409
    assert accept(world, plain, "nina").status_code == 200, "and it is not used up by that"


def test_a_token_that_may_not_change_roles_takes_none(world: World) -> None:
    made = world.client("alice").post("/api/v1/namespaces/alice/invitations", json={"role": "reviewer"})
    less = world.client("bob").post("/api/v1/tokens", json={"scopes": ["read", "push"]}).json()["token"]
    refused = world.client(None).post(
        ACCEPT, json={"invitation": secret_of(made)}, headers={"Authorization": f"Bearer {less}"}
    )
    assert (refused.status_code, "'admin'" in refused.text) == (403, True)


@pytest.mark.parametrize("end", ["revoked", "expired"])
def test_an_invitation_that_ended_leads_nowhere(world: World, end: str) -> None:
    made = chief(world).post(ADMIN, json={})
    if end == "revoked":
        assert chief(world).delete(f"{ADMIN}/{made.json()['id']}").status_code == 204
    else:
        with world.database.write() as session:
            session.scalars(select(Invitation)).one().expires_at = now() - timedelta(seconds=1)
    assert accept(world, secret_of(made), "late").status_code == 404
    assert chief(world).get(ADMIN).json()["items"] == []
    secret_of(chief(world).post(ADMIN, json={}))
    with world.database.read() as session:
        assert len(session.scalars(select(Invitation)).all()) == 1, "what has ended is not kept"


def test_an_owner_revokes_only_what_is_for_their_namespace(world: World) -> None:
    made = world.client("alice").post("/api/v1/namespaces/alice/invitations", json={})
    one = f"invitations/{made.json()['id']}"
    assert world.client("bob").delete(f"/api/v1/namespaces/bob/{one}").status_code == 204
    assert len(world.client("alice").get("/api/v1/namespaces/alice/invitations").json()["items"]) == 1
    assert world.client("alice").delete(f"/api/v1/namespaces/alice/{one}").status_code == 204
    assert world.client("alice").get("/api/v1/namespaces/alice/invitations").json()["items"] == []


def test_an_invitation_does_not_outlive_the_right_to_invite(world: World) -> None:
    alice = world.client("alice")
    assert alice.post("/api/v1/namespaces", json={"name": "crew"}).status_code == 201
    world.token("bob")
    assert alice.put("/api/v1/namespaces/crew/members/bob", json={"role": "owner"}).status_code == 204
    made = world.client("bob").post("/api/v1/namespaces/crew/invitations", json={"role": "owner"})
    assert alice.put("/api/v1/namespaces/crew/members/bob", json={"role": "reviewer"}).status_code == 204
    assert accept(world, secret_of(made), "mallory").status_code == 404
    assert accept(world, secret_of(made), user="bob").status_code == 404
    mine = world.client("dave").post("/api/v1/namespaces/dave/invitations", json={})
    assert chief(world).patch("/api/v1/admin/users/dave", json={"active": False}).status_code == 200
    assert accept(world, secret_of(mine), "mallory").status_code == 404


def test_whom_a_provider_vouches_for_invites_nobody_whom_it_does_not(world: World) -> None:
    made = world.client("vera").post("/api/v1/namespaces/vera/invitations", json={"role": "reviewer"})
    with world.database.write() as session:
        vera = session.scalars(select(User).where(User.name == "vera")).one()
        vera.vouched_until = now() + timedelta(hours=1)
    assert accept(world, secret_of(made), "vera-too").status_code == 403
    assert accept(world, secret_of(made), user="bob").status_code == 200


def test_an_admin_or_the_operator_lets_in_whom_a_provider_does_not_vouch_for_any_more(world: World) -> None:
    def end() -> None:
        with world.database.write() as session:
            session.scalars(select(User).where(User.name == "vera")).one().vouched_until = now()

    vera, one = world.client("vera"), "/api/v1/admin/users/vera"
    end()
    assert vera.get("/api/v1/whoami").status_code == 401
    for active in (False, True):
        assert chief(world).patch(one, json={"active": active}).status_code == 200
    assert vera.get("/api/v1/whoami").status_code == 200
    end()
    with world.database.write() as session:
        create_token(session, "vera")
    assert vera.get("/api/v1/whoami").status_code == 200


def test_only_hashes_of_links_are_stored_and_neither_lists_nor_the_log_show_them(world: World) -> None:
    secret = secret_of(chief(world).post(ADMIN, json={}))
    with world.database.read() as session:
        row = session.scalars(select(Invitation)).one()
        assert secret not in str([getattr(row, column.name) for column in Invitation.__table__.columns])
    assert secret not in chief(world).get(ADMIN).text
    assert secret not in chief(world).get("/api/v1/audit").text


def test_whoever_asks_waits_for_an_admin_and_comes_in_by_the_address_they_got(world: World) -> None:
    asked = world.client(None).post("/api/v1/joining", json={"name": "dora", "message": "I train speech models."})
    secret = secret_of(asked)
    assert accept(world, secret, "dora").status_code == 409
    (waiting,) = chief(world).get(f"{ADMIN}?asked=true").json()["items"]
    assert (waiting["asked_name"], waiting["message"]) == ("dora", "I train speech models.")
    assert chief(world).post(f"{ADMIN}/{waiting['id']}/approve").status_code == 200
    assert chief(world).get(f"{ADMIN}?asked=true").json()["items"] == []
    assert accept(world, secret, "chief-too").status_code == 409, "the name was approved as well"
    assert accept(world, secret, "dora").json()["user"] == "dora"


def test_a_request_that_was_refused_leads_nowhere(world: World) -> None:
    secret = secret_of(world.client(None).post("/api/v1/joining", json={"name": "dora"}))
    (waiting,) = chief(world).get(f"{ADMIN}?asked=true").json()["items"]
    assert world.client("alice").post(f"{ADMIN}/{waiting['id']}/approve").status_code == 403
    assert chief(world).delete(f"{ADMIN}/{waiting['id']}").status_code == 204
    assert accept(world, secret, "dora").status_code == 404
    assert chief(world).post(f"{ADMIN}/{waiting['id']}/approve").status_code == 404


def test_an_open_invitation_is_not_a_request_to_approve(world: World) -> None:
    made = chief(world).post(ADMIN, json={}).json()
    assert chief(world).post(f"{ADMIN}/{made['id']}/approve").status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"name": "admin"}, 422),
        ({"name": "Dora"}, 422),
        ({"name": "alice"}, 409),
        ({"name": "a1ice"}, 409),  # looks like alice
        ({"name": "dora", "message": "x" * 1001}, 422),
        ({"name": "dora", "message": "a\0b"}, 422),
        ({"name": "dora", "more": 1}, 422),
    ],
)
def test_what_strangers_send_is_bounded(world: World, body: dict[str, Any], status: int) -> None:
    world.token("alice")
    assert world.client(None).post("/api/v1/joining", json=body).status_code == status
    assert (
        accept(world, secret_of(chief(world).post(ADMIN, json={})), "dora", display_name="x" * 101).status_code == 422
    )


def test_so_many_may_wait_and_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invitations, "MOST_ASKED", 2)
    asked = [world.client(None).post("/api/v1/joining", json={"name": name}) for name in ("one-a", "two-b", "three")]
    assert [answer.status_code for answer in asked] == [201, 201, 429]
    monkeypatch.setattr(invitations, "MOST_OPEN", 1)
    first = [world.client(user).post(f"/api/v1/namespaces/{user}/invitations", json={}) for user in ("alice", "bob")]
    assert [answer.status_code for answer in first] == [201, 201]
    assert world.client("alice").post("/api/v1/namespaces/alice/invitations", json={}).status_code == 409


@pytest.mark.parametrize("name", ["", "\u202eadmin", "two\nlines", "x" * 101])
def test_a_display_name_is_one_line_that_turns_nothing_around(world: World, name: str) -> None:
    answer = world.client("alice").patch("/api/v1/profile", json={"display_name": name})
    assert answer.status_code == (422 if name else 200)


def test_an_admin_makes_accounts_and_disables_them_but_not_their_own(world: World) -> None:
    made = chief(world).post("/api/v1/admin/users", json={"name": "erin", "display_name": "Erin", "expires_days": 2})
    assert made.status_code == 201
    world.tokens["erin"] = made.json()["token"]
    assert world.client("erin").get("/api/v1/whoami").status_code == 200
    assert chief(world).post("/api/v1/admin/users", json={"name": "erin"}).status_code == 409
    found = chief(world).get("/api/v1/admin/users?search=eri").json()["items"]
    assert [(row["name"], row["display_name"], row["active"]) for row in found] == [("erin", "Erin", True)]
    one = "/api/v1/admin/users/erin"
    assert world.client("alice").patch(one, json={"active": False}).status_code == 403
    assert chief(world).patch(one, json={"active": False}).json()["active"] is False
    assert world.client("erin").get("/api/v1/whoami").status_code == 401
    assert chief(world).patch(one, json={"active": True}).status_code == 200
    assert world.client("erin").get("/api/v1/whoami").status_code == 200
    assert chief(world).patch("/api/v1/admin/users/chief", json={"active": False}).status_code == 409
    assert chief(world).patch("/api/v1/admin/users/nobody", json={"active": False}).status_code == 404


def test_a_profile_shows_the_patches_that_its_visitor_may_see(crew: Community) -> None:
    def shown(user: str | None) -> list[int]:
        answer = crew.world.client(user).get("/api/v1/users/bob").json()
        return [row["number"] for row in answer["patches"]]

    assert shown(None) == shown("bob") == [4, 3, 2, 1]
    crew.put("chief", "/patches/4/quarantine", reason="odd")
    assert shown(None) == [3, 2, 1]
    crew.rules(visibility="private")
    assert (shown(None), shown("carol"), shown("rita")) == ([], [], [3, 2, 1])


class TestAsking:
    @pytest.fixture
    def world_settings(self) -> dict[str, Any]:
        return {"registration": "open", "rate_asking": "2/day"}

    def test_one_address_does_not_fill_what_an_admin_has_to_read(self, world: World) -> None:
        asked = [world.client(None).post("/api/v1/joining", json={"name": name}) for name in ("ann", "ben", "cyd")]
        assert [answer.status_code for answer in asked] == [201, 201, 429]
        secret = secret_of(chief(world).post(ADMIN, json={}))
        assert accept(world, secret, "dora").status_code == 200, "who is invited is not counted so"


class TestClosed:
    @pytest.fixture
    def world_settings(self) -> dict[str, Any]:
        return {"registration": "closed"}

    def test_nobody_joins_a_closed_registry_but_by_an_admins_hand(self, world: World) -> None:
        assert chief(world).post(ADMIN, json={}).status_code == 403
        assert world.client("alice").post("/api/v1/namespaces/alice/invitations", json={}).status_code == 403
        asked = world.client(None).post("/api/v1/joining", json={"name": "dora"})
        assert (asked.status_code, "operator" in asked.text) == (403, True)
        assert accept(world, "x" * 43, "dora").status_code == 403
        assert chief(world).post("/api/v1/admin/users", json={"name": "dora"}).status_code == 201


class TestByInvitation:
    @pytest.fixture
    def world_settings(self) -> dict[str, Any]:
        return {"registration": "invitation", "rate_strangers": "3/hour"}

    def test_nobody_asks_where_one_is_invited_and_tries_are_counted_by_address(self, world: World) -> None:
        asked = world.client(None).post("/api/v1/joining", json={"name": "dora"})
        assert (asked.status_code, "invitation only" in asked.text) == (403, True)
        assert accept(world, "x" * 43, "dora").status_code == 404
        secret = secret_of(chief(world).post(ADMIN, json={}))
        assert accept(world, secret, "dora").status_code == 200
        refused = accept(world, "x" * 43, "dora")
        assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (429, True)
        with world.database.read() as session:
            assert session.scalars(select(User.name).where(User.name == "dora")).one()


def test_requests_are_refused_together_but_for_those_that_nobody_has_seen(world: World) -> None:
    for name in ("spam-a", "spam-b"):
        assert world.client(None).post("/api/v1/joining", json={"name": name}).status_code == 201
    seen = chief(world).get(f"{ADMIN}?asked=true").json()["items"][0]["created_at"]
    assert world.client(None).post("/api/v1/joining", json={"name": "honest"}).status_code == 201
    assert world.client("alice").post(f"{ADMIN}/refuse", json={"until": seen}).status_code == 403
    assert chief(world).post(f"{ADMIN}/refuse", json={"until": seen}).json() == {"refused": 2}
    waiting = chief(world).get(f"{ADMIN}?asked=true").json()["items"]
    assert [row["asked_name"] for row in waiting] == ["honest"]
