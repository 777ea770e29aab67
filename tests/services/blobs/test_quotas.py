"""Quotas: bytes count from their announcement on, and for one namespace only."""

import json
import threading
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from registry.cli import app
from registry.db.tables import AuditEvent, BaseFile, Namespace, NamespaceMember, PatchRevision, UploadSession, User, now
from registry.errors import InvalidRequest, NotFound
from registry.services.blobs import quotas
from registry.services.blobs.quotas import Usage
from registry.services.catalog import patches, revisions
from registry.services.people import namespaces
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.world import World, announce, create_model, digest, push_patch, put_part, upload

PATCH = b"p" * 300


def allow(world: World, name: str, *, size: int | None = None, count: int | None = None) -> None:
    world.token(name) if name in ("alice", "bob") else None
    with world.database.write() as session:
        quotas.set_quota(session, name, {"quota_bytes": size, "quota_uploads": count})


def usage(world: World, name: str) -> Usage:
    with world.database.read() as session:
        space = session.scalars(select(Namespace).where(Namespace.name == name)).one()
        return quotas.usage(session, space, 10**12, 10**6)


def ask(world: World, user: str, data: bytes, namespace: str | None = None) -> Any:
    body: dict[str, Any] = {"sha256": digest(data), "size": len(data)}
    if namespace:
        body["namespace"] = namespace
    return world.client(user).post("/api/v1/uploads", json=body)


def expire(world: World, *data: bytes) -> None:
    with world.database.write() as session:
        for row in session.scalars(
            select(UploadSession).where(UploadSession.sha256.in_([digest(raw) for raw in data]))
        ):
            row.expires_at = now() - timedelta(seconds=1)


def organisation(world: World, name: str, owners: Sequence[str]) -> None:
    for user in owners:
        world.token(user)
    with world.database.write() as session:
        first, *others = [session.scalars(select(User).where(User.name == user)).one() for user in owners]
        space = namespaces.add_namespace(session, name, "organisation", first)
        session.add_all(NamespaceMember(namespace_id=space.id, user_id=user.id, role="owner") for user in others)


def test_bytes_count_from_their_announcement_until_it_is_cancelled(world: World) -> None:
    allow(world, "alice", size=1000)
    first = ask(world, "alice", b"a" * 600).json()
    refused = ask(world, "alice", b"b" * 401)
    assert (refused.status_code, refused.json()["type"]) == (429, "urn:breadcrumb:problem:too-many")
    assert "600 are used or announced" in refused.json()["detail"]
    assert int(refused.headers["retry-after"]) > 60, "it does not pass by waiting, so clients should not wait"
    assert ask(world, "alice", b"c" * 400).status_code == 201
    assert usage(world, "alice").reserved_bytes == 1000
    assert ask(world, "alice", b"a" * 600).status_code == 201, "the same again counts once"
    world.client().delete(f"/api/v1/uploads/{first['id']}")
    assert usage(world, "alice").reserved_bytes == 400
    assert ask(world, "alice", b"b" * 401).status_code == 201


def test_nobody_elses_quota_is_touched(world: World) -> None:
    allow(world, "alice", size=100)
    assert ask(world, "alice", b"a" * 101).status_code == 429
    assert ask(world, "bob", b"a" * 101).status_code == 201


def test_open_uploads_are_counted_and_done_ones_are_not(world: World) -> None:
    allow(world, "alice", count=2)
    upload(world.client(), b"done")
    opened = [ask(world, "alice", bytes([number]) * 9) for number in range(3)]
    assert [answer.status_code for answer in opened] == [201, 201, 429]
    assert "2 open uploads" in opened[2].json()["detail"]
    put_part(world.client(), opened[0].json(), bytes([0]) * 9, 0)
    world.client().post(f"/api/v1/uploads/{opened[0].json()['id']}/complete")
    assert ask(world, "alice", bytes([2]) * 9).status_code == 201


def test_what_is_done_and_not_referred_to_still_counts(world: World) -> None:
    allow(world, "alice", size=1000)
    upload(world.client(), b"a" * 900)
    assert usage(world, "alice").reserved_bytes == 900
    assert ask(world, "alice", b"b" * 101).status_code == 429
    assert announce(world.client(), b"a" * 900)["state"] == "done"


