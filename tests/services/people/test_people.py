"""Tokens, organisations, members, and what they hide from others."""

import re
import uuid
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import select, text
from starlette.testclient import TestClient

from registry.db.tables import Token, User, now
from registry.logs import configure_logs
from registry.services.people.names import RESERVED, check_name, skeleton
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.world import World, create_model, push_patch, upload

pytestmark = pytest.mark.heavy

TOKENS, SPACES = "/api/v1/tokens", "/api/v1/namespaces"


def make_token(client: TestClient, **wanted: Any) -> dict[str, Any]:
    answer = client.post(TOKENS, json={"scopes": ["read"], **wanted})
    assert answer.status_code == 201, answer.text
    return answer.json()


def with_token(world: World, secret: str) -> TestClient:
    client = world.client(None)
    client.headers["Authorization"] = f"Bearer {secret}"
    return client


def organisation(world: World, name: str, owner: str = "alice", **members: str) -> TestClient:
    client = world.client(owner)
    assert client.post(SPACES, json={"name": name}).status_code == 201
    for user, role in members.items():
        world.token(user)
        assert client.put(f"{SPACES}/{name}/members/{user}", json={"role": role}).status_code == 204
    return client


def members_of(client: TestClient, name: str) -> dict[str, str]:
    return {row["user"]: row["role"] for row in client.get(f"{SPACES}/{name}").json()["members"]}


# ----------------------------------------------------------------------------------------------------------- tokens


def test_a_token_makes_no_token_that_can_do_more(world: World) -> None:
    less = with_token(world, make_token(world.client("alice"), scopes=["read", "admin"])["token"])
    assert make_token(less, scopes=["read"])["scopes"] == ["read"]
    assert make_token(less, scopes=["admin", "read", "read"])["scopes"] == ["read", "admin"]
    for more, lacking in ((["push"], "push"), (["read", "release"], "release"), (["review", "admin"], "review")):
        refused = less.post(TOKENS, json={"scopes": more})
        detail = f"Your token is missing the scope '{lacking}', so it cannot create a token that has it."
        assert (refused.status_code, refused.json()["detail"]) == (403, detail)
    for none in ([], ["everything"], ["read"] * 6):
        assert less.post(TOKENS, json={"scopes": none}).status_code == 422
    reader = with_token(world, make_token(less)["token"])
    refused = reader.post(TOKENS, json={"scopes": ["read"]})
    assert (refused.status_code, "'admin'" in refused.json()["detail"]) == (403, True)


@pytest.mark.parametrize("days", [0, -1, 365.01, 1e300, "NaN", None])
def test_a_token_lasts_neither_no_time_nor_for_ever(world: World, days: Any) -> None:
    assert world.client("alice").post(TOKENS, json={"scopes": ["read"], "expires_days": days}).status_code == 422


def test_a_token_ends_when_it_was_said_to(world: World) -> None:
    client = world.client("alice")
    for wanted, days in (({}, 90), ({"expires_days": 365}, 365), ({"expires_days": 0.5}, 0.5)):
        secret = make_token(client, **wanted)["token"]
        with world.database.read() as session:
            row = session.scalars(select(Token).where(Token.prefix == secret[:9])).one()
            assert abs((row.expires_at - now()).total_seconds() - days * 86400) < 60


def test_the_list_shows_when_a_token_was_used_and_no_revoked_one(world: World) -> None:
    client = world.client("alice")
    fresh = make_token(client, label="for the laptop")
    shown = {row["id"]: row for row in client.get(TOKENS).json()}
    assert shown[fresh["id"]]["last_used_at"] is None
    assert shown[fresh["id"]]["label"] == "for the laptop"
    assert with_token(world, fresh["token"]).get("/api/v1/whoami").json()["token"] == fresh["prefix"]
    shown = {row["id"]: row for row in client.get(TOKENS).json()}
    assert shown[fresh["id"]]["last_used_at"] is not None
    assert client.delete(f"{TOKENS}/{fresh['id']}").status_code == 204
    assert fresh["id"] not in {row["id"] for row in client.get(TOKENS).json()}
    assert world.client("bob").get(TOKENS).json()[0]["id"] not in shown


