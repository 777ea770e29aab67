"""Held compositions: which have their bytes on disk, which are composed when read, and that both are the same."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event, select, update

from registry.db.tables import Blob, Composition, Job, now
from registry.server.sending import composed
from registry.services.blobs import damage, garbage
from registry.services.composing import holding
from tests.support.community import NAME, URL, Community

FILE = "model.safetensors"


def compose(crew: Community, alpha: str, number: int = 1) -> str:
    """Have a recipe composed; return its digest."""
    body = {"alpha": alpha, "patches": [{"number": number}]}
    digest = crew.world.client("carol").post(f"{URL}/compositions", json=body).json()["recipe"]["digest"]
    crew.world.work()
    return str(digest)


def bound(crew: Community, size: int) -> None:
    """Set how many bytes of compositions stay on disk."""
    for worker in (crew.world.worker, crew.second):
        worker.settings = crew.world.settings.model_copy(update={"composed_bytes": size})


def weights(crew: Community, ref: str) -> dict[str, Any]:
    (file,) = (file for file in crew.get(f"/revisions/{ref}")["files"] if file["path"] == FILE)
    return {"sha256": file["sha256"], "size": file["size"]}


def read(crew: Community, ref: str, **headers: str) -> Any:
    return crew.world.client(None).get(f"/{NAME}/resolve/{ref}/{FILE}", headers=headers)


def on_disk(crew: Community, ref: str) -> bool:
    return crew.world.store.exists(weights(crew, ref)["sha256"])


def held(crew: Community) -> set[str]:
    with crew.world.database.read() as session:
        return set(session.scalars(select(Composition.recipe_digest).where(Composition.held)))


def count_writes(crew: Community) -> Callable[[], int]:
    """Return a function that says how many statements have told of a use since."""
    seen: list[str] = []
    engine = crew.world.database.engine

    @event.listens_for(engine, "before_cursor_execute")
    def look(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        seen.append(statement)

    return lambda: sum("UPDATE compositions SET used_at" in statement for statement in seen)


def size_of_one(crew: Community) -> int:
    return int(weights(crew, compose(crew, "0.9"))["size"])


def test_where_there_is_no_room_a_composition_is_its_digests_and_is_composed_when_it_is_read(crew: Community) -> None:
    kept = compose(crew, "0.1")
    stored = read(crew, kept).content
    file = weights(crew, kept)
    delete(crew, kept)
    bound(crew, 0)
    assert compose(crew, "0.1") == kept
    assert weights(crew, kept) == file
    assert not on_disk(crew, kept)
    answer = read(crew, kept)
    assert (answer.status_code, answer.content) == (200, stored)
    assert hashlib.sha256(answer.content).hexdigest() == file["sha256"]
    same = ("etag", "content-length", "repr-digest", "accept-ranges", "content-disposition", "cache-control")
    delete(crew, kept)
    bound(crew, 10**9)
    compose(crew, "0.1")
    assert {name: answer.headers[name] for name in same} == {name: read(crew, kept).headers[name] for name in same}


def delete(crew: Community, recipe: str) -> None:
    """Delete a composition, and collect its bytes at once."""
    assert crew.world.client("carol").delete(f"{URL}/compositions/{recipe}").status_code == 204
    with crew.world.database.write() as session:
        session.execute(update(Blob).values(leased_until=now()))
    for _ in range(2):
        garbage.run(crew.world.database, crew.world.store, holding.RENEWED * 0)


def test_any_range_of_it_is_what_a_file_on_disk_would_send(crew: Community) -> None:
    bound(crew, 0)
    recipe = compose(crew, "0.1")
    whole = read(crew, recipe).content
    size = len(whole)
    for asked, part in {
        "bytes=0-7": whole[:8],
        "bytes=100-": whole[100:],
        "bytes=-9": whole[-9:],
        f"bytes=1234-{size + 50}": whole[1234:],
        f"bytes=0-{size - 1}": whole,
    }.items():
        answer = read(crew, recipe, Range=asked)
        assert (answer.status_code, answer.content) == (206, part), asked
        start = size - len(part) if asked.startswith("bytes=-") else int(asked[6:].partition("-")[0])
        assert answer.headers["content-range"] == f"bytes {start}-{start + len(part) - 1}/{size}"
    assert read(crew, recipe, Range=f"bytes={size}-").status_code == 416
    tag = read(crew, recipe, Range="bytes=0-0").headers["etag"]
    assert read(crew, recipe, **{"If-None-Match": tag}).status_code == 304
    assert read(crew, recipe, **{"Range": "bytes=0-0", "If-Range": '"other"'}).status_code == 200
    head = crew.world.client(None).head(f"/{NAME}/resolve/{recipe}/{FILE}")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(size), b"")


def test_files_are_sent_in_pieces_that_are_composed_one_by_one(
    crew: Community, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound(crew, 0)
    recipe = compose(crew, "0.1")
    whole = read(crew, recipe).content
    monkeypatch.setattr(composed, "SMALLEST", 1000)
    monkeypatch.setattr(composed, "LARGEST", 1700)
    assert read(crew, recipe).content == whole
    assert read(crew, recipe, Range="bytes=999-5002").content == whole[999:5003]


def test_the_least_recently_used_goes_when_another_needs_its_room(crew: Community) -> None:
    size = size_of_one(crew)
    bound(crew, 2 * size)
    first, second = compose(crew, "0.1"), compose(crew, "0.2")
    assert held(crew) == {first, second}, "the one composed before both has gone"
    with crew.world.database.write() as session:  # long ago, or it would count as used just now
        session.execute(update(Composition).values(used_at=now() - 10 * holding.RENEWED))
        session.execute(
            update(Composition).where(Composition.recipe_digest == second).values(used_at=now() - 11 * holding.RENEWED)
        )
    assert read(crew, second, Range="bytes=0-9").status_code == 206
    third = compose(crew, "0.3")
    assert held(crew) == {second, third}, "the second is in use, if only in part"
    assert (on_disk(crew, first), on_disk(crew, second), on_disk(crew, third)) == (False, True, True)
    with crew.world.database.read() as session:
        assert holding.held_bytes(session) == 2 * size
    assert list(damage.check(crew.world.database, crew.world.store)) == holding.check(crew.world.database) == []


def test_what_a_channel_points_at_what_main_is_and_what_is_pinned_stays(crew: Community) -> None:
    crew.accept(1, 2, 3)
    refs = {version: crew.publish(version, numbers)["recipe"]["digest"] for version, numbers in RELEASES.items()}
    crew.put("mary", "/channels/beta", version="1.0.0", reason="")
    bound(crew, 0)
    crew.world.worker.sweep()
    assert held(crew) == {refs["1.0.0"], refs["1.2.0"]}, "beta, and main"
    assert read(crew, "1.1.0").status_code == 200
    assert crew.put("mary", "/releases/1.1.0/pin")["pinned"] is True
    crew.put("rita", "/releases/1.1.0/pin", 403)
    crew.world.work()
    assert held(crew) == {refs["1.0.0"], refs["1.2.0"]}, "there is no room for it, pinned or not"
    bound(crew, 10**9)
    crew.ask("mary", "DELETE", "/releases/1.1.0/pin")
    crew.put("mary", "/releases/1.1.0/pin")
    crew.world.work()
    assert held(crew) == set(refs.values())
    bound(crew, 0)
    crew.world.worker.sweep()
    assert held(crew) == set(refs.values())
    assert [event.action for event in crew.events("release.pin")] == ["release.pin"] * 3


RELEASES = {"1.0.0": [1], "1.1.0": [1, 2], "1.2.0": [1, 2, 3]}


def test_nothing_goes_for_one_that_cannot_be_held(crew: Community) -> None:
    crew.accept(1)
    stays = crew.publish("1.0.0", [1])["recipe"]["digest"]
    size = size_of_one(crew)
    other = compose(crew, "0.1", number=2)
    with crew.world.database.read() as session:
        small = holding.held_bytes(session, holding.kept())
        assert small == size
    bound(crew, 3 * size)
    assert held(crew) >= {stays, other}
    assert not holding.make_room(crew.world.database, crew.world.store, 2 * size + 1, 3 * size)
    assert held(crew) >= {stays, other}
    assert holding.make_room(crew.world.database, crew.world.store, 2 * size, 3 * size)
    assert held(crew) == {stays}


def test_what_is_read_often_is_held(crew: Community) -> None:
    bound(crew, 0)
    recipe = compose(crew, "0.1")
    bound(crew, 10**9)
    for _ in range(holding.OFTEN):
        assert held(crew) == set()
        assert read(crew, recipe, Range="bytes=0-9").status_code == 206
        assert read(crew, recipe).status_code == 200
    crew.world.work()
    assert held(crew) == {recipe}
    assert on_disk(crew, recipe)


def test_what_is_read_often_by_ranges_is_held(crew: Community) -> None:
    bound(crew, 0)
    recipe = compose(crew, "0.1")
    size = len(read(crew, recipe).content)
    bound(crew, 10**9)
    for _ in range(holding.OFTEN - 1):
        assert held(crew) == set()
        for start in range(0, size, size // 3):
            assert read(crew, recipe, Range=f"bytes={start}-{start + size // 3 - 1}").status_code == 206
        crew.world.work()
    assert held(crew) == {recipe}


def test_one_use_in_some_minutes_is_written(crew: Community) -> None:
    recipe = compose(crew, "0.1")
    ctx = crew.world.app.state.context
    with crew.world.database.write() as session:
        session.execute(update(Composition).values(used_at=now() - 2 * holding.RENEWED))
    for due in (True, False):
        assert ctx.readings.use(("another", recipe)) is due
    written = count_writes(crew)
    for _ in range(3):
        assert read(crew, recipe, Range="bytes=0-9").status_code == 206
    assert written() == 1


def test_other_bytes_than_before_are_never_sent_whole_and_raise_the_alarm(crew: Community) -> None:
    bound(crew, 0)
    recipe = compose(crew, "0.1")
    patch = crew.patch(1)["sha256"]
    path = crew.world.store.path(patch)
    raw = bytearray(path.read_bytes())
    length = int.from_bytes(raw[:8], "little")
    entries = json.loads(raw[8 : 8 + length])
    values = max(entry["data_offsets"][1] for name, entry in entries.items() if name.endswith(".values"))
    raw[8 + length + values - 1] ^= 1  # of the last value
    path.chmod(0o644)
    path.write_bytes(raw)
    refused = read(crew, recipe)
    assert (refused.status_code, refused.json()["status"]) == (500, 500), "no byte of it"
    with crew.world.database.read() as session:
        assert [job.kind for job in session.scalars(select(Job).where(Job.state == "queued"))] == ["rebuild"]
        assert session.get_one(Blob, patch).damaged_at is not None
    metrics = crew.world.client("chief", admin=True).get("/metrics").text
    assert "registry_composed_mismatches_total 1.0" in metrics


def test_a_held_file_that_is_damaged_is_composed_for_its_reader(crew: Community) -> None:
    recipe = compose(crew, "0.1")
    whole = read(crew, recipe).content
    path = crew.world.store.path(weights(crew, recipe)["sha256"])
    path.unlink()
    assert read(crew, recipe).content == whole
    with crew.world.database.read() as session:
        assert session.get_one(Blob, path.name).damaged_at is not None, "the operator is told"
    path.write_bytes(bytes(len(whole)))
    damage.examine(crew.world.database, crew.world.store, path.name)
    assert read(crew, recipe).content == whole
    bound(crew, 0)
    assert compose(crew, "0.1") == recipe
    assert held(crew) == {recipe}, "it is repaired where it is"
    crew.world.worker.sweep()
    assert held(crew) == set()
    assert list(damage.check(crew.world.database, crew.world.store)) == []


def test_a_run_that_was_killed_while_it_let_go_is_finished(crew: Community) -> None:
    recipe = compose(crew, "0.1")
    sha256, store = weights(crew, recipe)["sha256"], crew.world.store
    store.set_aside(sha256)  # and then the process died, before the commit
    garbage.restore(crew.world.database, store)
    assert on_disk(crew, recipe)
    with crew.world.database.write() as session:
        key = session.scalars(select(Composition.id)).one()
        assert holding.let_go(session, store, key) == [sha256]
    garbage.restore(crew.world.database, store)  # it died after the commit
    assert not store.set_aside_before()
    assert not on_disk(crew, recipe)
    assert hashlib.sha256(read(crew, recipe).content).hexdigest() == sha256


def test_bytes_that_are_nowhere_are_nobodys_to_use(crew: Community) -> None:
    """A model made of a composition's file must have its bytes, which the composition need not have."""
    bound(crew, 0)
    file = weights(crew, compose(crew, "0.1"))
    body = {"name": "carol/copy", "files": [{"path": FILE, "sha256": file["sha256"]}]}
    refused = crew.world.client("carol").post("/api/v1/models", json=body)
    assert refused.status_code == 422
    assert "upload them first" in refused.json()["detail"]
    announced = crew.world.client("carol").post(
        "/api/v1/uploads", json={"sha256": file["sha256"], "size": file["size"]}
    )
    assert announced.json()["state"] == "open"