def test_what_is_abandoned_is_free_when_it_expires_and_before_it_is_swept(world: World) -> None:
    allow(world, "alice", size=1000, count=3)
    for letter in b"abc":
        assert ask(world, "alice", bytes([letter]) * 333).status_code == 201
    assert ask(world, "alice", b"d" * 9).status_code == 429
    expire(world, b"a" * 333, b"b" * 333, b"c" * 333)
    assert usage(world, "alice") == Usage(1000, 3, 0, 0, 0)
    assert ask(world, "alice", b"d" * 1000).status_code == 201


@pytest.mark.parametrize("done", [True, False])
def test_an_expired_session_is_no_way_around_a_quota(world: World, done: bool) -> None:
    """An expired session that was not deleted yet is opened again only if there is room for it."""
    allow(world, "alice", size=1000, count=1)
    upload(world.client(), b"a" * 900) if done else announce(world.client(), b"a" * 900)
    expire(world, b"a" * 900)
    other = ask(world, "alice", b"b" * 900).json()
    assert ask(world, "alice", b"a" * 900).status_code == 429
    assert usage(world, "alice").reserved_bytes == 900
    world.client().delete(f"/api/v1/uploads/{other['id']}")
    again = ask(world, "alice", b"a" * 900)
    assert again.json()["state"] == ("done" if done else "open")
    assert usage(world, "alice").reserved_bytes == 900


def test_two_users_of_an_organisation_share_its_quota(world: World) -> None:
    organisation(world, "acme", ["alice", "bob"])
    allow(world, "acme", size=1000)
    assert ask(world, "alice", b"a" * 600, "acme").status_code == 201
    assert ask(world, "bob", b"b" * 600, "acme").status_code == 429
    assert ask(world, "bob", b"b" * 400, "acme").status_code == 201
    assert usage(world, "acme").reserved_bytes == 1000
    assert usage(world, "alice").reserved_bytes == usage(world, "bob").reserved_bytes == 0
    assert ask(world, "bob", b"c" * 600).status_code == 201, "bob's own is another"


def test_a_base_counts_for_its_namespace_once_whatever_was_announced(world: World, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "base")
    size = sum(path.stat().st_size for path in folder.iterdir())
    create_model(world, "alice/tiny", folder)
    create_model(world, "alice/twin", folder)
    assert usage(world, "alice") == Usage(10**12, 10**6, size, 0, 0)
    expire(world, *[path.read_bytes() for path in folder.iterdir()])
    allow(world, "alice", size=size)
    for path in folder.iterdir():  # a push that goes on after a week announces what is there already
        assert ask(world, "alice", path.read_bytes()).status_code == 200
    assert ask(world, "alice", b"x").status_code == 429


def test_what_need_not_be_sent_counts_too(world: World, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "base")
    create_model(world, "alice/tiny", folder)
    raw = (folder / "model.safetensors").read_bytes()
    allow(world, "bob", size=len(raw) + 10)
    assert ask(world, "bob", raw).status_code == 200
    assert usage(world, "bob") == Usage(len(raw) + 10, 10**6, 0, len(raw), 0)
    assert ask(world, "bob", b"x" * 11).status_code == 429
    allow(world, "carol", size=5) if world.token("carol") else None
    assert ask(world, "carol", raw).status_code == 429


def test_a_patch_counts_for_its_author_wherever_it_is_pushed(world: World, tmp_path: Path) -> None:
    organisation(world, "acme", ["alice"])
    create_model(world, "acme/tiny", make_checkpoint(tmp_path / "base"), user="alice")
    before = usage(world, "acme")
    bob = world.client("bob")
    sha256 = upload(bob, PATCH)
    assert usage(world, "bob") == Usage(10**12, 10**6, 0, 300, 0)
    assert bob.post("/api/v1/models/acme/tiny/patches", json={"sha256": sha256, "title": "t"}).status_code == 202
    assert usage(world, "bob") == Usage(10**12, 10**6, 300, 0, 0), "from reserved to used, and not both"
    expire(world, PATCH)
    assert usage(world, "bob").used_bytes == 300
    assert usage(world, "acme") == before
    with world.database.write() as session:
        model = patches.models.find(session, "acme/tiny")
        revision = patches.by_id(session, session.scalars(select(PatchRevision.id)).one())
        revisions.refuse(session, model, revision, "acme/tiny#1", "no")
    assert usage(world, "bob") == Usage(10**12, 10**6, 0, 0, 0)