def test_a_revoked_token_is_dead_at_the_next_request_and_the_others_live(world: World) -> None:
    client = world.client("alice")
    first, second = make_token(client), make_token(client)
    held = with_token(world, first["token"])
    assert held.get("/api/v1/whoami").status_code == 200
    assert client.delete(f"{TOKENS}/{first['id']}").status_code == 204
    refused = held.get("/api/v1/whoami")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert with_token(world, second["token"]).get("/api/v1/whoami").status_code == 200
    assert client.delete(f"{TOKENS}/{first['id']}").status_code == 204  # again is harmless


def test_a_token_that_revokes_itself_is_gone(world: World) -> None:
    client = world.client("alice")
    own = client.get(TOKENS).json()[0]["id"]
    assert client.delete(f"{TOKENS}/{own}").status_code == 204
    assert client.get("/api/v1/whoami").status_code == 401


def test_a_disabled_user_can_do_nothing_with_any_token(world: World) -> None:
    client = world.client("alice")
    more = with_token(world, make_token(client)["token"])
    with world.database.write() as session:
        session.scalars(select(User)).one().is_active = False
    for path in ("/api/v1/whoami", "/api/v1/models", "/healthz"):
        assert client.get(path).status_code == more.get(path).status_code == 401


def test_a_secret_is_in_one_answer_and_nowhere_else(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Not in the database, a log, a later answer or a metric; and what is stored cannot be used to sign in."""
    said: list[str] = []
    for form in ("json", "text"):
        configure_logs(form)
        client = world.client("alice")
        made = make_token(client, label=form)
        secret = made.pop("token")
        used = with_token(world, secret)
        said += [str(made), *(used.get(path).text for path in ("/api/v1/whoami", TOKENS, "/metrics", "/nowhere"))]
        said.append(used.post(TOKENS, json={"scopes": ["admin"]}).text)
        said.append(used.post(SPACES, content=b"{").text)
        said.append(client.get(TOKENS).text)
        said.append(client.delete(f"{TOKENS}/{made['id']}").text)
        said.append(used.get("/api/v1/whoami").text)
        out, err = capsys.readouterr()
        assert "alice" in err
        everything = "\n".join([*said, out, err, dump(world)])
        assert secret[:9] in everything  # the prefix is for people to tell tokens apart
        assert secret[9:] not in everything
        with world.database.read() as session:
            for stored in session.scalars(select(Token.token_hash)):
                assert with_token(world, stored).get("/api/v1/whoami").status_code == 401


def dump(world: World) -> str:
    """Return everything in the database."""
    found = []
    with world.database.engine.connect() as connection:
        for table in sqlalchemy.inspect(connection).get_table_names():
            found += [str(row) for row in connection.execute(text(f"SELECT * FROM {table}"))]
    return "\n".join(found)


def test_a_token_for_a_model_needs_one_that_its_maker_sees(world: World, tmp_path: Path) -> None:
    create_model(world, "alice/tiny", make_checkpoint(tmp_path / "base"))
    alice, bob = world.client("alice"), world.client("bob")
    assert make_token(bob, model="alice/tiny")["model"] == "alice/tiny"
    assert alice.patch("/api/v1/models/alice/tiny", json={"visibility": "private"}).status_code == 200
    body = {"scopes": ["read"], "model": "alice/tiny"}
    refused, absent = (bob.post(TOKENS, json={**body, "model": name}) for name in ("alice/tiny", "alice/none"))
    assert (refused.status_code, absent.status_code) == (404, 404)
    assert refused.json()["detail"].replace("tiny", "none") == absent.json()["detail"]
    assert make_token(alice, model="alice/tiny")["model"] == "alice/tiny"


# ---------------------------------------------------------------------------------------------------- organisations


def test_who_makes_an_organisation_owns_it(world: World) -> None:
    answer = world.client("alice").post(SPACES, json={"name": "crew"})
    assert answer.status_code == 201
    made = answer.json()
    assert (made["name"], made["kind"]) == ("crew", "organisation")
    assert made["members"] == [{"user": "alice", "role": "owner", "via": "crew"}]
    assert world.client("bob").get(f"{SPACES}/crew").json()["members"] == made["members"]
    assert world.client("alice").get(f"{SPACES}/alice").json()["kind"] == "user"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("forge", "f0rge"),
        ("f0rge", "forge"),
        ("modern", "modem"),
        ("lab1", "labi"),
        ("lab1", "labl"),
        ("a-team", "ateam"),
        ("a.team", "a_team"),
        ("ar-n", "am"),
        ("wave", "vvave"),
        ("size", "5ize"),
        ("crew", "crew"),
    ],
)
def test_names_that_look_alike_are_one_name(world: World, first: str, second: str) -> None:
    client = organisation(world, first)
    refused = world.client("bob").post(SPACES, json={"name": second})
    assert (refused.status_code, refused.json()["field"]) == (409, "name")
    assert first in refused.json()["detail"]
    assert client.get(f"{SPACES}/{second}").status_code == (200 if first == second else 404)
    with pytest.raises(Exception, match=re.escape(first)):
        world.token(second)  # nor can a user be called so


def test_an_organisation_cannot_take_the_name_of_a_user_nor_one_that_looks_like_it(world: World) -> None:
    world.token("bob")
    for name in ("bob", "b0b", "b-o-b"):
        assert world.client("alice").post(SPACES, json={"name": name}).status_code == 409
    assert members_of(world.client("alice"), "bob") == {"bob": "owner"}


def test_reserved_and_malformed_names_are_no_organisations(world: World) -> None:
    client = world.client("alice")
    for name in ("api", "admin", "metrics", "adm1n", "a-p-i", "t0kens", "vvhoami", "adrnin"):
        assert client.post(SPACES, json={"name": name}).status_code == 422, name
    for name in ("", "A", "a/b", "-a", "a-", "a--b", "a..b", "a.git", "a" * 97, "а", "a b", "a\0"):
        assert client.post(SPACES, json={"name": name}).status_code == 422, name
    for name in RESERVED:
        with pytest.raises(ValueError, match="reserved"):
            check_name(name, "name")
    assert skeleton("a-b.c_d") == skeleton("abcd")


def test_the_last_owner_stays(world: World) -> None:
    client = organisation(world, "crew", bob="maintainer")
    for answer in (
        client.delete(f"{SPACES}/crew/members/alice"),
        client.put(f"{SPACES}/crew/members/alice", json={"role": "maintainer"}),
    ):
        assert (answer.status_code, "owner" in answer.json()["detail"]) == (409, True)
    assert client.put(f"{SPACES}/crew/members/alice", json={"role": "owner"}).status_code == 204  # as it is
    assert members_of(client, "crew") == {"alice": "owner", "bob": "maintainer"}
    assert client.put(f"{SPACES}/crew/members/bob", json={"role": "owner"}).status_code == 204
    assert client.delete(f"{SPACES}/crew/members/alice").status_code == 204
    assert members_of(client, "crew") == {"bob": "owner"}
    assert client.put(f"{SPACES}/crew/members/alice", json={"role": "owner"}).status_code == 403


def test_an_owner_who_is_disabled_is_no_other_owner(world: World) -> None:
    client = organisation(world, "crew", bob="owner")
    with world.database.write() as session:
        session.scalars(select(User).where(User.name == "bob")).one().is_active = False
    assert client.delete(f"{SPACES}/crew/members/alice").status_code == 409
    assert members_of(client, "crew") == {"alice": "owner", "bob": "owner"}


def test_nobody_loses_their_own_namespace(world: World) -> None:
    alice, bob = world.client("alice"), world.client("bob")
    assert alice.put(f"{SPACES}/alice/members/bob", json={"role": "owner"}).status_code == 204
    assert bob.delete(f"{SPACES}/alice/members/alice").status_code == 409
    assert alice.put(f"{SPACES}/alice/members/alice", json={"role": "reviewer"}).status_code == 409
    assert alice.delete(f"{SPACES}/alice/members/bob").status_code == 204
    assert members_of(alice, "alice") == {"alice": "owner"}


def test_members_of_an_organisation_are_users_with_roles_that_there_are(world: World) -> None:
    client = organisation(world, "crew", bob="reviewer")
    url = f"{SPACES}/crew/members"
    assert client.put(f"{url}/nobody", json={"role": "owner"}).status_code == 404
    assert client.delete(f"{url}/nobody").status_code == 404
    assert client.delete(f"{url}/crew").status_code == 404
    world.token("carol")
    assert client.delete(f"{url}/carol").status_code == 404
    for role in ("admin", "nobody", "", None, "Owner"):
        assert client.put(f"{url}/bob", json={"role": role}).status_code == 422
    assert members_of(client, "crew") == {"alice": "owner", "bob": "reviewer"}


@pytest.mark.parametrize("role", [None, "contributor", "reviewer", "maintainer", "owner"])
def test_a_maintainer_makes_models_in_an_organisation_and_nobody_below(
    world: World, tmp_path: Path, role: str | None
) -> None:
    organisation(world, "crew", **({"bob": role} if role else {}))
    bob = world.client("bob")
    sha256 = upload(bob, (make_checkpoint(tmp_path / "base") / "model.safetensors").read_bytes())
    body = {"name": "crew/tiny", "files": [{"path": "model.safetensors", "sha256": sha256}]}
    answer = bob.post("/api/v1/models", json=body)
    assert answer.status_code == (202 if role in ("maintainer", "owner") else 403), answer.text
    assert world.client(None).get("/api/v1/models/crew/tiny").status_code == (200 if answer.status_code == 202 else 404)
    body["name"] = "nowhere/tiny"
    assert bob.post("/api/v1/models", json=body).status_code == 404


# ------------------------------------------------------------------------------------------- models and their members


def test_members_of_a_model_are_listed_with_what_they_hold_their_role_through(world: World, tmp_path: Path) -> None:
    client = organisation(world, "crew", bob="reviewer")
    create_model(world, "crew/tiny", make_checkpoint(tmp_path / "base"), "alice")
    url = "/api/v1/models/crew/tiny/members"
    world.token("carol")
    for user, role in (("carol", "maintainer"), ("bob", "contributor")):
        assert client.put(f"{url}/{user}", json={"role": role}).status_code == 204
    shown = [(row["user"], row["role"], row["via"]) for row in client.get(url).json()]
    assert shown == [
        ("alice", "owner", "crew"),
        ("bob", "reviewer", "crew"),
        ("bob", "contributor", "crew/tiny"),
        ("carol", "maintainer", "crew/tiny"),
    ]
    roles = {
        u: world.client(u).get("/api/v1/models/crew/tiny").json()["role"] for u in ("alice", "bob", "carol", "dave")
    }
    assert roles == {"alice": "owner", "bob": "reviewer", "carol": "maintainer", "dave": "contributor"}
    assert world.client("carol").delete(f"{url}/bob").status_code == 403
    assert client.delete(f"{url}/carol").status_code == 204
    assert client.delete(f"{url}/carol").status_code == 404
    assert client.delete(f"{url}/alice").status_code == 404  # is one of the namespace's
    assert client.put(f"{url}/nobody", json={"role": "owner"}).status_code == 404
    assert world.client("carol").get("/api/v1/models/crew/tiny").json()["role"] == "contributor"


def test_a_private_model_is_for_its_members_alone(world: World, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base")
    create_model(world, "alice/open", base)
    alice = world.client("alice")
    url = "/api/v1/models/alice/tiny"
    files = [
        {"path": path.name, "sha256": upload(alice, path.read_bytes())}
        for path in [*base.iterdir(), tmp_path / "card.txt"]
        if path.name != "card.txt" or path.write_text("only here")
    ]
    body = {"name": "alice/tiny", "files": files, "visibility": "private"}
    job = alice.post("/api/v1/models", json=body).json()["job"]["id"]
    world.work()
    make_patch(base, fine_tuned(base, tmp_path / "tuned"), tmp_path / "patch.safetensors")
    push_patch(world, "alice/tiny", tmp_path / "patch.safetensors", "alice")
    paths = (
        url,
        f"{url}/members",
        f"{url}/inbox",
        f"{url}/patches",
        f"{url}/patches/1",
        f"{url}/patches/1/tensors",
        f"{url}/patches/1/file",
        f"{url}/patches/1/discussion",
        f"{url}/revisions/base",
        f"{url}/revisions/main",
        f"{url}/revisions/base/files/model.safetensors",
        f"{url}/releases",
        f"{url}/channels",
        f"{url}/evaluations",
        f"/api/v1/jobs/{job}",
    )
    for who in (world.client("bob"), world.client(None)):
        for path in paths:
            assert who.get(path).status_code in (404, 401 if path.endswith("inbox") else 404), path
        for query in ("", "?search=tiny", "?author=alice", "?after=alice/a"):
            assert "alice/tiny" not in who.get(f"/api/v1/models{query}").text
    assert {model["name"] for model in alice.get("/api/v1/models").json()["items"]} == {"alice/open", "alice/tiny"}
    assert alice.put(f"{url}/members/bob", json={"role": "contributor"}).status_code == 204
    bob = world.client("bob")
    for path in paths:
        assert bob.get(path).status_code == 200, path
    assert "alice/tiny" in bob.get("/api/v1/models?search=tiny").text
    assert alice.delete(f"{url}/members/bob").status_code == 204
    assert [bob.get(path).status_code for path in paths] == [404] * len(paths)
    assert alice.patch(url, json={"visibility": "public"}).status_code == 200
    assert [bob.get(path).status_code for path in paths] == [200] * len(paths)


def test_no_shared_cache_keeps_the_files_of_a_private_model(world: World, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base")
    create_model(world, "alice/tiny", base)
    make_patch(base, fine_tuned(base, tmp_path / "tuned"), tmp_path / "patch.safetensors")
    push_patch(world, "alice/tiny", tmp_path / "patch.safetensors", "alice")
    alice, url = world.client("alice"), "/api/v1/models/alice/tiny"
    files = (f"{url}/revisions/base/files/model.safetensors", f"{url}/patches/1/file")

    def cached() -> list[str]:
        found = []
        for path in files:
            whole = alice.get(path)
            again = alice.get(path, headers={"If-None-Match": whole.headers["etag"]})
            part = alice.get(path, headers={"Range": "bytes=0-1"})
            assert (whole.status_code, again.status_code, part.status_code) == (200, 304, 206)
            kinds = {answer.headers["cache-control"].split(",")[0] for answer in (whole, again, part, alice.head(path))}
            found.append(" ".join(kinds))
        return found

    assert cached() == ["public", "public"]
    assert alice.patch(url, json={"visibility": "private"}).status_code == 200
    assert cached() == ["private", "private"]


def test_an_invalid_token_id_is_not_found(world: World) -> None:
    client = world.client("alice")
    assert client.delete(f"{TOKENS}/{uuid.uuid4()}").status_code == 404
    assert client.delete(f"{TOKENS}/1").status_code == 422
