"""The feed: changes in order, each once, without gaps, and nothing private for strangers."""

import itertools
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from registry.db.audit import hash_event
from registry.db.tables import AuditEvent, AuditHead, Model
from registry.services.events import feed
from registry.services.people import rules
from registry.services.people.actors import record
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.world import World, add_model, create_model, push_patch, upload

CHANGES = "/api/v1/changes"


def happen(world: World, name: str, *actions: str) -> None:
    with world.database.write() as session:
        model = session.scalars(select(Model).where(Model.name == name)).one()
        for action in actions:
            record(session, None, action, f"alice/{name}", model)


def head(world: World) -> int:
    with world.database.read() as session:
        return session.scalars(select(AuditHead.serial)).one()


def follow(client: Any, since: int = 0, limit: int = 2) -> tuple[list[dict[str, Any]], int]:
    """Follow the changes until there are no more, like a mirror."""
    items: list[dict[str, Any]] = []
    while True:
        answer = client.get(CHANGES, params={"since": since, "limit": limit})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        items += page["items"]
        assert len(page["items"]) <= limit
        if page["next"] == since:
            assert page["items"] == []
            return items, since
        assert page["next"] > since
        since = page["next"]


def test_strangers_see_changes_of_public_models_only_and_always_get_further(world: World) -> None:
    add_model(world, "open")
    add_model(world, "shut", "private")
    for _ in range(3):
        happen(world, "open", "patch.push", "release.publish")
        happen(world, "shut", "patch.push", "release.publish", "channel.move")
    seen: dict[Any, list[dict[str, Any]]] = {}
    for user, names in ((None, {"alice/open"}), ("bob", {"alice/open"}), ("alice", {"alice/open", "alice/shut"})):
        items, cursor = follow(world.client(user))
        assert {item["model"] for item in items} == names
        assert cursor == head(world)
        serials = [item["serial"] for item in items]
        assert serials == sorted(set(serials))
        seen[user] = items
    assert seen[None] == seen["bob"] == [item for item in seen["alice"] if item["model"] == "alice/open"]
    assert len(seen["alice"]) == 15
    assert "shut" not in str(seen[None])
    chief, _ = follow(world.client("chief", admin=True))
    assert chief == seen["alice"]


def test_private_actions_are_in_no_change(world: World, tmp_path: Path) -> None:
    """Every action of the registry happens to a public model."""
    base = make_checkpoint(tmp_path / "base")
    make_patch(base, fine_tuned(base, tmp_path / "tuned"), tmp_path / "1.safetensors")
    create_model(world, "alice/m", base)
    push_patch(world, "alice/m", tmp_path / "1.safetensors", propose=True)
    alice = world.client("alice")
    upload(alice, b"something of no use")
    for method, path, body in (
        ("POST", "/api/v1/tokens", {"scopes": ["read"], "model": "alice/m"}),
        ("PUT", "/api/v1/models/alice/m/members/bob", {"role": "reviewer"}),
        ("POST", "/api/v1/models/alice/m/webhooks", {"url": "https://hooks.example.org/"}),
        ("POST", "/api/v1/models/alice/m/patches/1/comments", {"message": "good"}),
        ("POST", "/api/v1/models/alice/m/compositions", {"patches": [{"number": 1}]}),
    ):
        assert alice.request(method, path, json=body).status_code < 300, path
    world.work()
    items, _ = follow(alice, limit=100)
    told = [item["action"] for item in items]
    assert {"model.create", "model.ready", "patch.push", "patch.checked", "patch.comment"} <= set(told)
    with world.database.read() as session:
        rows = list(session.scalars(select(AuditEvent).order_by(AuditEvent.serial)))
    hidden = [row.action for row in rows if row.serial not in {item["serial"] for item in items}]
    assert {"token.create", "model.member", "webhook.create", "upload.announce", "upload.complete"} <= set(hidden)
    assert {action.partition(".")[0] for action in hidden} == {"token", "model", "webhook", "upload"}
    assert "model.member" not in told
    for row in rows:
        if row.token_prefix:
            assert row.token_prefix not in str(items)
        if row.request_id:
            assert row.request_id not in str(items)
    assert [item["user"] for item in items if item["action"] == "patch.push"] == ["bob"]


def test_no_serial_beyond_the_head_is_given_and_no_new_event_is_missed(world: World) -> None:
    add_model(world, "open")
    happen(world, "open", "patch.push")
    client = world.client(None)
    _, cursor = follow(client)
    assert cursor == head(world)
    assert client.get(CHANGES, params={"since": cursor + 5}).json() == {"items": [], "next": cursor}
    happen(world, "open", "patch.accept")
    items, after = follow(client, cursor)
    assert ([item["action"] for item in items], after) == (["patch.accept"], cursor + 1)


def test_a_mirror_gets_past_any_number_of_invisible_events(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "SERIALS_PER_ANSWER", 4)
    add_model(world, "shut", "private")
    add_model(world, "open")
    happen(world, "shut", *["patch.push"] * 30)
    happen(world, "open", "patch.push")
    happen(world, "shut", *["patch.push"] * 30)
    items, cursor = follow(world.client(None))
    assert [item["model"] for item in items] == ["alice/open"]
    assert cursor == head(world)


