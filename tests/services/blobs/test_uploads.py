import random
import threading
from datetime import timedelta

import pytest
from sqlalchemy import select

from registry.db.tables import AuditEvent, UploadSession, now
from registry.services.blobs import damage, garbage
from tests.support.world import World, announce, content_digest, digest, put_part, upload

DATA = random.Random(1).randbytes(4500)  # parts of 1000 bytes: 0 to 4, the last one short


def staged_bytes(world: World) -> int:
    return sum(path.stat().st_blocks for path in world.store.staging.iterdir())


def test_parts_in_any_order_and_again_make_the_blob(world: World) -> None:
    client = world.client()
    session = announce(client, DATA)
    assert session["missing"] == [0, 1, 2, 3, 4]
    for number in (4, 2, 2, 0, 3):
        assert put_part(client, session, DATA, number).status_code == 200
    assert client.get(f"/api/v1/uploads/{session['id']}").json()["missing"] == [1]
    assert put_part(client, session, DATA, 1).status_code == 200
    done = client.post(f"/api/v1/uploads/{session['id']}/complete")
    assert (done.status_code, done.json()["state"]) == (200, "done")
    assert world.store.path(digest(DATA)).read_bytes() == DATA
    assert not list(world.store.staging.iterdir())


def test_no_bytes_at_all_are_a_blob_too(world: World) -> None:
    upload(world.client(), b"")
    assert world.store.path(digest(b"")).read_bytes() == b""
    refused = world.client().post("/api/v1/uploads", json={"sha256": digest(b"x"), "size": 0})
    assert (refused.status_code, refused.json()["field"]) == (422, "sha256")


def test_completing_twice_is_completing_once(world: World) -> None:
    client = world.client()
    upload(client, DATA)
    session = announce(client, DATA)
    assert client.post(f"/api/v1/uploads/{session['id']}/complete").json()["state"] == "done"


def test_the_same_announcement_returns_the_same_session_to_whoever_holds_the_token(world: World) -> None:
    first, elsewhere = world.client(), world.client()
    session = announce(first, DATA)
    put_part(first, session, DATA, 3)
    again = announce(elsewhere, DATA)
    assert again["id"] == session["id"]
    assert again["missing"] == [0, 1, 2, 4]


def test_the_same_bytes_of_two_users_are_one_blob(world: World) -> None:
    for user in ("alice", "bob"):
        upload(world.client(user), DATA)
    assert list(world.store.digests()) == [digest(DATA)]