def test_the_kept_sum_is_what_the_rows_say_through_every_change(world: World, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base")
    create_model(world, "alice/tiny", base)
    assert list(quotas.check(world.database)) == []
    patch = tmp_path / "p.safetensors"
    make_patch(base, fine_tuned(base, tmp_path / "tuned"), patch)
    push_patch(world, "alice/tiny", patch)
    (tmp_path / "bad.safetensors").write_bytes(b"bad")
    push_patch(world, "alice/tiny", tmp_path / "bad.safetensors")  # which a worker refuses
    carol = world.client("carol")
    carol.post(
        "/api/v1/models", json={"name": "carol/bad", "files": [{"path": "config.json", "sha256": digest(b"no")}]}
    )
    asked = carol.post("/api/v1/models/alice/tiny/compositions", json={"patches": [{"number": 1}]})
    assert asked.status_code == 202, asked.text
    world.work()
    assert list(quotas.check(world.database)) == []
    assert usage(world, "bob").used_bytes == patch.stat().st_size
    assert usage(world, "carol").used_bytes == 0, "a composition costs nothing"
    recipe = asked.json()["recipe"]["digest"]
    assert world.client("alice").delete(f"/api/v1/models/alice/tiny/compositions/{recipe}").status_code == 204
    assert usage(world, "carol").used_bytes == 0
    assert list(quotas.check(world.database)) == []


def test_a_kept_sum_that_is_wrong_is_named_and_corrected(world: World) -> None:
    world.token("alice")
    with world.database.write() as session:
        session.scalars(select(Namespace).where(Namespace.name == "alice")).one().used_bytes = 7
    assert "alice was counted as using 7 bytes, not 0; that is corrected." in crumb_server(world, "check", code=1)
    assert usage(world, "alice").used_bytes == 0
    crumb_server(world, "check")


def test_bytes_that_two_transactions_add_at_once_count_once(world: World, tmp_path: Path) -> None:
    create_model(world, "alice/tiny", make_checkpoint(tmp_path / "base"))
    sha256 = upload(world.client(), PATCH)
    before = usage(world, "alice").used_bytes
    with world.database.read() as session:
        model = patches.models.find(session, "alice/tiny")
    charged, go = threading.Event(), threading.Event()

    def add(path: str, *, first: bool) -> None:
        with world.database.write() as session:
            quotas.charge(session, model.namespace_id, [sha256])
            session.add(BaseFile(model_id=model.id, path=path, sha256=sha256))
            if first:
                charged.set()
                go.wait(60)

    threads = [threading.Thread(target=add, args=(path,), kwargs={"first": path == "a"}) for path in ("a", "b")]
    threads[0].start()
    assert charged.wait(60)
    threads[1].start()
    threads[1].join(0.2)  # it waits for the first; without the lock it would be done
    assert threads[1].is_alive()
    go.set()
    for thread in threads:
        thread.join()
    assert usage(world, "alice").used_bytes == before + len(PATCH)


def together(calls: Sequence[Any]) -> list[Any]:
    """Call all functions at once; return their results, in any order."""
    came: list[Any] = []
    ready = threading.Barrier(len(calls))

    def call(one: Any) -> None:
        ready.wait()
        try:
            came.append(one())
        except BaseException as error:
            came.append(error)

    threads = [threading.Thread(target=call, args=(one,)) for one in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return came


def test_sixty_four_announcements_at_once_never_pass_the_quota(world: World) -> None:
    organisation(world, "acme", ["alice", "bob"])
    allow(world, "acme", size=1000)
    world.client("alice").get("/api/v1/whoami"), world.client("bob").get("/api/v1/whoami")
    calls = [
        lambda number=number: ask(world, ("alice", "bob")[number % 2], b"%03d" % number * 33, "acme").status_code
        for number in range(64)
    ]
    came = together(calls)
    assert sorted(came) == [201] * 10 + [429] * 54
    assert usage(world, "acme").reserved_bytes == 990


def test_a_push_in_the_middle_of_an_announcement_hides_no_bytes(world: World, tmp_path: Path) -> None:
    """Bytes move from reserved to used; a sum over both must come from one statement."""
    create_model(world, "alice/tiny", make_checkpoint(tmp_path / "base"))
    bob = world.client("bob")
    files = [bytes([number]) * 100 for number in range(12)]
    for raw in files:
        upload(bob, raw)
    allow(world, "bob", size=1200)
    over, seen = threading.Event(), set()

    def watch() -> None:
        while not over.is_set():
            found = usage(world, "bob")
            seen.add(found.used_bytes + found.reserved_bytes)

    thread = threading.Thread(target=watch)
    thread.start()
    for raw in files:
        bob.post("/api/v1/models/alice/tiny/patches", json={"sha256": digest(raw), "title": "t"})
    over.set()
    thread.join()
    assert seen == {1200}


# The operator's commands -----------------------------------------------------------------------------------------


def crumb_server(world: World, *arguments: str, code: int = 0) -> str:
    environment = {"DATABASE_URL": str(world.settings.database_url)}
    options = ["--data", str(world.settings.data)]
    done = CliRunner().invoke(app, [*arguments, *options], env=environment)
    assert done.exit_code == code, done.output
    return done.output


def audited(world: World, action: str) -> list[tuple[str, Any, Any]]:
    with world.database.read() as session:
        found = session.scalars(select(AuditEvent).where(AuditEvent.action == action).order_by(AuditEvent.serial))
        return [(event.subject, event.before, event.after) for event in found]


def test_the_operator_sets_and_shows_a_quota(world: World) -> None:
    upload(world.client(), b"a" * 50)
    shown = json.loads(crumb_server(world, "namespace", "quota", "alice", "--json"))
    assert shown["quota_bytes"] == world.settings.quota_bytes
    assert (shown["used_bytes"], shown["reserved_bytes"]) == (0, 50)
    assert audited(world, "namespace.quota") == []
    assert "0 and reserves 50 of 2048 bytes" in crumb_server(
        world, "namespace", "quota", "alice", "--bytes", "2KiB", "--uploads", "7"
    )
    crumb_server(world, "namespace", "quota", "alice", "--bytes", "2048")
    assert ask(world, "alice", b"b" * 2000).status_code == 429
    back = json.loads(crumb_server(world, "namespace", "quota", "alice", "--bytes", "default", "--json"))
    assert (back["quota_bytes"], back["quota_uploads"]) == (world.settings.quota_bytes, 7)
    assert audited(world, "namespace.quota") == [
        ("alice", {"quota_bytes": None, "quota_uploads": None}, {"quota_bytes": 2048, "quota_uploads": 7}),
        ("alice", {"quota_bytes": 2048}, {"quota_bytes": None}),
    ]


def test_an_invalid_quota_is_refused(world: World) -> None:
    world.token("alice")
    for given in ({"quota_bytes": -1}, {"quota_uploads": 2**31}):
        with pytest.raises(InvalidRequest), world.database.write() as session:
            quotas.set_quota(session, "alice", given)
    with pytest.raises(NotFound), world.database.write() as session:
        quotas.set_quota(session, "nobody", {"quota_bytes": 1})
    crumb_server(world, "namespace", "quota", "alice", "--bytes", "much", code=1)
    assert audited(world, "namespace.quota") == []


def test_a_disabled_user_is_out_at_once_until_enabled(world: World) -> None:
    client = world.client()
    assert client.get("/api/v1/whoami").status_code == 200
    assert "now disabled" in crumb_server(world, "user", "disable", "alice")
    assert "already disabled" in crumb_server(world, "user", "disable", "alice")
    refused = client.get("/api/v1/whoami")
    assert (refused.status_code, "disabled" in refused.json()["detail"]) == (401, True)
    assert world.client("bob").get("/api/v1/whoami").status_code == 200
    assert "now enabled" in crumb_server(world, "user", "enable", "alice")
    assert client.get("/api/v1/whoami").status_code == 200
    assert audited(world, "user.disable") == [("alice", {"active": True}, {"active": False})]
    assert audited(world, "user.enable") == [("alice", {"active": False}, {"active": True})]
    with pytest.raises(NotFound), world.database.write() as session:
        namespaces.set_active(session, "nobody", False)