def test_a_mirror_that_follows_while_many_write_misses_nothing(world: World) -> None:
    add_model(world, "open")
    writers = [
        threading.Thread(target=lambda: [happen(world, "open", "patch.push") for _ in range(15)]) for _ in "1234"
    ]
    client, seen, since = world.client(None), [], 0
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        items, since = follow(client, since, limit=100)
        seen += items
    for writer in writers:
        writer.join()
    seen += follow(client, since, limit=100)[0]
    serials = [item["serial"] for item in seen]
    assert serials == sorted(set(serials))
    assert len(serials) == 60


def test_the_audit_of_a_model_is_for_its_maintainers(world: World) -> None:
    add_model(world, "open")
    add_model(world, "other")
    happen(world, "open", "patch.push", "patch.accept", "release.publish")
    happen(world, "other", "patch.push")
    where = "/api/v1/models/alice/open/audit"
    world.token("bob")
    assert world.client(None).get(where).status_code == 401
    assert world.client("bob").get(where).status_code == 403
    alice = world.client("alice")
    alice.put("/api/v1/models/alice/open/members/bob", json={"role": "maintainer"})
    page = world.client("bob").get(where).json()
    assert [item["action"] for item in page["items"]] == [
        "model.member",
        "release.publish",
        "patch.accept",
        "patch.push",
    ]
    assert page["next"] is None
    first = page["items"][0]
    assert (first["user"], first["token"], first["after"]) == (
        "alice",
        world.token("alice")[:9],
        {"user": "bob", "role": "maintainer"},
    )


def test_what_the_audit_shows_hashes_to_what_it_says(world: World) -> None:
    add_model(world, "open")
    happen(world, "open", "patch.push")
    world.client("alice").put("/api/v1/models/alice/open/members/bob", json={"role": "maintainer"})
    items = world.client("chief", admin=True).get("/api/v1/audit").json()["items"]
    with world.database.read() as session:
        rows = {row.serial: row for row in session.scalars(select(AuditEvent))}
    assert [item["serial"] for item in items] == sorted(rows, reverse=True)
    for newer, older in itertools.pairwise(items):
        assert newer["previous_hash"] == older["hash"]
    for item in items:
        row = rows[item["serial"]]
        assert item["hash"] == hash_event(row) == row.hash
        assert (item["user_id"], item["model_id"]) == (
            str(row.user_id) if row.user_id else None,
            str(row.model_id) if row.model_id else None,
        )
        assert (item["before"], item["after"], item["request_id"]) == (row.before, row.after, row.request_id)


def test_the_audit_of_the_server_is_for_admins_and_can_be_asked_in_parts(world: World) -> None:
    add_model(world, "open")
    happen(world, "open", *["patch.push", "patch.accept", "release.publish"] * 3)
    alice = world.client("alice")
    alice.put("/api/v1/models/alice/open/members/alice", json={"role": "owner"})
    assert world.client(None).get("/api/v1/audit").status_code == 401
    assert alice.get("/api/v1/audit").status_code == 403
    chief = world.client("chief", admin=True)

    def ask(**query: Any) -> list[tuple[int, str]]:
        """Follow all pages of two."""
        found: list[tuple[int, str]] = []
        before = query.pop("before", None)
        while True:
            extra = {"before": before} if before else {}
            answer = chief.get("/api/v1/audit", params={"limit": 2, **query, **extra})
            assert answer.status_code == 200, answer.text
            found += [(item["serial"], item["action"]) for item in answer.json()["items"]]
            if (before := answer.json()["next"]) is None:
                return found

    everything = ask()
    assert [serial for serial, _ in everything] == list(range(head(world), 0, -1))
    assert ask(action="patch.push") == [row for row in everything if row[1] == "patch.push"]
    assert len(ask(action="patch.push")) == 3
    assert ask(action="patch.*") == [row for row in everything if row[1].startswith("patch.")]
    assert [action for _, action in ask(user="alice")] == ["model.member"]
    middle = everything[5][0]
    assert ask(since=middle) == everything[:5]
    assert ask(before=middle) == everything[6:]
    for wrong in ({"action": "patch"}, {"action": "*"}, {"limit": 0}, {"since": -1}, {"since": 2**63}, {"user": "A b"}):
        assert chief.get("/api/v1/audit", params=wrong).status_code == 422, wrong


def test_all_that_may_be_done_is_either_public_or_known_to_be_not() -> None:
    """A new kind of action must be listed as public or as private."""
    private = {"admin", "audit", "build", "gc", "inbox", "job", "name", "namespace", "report", "server"}
    private |= {"comment", "conflict", "token", "upload", "user", "webhook"}
    private |= {"account", "device", "invitation", "join", "mail", "news", "publisher"}
    assert {action.partition(".")[0] for action in rules.RULES} <= private | set(feed.NOUNS)
    assert not private & set(feed.NOUNS)