def test_many_clients_at_once_make_one_blob_and_all_succeed(world: World) -> None:
    world.token("alice"), world.token("bob")
    failed: list[BaseException] = []

    def send(user: str) -> None:
        try:
            upload(world.client(user), DATA)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=send, args=(user,)) for user in ("alice", "bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert world.store.path(digest(DATA)).read_bytes() == DATA


def test_knowing_a_digest_grants_nothing(world: World) -> None:
    upload(world.client("alice"), DATA)
    session = announce(world.client("bob"), DATA)
    assert session["state"] == "open"
    assert session["missing"] == [0, 1, 2, 3, 4]


def test_a_session_is_its_owners_alone(world: World) -> None:
    session = announce(world.client("alice"), DATA)
    stranger = world.client("bob")
    nowhere = "00000000-0000-4000-8000-000000000000"
    for method, path in (("GET", ""), ("POST", "/complete"), ("DELETE", "")):
        theirs = stranger.request(method, f"/api/v1/uploads/{session['id']}{path}")
        absent = stranger.request(method, f"/api/v1/uploads/{nowhere}{path}")
        assert theirs.status_code == absent.status_code == 404
        assert theirs.json()["detail"] == absent.json()["detail"]
    assert put_part(stranger, session, DATA, 0).status_code == 404


@pytest.mark.parametrize("token", [None, "Bearer hf_" + "x" * 40, "Basic abc", "Bearer"])
def test_a_refused_caller_leaves_no_byte(world: World, token: str | None) -> None:
    session = announce(world.client(), DATA)
    read: list[bytes] = []

    def body():  # type: ignore[no-untyped-def]
        for at in range(0, 1000, 100):
            read.append(DATA[at : at + 100])
            yield DATA[at : at + 100]

    headers = {**content_digest(DATA[:1000]), "Content-Length": "1000"}
    if token:
        headers["Authorization"] = token
    answer = world.client(None).put(f"/api/v1/uploads/{session['id']}/parts/0", content=body(), headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert not list(world.store.staging.iterdir())


@pytest.mark.parametrize(
    ("number", "length", "status"), [(0, 1001, 413), (0, 999, 422), (5, 1000, 416), (4, 1000, 413), (4, 500, 200)]
)
def test_a_part_has_exactly_its_length(world: World, number: int, length: int, status: int) -> None:
    client = world.client()
    session = announce(client, DATA)
    part = (DATA + DATA)[number * 1000 : number * 1000 + length]
    answer = client.put(f"/api/v1/uploads/{session['id']}/parts/{number}", content=part, headers=content_digest(part))
    assert answer.status_code == status, answer.text


def test_a_part_that_does_not_match_its_digest_is_not_kept(world: World) -> None:
    client = world.client()
    session = announce(client, DATA)
    answer = client.put(
        f"/api/v1/uploads/{session['id']}/parts/0", content=b"x" * 1000, headers=content_digest(DATA[:1000])
    )
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:breadcrumb:problem:digest-mismatch"
    assert 0 in client.get(f"/api/v1/uploads/{session['id']}").json()["missing"]


@pytest.mark.parametrize("header", [None, "sha-256=:nonsense:", "md5=:AAAA:", "sha-256=:" + "A" * 42 + "==:"])
def test_a_part_without_a_digest_is_refused(world: World, header: str | None) -> None:
    client = world.client()
    session = announce(client, DATA)
    headers = {"Content-Digest": header} if header else {}
    answer = client.put(f"/api/v1/uploads/{session['id']}/parts/0", content=DATA[:1000], headers=headers)
    assert (answer.status_code, answer.json()["field"]) == (422, "Content-Digest")


def test_an_acknowledged_part_is_not_replaced_by_other_bytes(world: World) -> None:
    client = world.client()
    session = announce(client, DATA)
    put_part(client, session, DATA, 0)
    other = b"x" * 1000
    answer = client.put(f"/api/v1/uploads/{session['id']}/parts/0", content=other, headers=content_digest(other))
    assert answer.status_code == 409
    for number in range(1, 5):
        put_part(client, session, DATA, number)
    assert client.post(f"/api/v1/uploads/{session['id']}/complete").status_code == 200


def test_completing_with_missing_parts_names_them(world: World) -> None:
    client = world.client()
    session = announce(client, DATA)
    put_part(client, session, DATA, 0)
    answer = client.post(f"/api/v1/uploads/{session['id']}/complete")
    assert answer.status_code == 409
    assert "1, 2, 3, 4" in answer.json()["detail"]


def test_a_part_damaged_on_disk_is_missing_again(world: World) -> None:
    client = world.client()
    session = announce(client, DATA)
    for number in range(5):
        put_part(client, session, DATA, number)
    (staged,) = world.store.staging.iterdir()
    raw = bytearray(staged.read_bytes())
    raw[2500] ^= 1
    staged.write_bytes(raw)
    assert client.post(f"/api/v1/uploads/{session['id']}/complete").status_code == 422
    assert client.get(f"/api/v1/uploads/{session['id']}").json()["missing"] == [2]
    put_part(client, session, DATA, 2)
    assert client.post(f"/api/v1/uploads/{session['id']}/complete").status_code == 200


def test_bytes_that_are_not_what_was_announced_are_never_a_blob(world: World) -> None:
    client = world.client()
    answer = client.post("/api/v1/uploads", json={"sha256": digest(b"something else"), "size": len(DATA)})
    session = answer.json()
    for number in range(5):
        assert put_part(client, session, DATA, number).status_code == 200
    refused = client.post(f"/api/v1/uploads/{session['id']}/complete")
    assert (refused.status_code, refused.json()["field"]) == (422, "sha256")
    assert not list(world.store.digests())
    assert client.get(f"/api/v1/uploads/{session['id']}").json()["missing"] == [0, 1, 2, 3, 4]


def test_a_lost_staging_file_is_sent_again(world: World) -> None:
    client = world.client()
    session = announce(client, DATA)
    for number in range(5):
        put_part(client, session, DATA, number)
    (staged,) = world.store.staging.iterdir()
    staged.unlink()
    assert client.post(f"/api/v1/uploads/{session['id']}/complete").status_code == 422
    assert announce(client, DATA)["missing"] == [0, 1, 2, 3, 4]


def test_a_cancelled_or_expired_session_leaves_nothing_once_garbage_is_collected(world: World) -> None:
    client = world.client()
    cancelled, expired, alive = b"a" * 1500, b"b" * 1500, b"c" * 1500
    for data in (cancelled, expired, alive):
        put_part(client, announce(client, data), data, 0)
    assert client.delete(f"/api/v1/uploads/{announce(client, cancelled)['id']}").status_code == 204
    assert len(list(world.store.staging.iterdir())) == 2
    with world.database.write() as session:
        row = session.scalar(select(UploadSession).where(UploadSession.sha256 == digest(expired)))
        row.expires_at = now()
    collected = garbage.run(world.database, world.store, timedelta(hours=1))
    assert (collected.uploads.count, collected.staged.count) == (1, 1)
    assert len(list(world.store.staging.iterdir())) == 1
    assert announce(client, alive)["missing"] == [1]


def test_limits_are_checked_at_the_announcement(world: World) -> None:
    client = world.client()
    answer = client.post("/api/v1/uploads", json={"sha256": digest(b""), "size": 2**52})
    assert answer.status_code == 413
    assert "bytes" in answer.json()["detail"]


def test_check_finds_missing_damaged_and_unknown_blobs(world: World) -> None:
    first, second = upload(world.client(), DATA), upload(world.client(), DATA + b"x")
    assert list(damage.check(world.database, world.store)) == []
    world.store.path(first).unlink()
    damaged = world.store.path(second)
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"y")
    unknown, _ = world.store.put([b"unknown"])
    found = list(damage.check(world.database, world.store))
    assert len(found) == 3
    for sha256, word in ((first, "missing"), (second, "damaged"), (unknown, "no row")):
        assert any(sha256 in line and word in line for line in found)


def test_secrets_are_nowhere_in_the_database(world: World) -> None:
    secret = world.token("alice")
    world.client("alice").get("/api/v1/whoami")
    with world.database.read() as session:
        dump = repr([(event.before, event.after) for event in session.scalars(select(AuditEvent))])
        for table in ("tokens", "users", "audit_events"):
            dump += repr(session.connection().exec_driver_sql(f"SELECT * FROM {table}").all())
    assert secret not in dump
    assert secret[:9] in dump