def test_a_composition_that_is_deleted_leaves_no_row_of_its_bytes(crew: Community) -> None:
    bound(crew, 0)
    recipe = compose(crew, "0.1")
    sha256 = weights(crew, recipe)["sha256"]
    delete(crew, recipe)
    with crew.world.database.read() as session:
        assert session.get(Blob, sha256) is None


def test_what_could_not_be_composed_again_stays_and_is_not_composed_for_readers(crew: Community) -> None:
    bound(crew, 10**9)
    kept, other = compose(crew, "0.1"), compose(crew, "0.1", number=2)
    patch = crew.world.store.path(crew.patch(1)["sha256"])
    patch.chmod(0o644)
    patch.write_bytes(bytes(patch.stat().st_size))
    damage.examine(crew.world.database, crew.world.store, patch.name)
    bound(crew, 0)
    crew.world.worker.sweep()
    assert held(crew) == {kept}, "its patch is damaged, and these are the only bytes"
    assert read(crew, kept).status_code == read(crew, other).status_code == 200
    crew.world.store.path(weights(crew, kept)["sha256"]).unlink()
    assert read(crew, kept, Range="bytes=0-9").status_code == 500


def test_weights_that_no_held_composition_has_are_let_go_of(crew: Community) -> None:
    recipe = compose(crew, "0.1")
    with crew.world.database.write() as session:
        session.execute(update(Composition).values(held=False))
        session.execute(update(Blob).values(leased_until=now()))
    holding.reclaim(crew.world.database, crew.world.store)
    assert not on_disk(crew, recipe)
    assert read(crew, recipe).status_code == 200
    assert list(damage.check(crew.world.database, crew.world.store)) == []
