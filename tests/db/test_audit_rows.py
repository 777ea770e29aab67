"""The audit log: what jobs, pushes and channels write, and what failed, which writes nothing."""

import base64
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.support.audit_log import last, rows
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.world import World, announce, create_model, digest, push_patch, put_part

pytestmark = pytest.mark.heavy


def test_a_push_is_in_the_log_with_each_of_its_files(world: World, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base")
    create_model(world, "alice/m", base, "alice")
    tuned = fine_tuned(base, tmp_path / "tuned")
    lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "Learn", "description": ""}}]
    for path in sorted(tuned.iterdir()):
        content = base64.b64encode(path.read_bytes()).decode()
        lines.append({"key": "file", "value": {"path": path.name, "content": content, "encoding": "base64"}})
    world.token("bob")
    before = last(world)
    sent = world.client("bob").post(
        "/api/models/alice/m/commit/main?create_pr=1", content="\n".join(map(json.dumps, lines)).encode()
    )
    assert sent.status_code == 200, sent.text
    found = [(row.user_name, row.action) for row in rows(world, before)]
    files = len(list(tuned.iterdir()))
    assert found == [("bob", "upload.announce")] * files + [("bob", "push.open"), ("bob", "push.commit")]
    before = last(world)
    world.work()
    made = [(row.user_name, row.action, row.subject) for row in rows(world, before)]
    assert made == [(None, "patch.push", "alice/m#1"), (None, "patch.checked", "alice/m#1")]


def test_a_channel_that_is_made_by_its_rule_is_in_the_log(world: World, tmp_path: Path) -> None:
    create_model(world, "alice/tiny", make_checkpoint(tmp_path / "base"))
    serial, url = last(world), "/api/v1/models/alice/tiny/channels"
    assert world.client("alice").put(f"{url}/nightly/protection", json={}).status_code == 200
    assert [row["name"] for row in world.client(None).get(url).json()] == ["nightly"]
    assert [row.action for row in rows(world, serial)] == ["channel.protect"]


def test_a_release_cut_twice_while_it_is_composed_is_cut_once(world: World, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base")
    create_model(world, "alice/tiny", base)
    make_patch(base, fine_tuned(base, tmp_path / "tuned"), tmp_path / "patch.safetensors")
    push_patch(world, "alice/tiny", tmp_path / "patch.safetensors")
    alice, url = world.client("alice"), "/api/v1/models/alice/tiny/releases"
    body = {"version": "1.0.0", "patches": [{"number": 1}]}
    assert alice.post(url, json=body).status_code == 202
    assert alice.patch(f"{url}/1.0.0", json={"changelog": "By hand."}).status_code == 200
    serial = last(world)
    assert alice.post(url, json=body).json()["changelog"] == "By hand."
    assert last(world) == serial


def test_a_recipe_that_two_ask_for_again_and_again_is_two_rows(world: World, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base")
    create_model(world, "alice/tiny", base)
    make_patch(base, fine_tuned(base, tmp_path / "tuned"), tmp_path / "patch.safetensors")
    push_patch(world, "alice/tiny", tmp_path / "patch.safetensors")
    serial, body = last(world), {"alpha": "0.3", "patches": [{"number": 1}]}
    for user in ("bob", "carol", "carol", "bob", "carol"):
        answer = world.client(user).post("/api/v1/models/alice/tiny/compositions", json=body)
        assert answer.status_code == 202
    asked = [row.user_name for row in rows(world, serial) if row.action == "recipe.compose"]
    assert asked == ["bob", "carol"]


def test_calls_that_are_refused_write_nothing(world: World) -> None:
    alice = world.client("alice")
    world.token("bob")
    session = announce(alice, b"x" * 1500)
    for number in (0, 1):
        assert put_part(alice, session, b"y" * 1500, number).status_code == 200
    serial = last(world)
    for method, path, body, status in (
        ("POST", "tokens", {"scopes": []}, 422),
        ("POST", "tokens", {"scopes": ["read"], "model": "alice/none"}, 404),
        ("POST", "namespaces", {"name": "bob"}, 409),
        ("POST", "namespaces", {"name": "admin"}, 422),
        ("PUT", "namespaces/bob/members/alice", {"role": "owner"}, 403),
        ("DELETE", "namespaces/alice/members/alice", None, 409),
        ("PUT", "namespaces/alice/members/nobody", {"role": "owner"}, 404),
        ("POST", f"uploads/{session['id']}/complete", None, 422),  # the bytes are other ones
        ("POST", "uploads", {"sha256": digest(b"x" * 1500), "size": 7}, 409),
        ("DELETE", f"uploads/{uuid.uuid4()}", None, 404),
        ("POST", "models", {"name": "alice/m", "files": [{"path": "a.safetensors", "sha256": "0" * 64}]}, 422),
    ):
        answer = alice.request(method, f"/api/v1/{path}", json=body)
        assert answer.status_code == status, (method, path, answer.text)
    assert last(world) == serial


def test_a_rolled_back_change_is_not_in_the_log(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is part of the transaction that makes the change."""
    alice = world.client("alice")
    alice.get("/api/v1/whoami")
    serial, known = last(world), alice.get("/api/v1/tokens").json()

    def fail(*_: object) -> None:
        raise RuntimeError("after the service was done")

    with monkeypatch.context() as patched:
        patched.setattr("registry.server.views.people.token", fail)
        assert alice.post("/api/v1/tokens", json={"scopes": ["read"]}).status_code == 500
    with monkeypatch.context() as patched:
        patched.setattr("registry.db.session.append_pending", fail)  # what cannot be logged does not happen
        assert alice.post("/api/v1/namespaces", json={"name": "crew"}).status_code == 500
    assert last(world) == serial
    assert alice.get("/api/v1/tokens").json() == known
    assert alice.get("/api/v1/namespaces/crew").status_code == 404
