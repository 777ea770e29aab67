"""Exports: what a registry gives to those that mirror it, in bounded pages, and nothing that is nobody's business."""

import hashlib
import re
import uuid
from typing import Any

import pytest
from sqlalchemy import event, insert, select, text, update

from registry.db.tables import (
    AuditEvent,
    Build,
    CardProposal,
    Comment,
    Composition,
    Evaluation,
    Model,
    Patch,
    PatchRevision,
    Recipe,
    Release,
    now,
)
from registry.services.mirroring import exports
from registry.services.mirroring.carried import Part, parse_part
from tests.support.community import NAME, URL, Community
from tests.support.plans import explain, statements_asked
from tests.support.world import World, add_model


def parts(crew: Community, limit: int = 1000, user: str | None = None) -> list[str]:
    """Read all parts of the model, page by page."""
    found: list[str] = []
    after = ""
    while True:
        page = crew.get(f"/mirror/parts?limit={limit}{after}", user)
        found += page["items"]
        if page["next"] is None:
            return found
        after = f"&after={page['next']}"


def rows(crew: Community, part: str, user: str | None = None) -> list[dict[str, Any]]:
    """Read all pages of the rows of a part."""
    pages, skip = [], 0
    while True:
        pages.append(crew.get(f"/mirror/rows?part={part}&skip={skip}", user))
        if pages[-1]["next"] is None:
            return pages
        skip = pages[-1]["next"]


def of(pages: list[dict[str, Any]], table: str) -> list[dict[str, Any]]:
    return [row["values"] for page in pages for row in page["rows"] if row["table"] == table]


def test_a_model_is_read_part_by_part_parents_first_with_its_files(
    lived: Community, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew, world = lived, lived.world
    head = crew.world.client(None).get("/api/v1/mirror", params={"at": 3}).json()
    with world.database.read() as session:
        newest = session.scalars(select(AuditEvent).order_by(AuditEvent.serial.desc()).limit(1)).one()
        third = session.get_one(AuditEvent, 3)
        recipes = {row.recipe_digest for row in session.scalars(select(exports.Release))}
    assert (head["serial"], head["hash"], head["at"]) == (newest.serial, newest.hash, third.hash)
    assert world.client(None).get("/api/v1/mirror", params={"at": 10**6}).json()["at"] is None
    (model,) = world.client(None).get("/api/v1/mirror/models").json()["items"]
    assert model["name"] == NAME

    crew.put("mary", "/channels/stable", version="1.0.0", reason="First.")
    named = parts(crew)
    assert named[:5] == ["model", "patch:1", "patch:2", "patch:3", "patch:4"] and named[-1] == "channel:stable"
    assert {part.partition(":")[2] for part in named if part.startswith("recipe:")} == recipes
    assert [parts(crew, limit) for limit in (1, 2, 3)] == [named] * 3

    whole = {part: rows(crew, part) for part in named}
    release = rows(crew, "release:1.1.0")
    assert whole[f"recipe:{release[0]['recipe']['digest']}"] == release
    monkeypatch.setattr(exports, "ROWS", 2)
    for part, pages in whole.items():
        again = rows(crew, part)
        assert len(again) > 1 or len(pages[0]["rows"]) <= 2
        assert [row for page in again for row in page["rows"]] == pages[0]["rows"], part
    tables = [row["table"] for row in release[0]["rows"]]
    assert tables[:1] == ["models"] and tables.index("releases") < tables.index("release_files")

    seen = set()
    for pages in whole.values():
        for blob in pages[0]["blobs"]:
            answer = crew.get(f"/mirror/files/{blob['sha256']}", status=200 if blob["where"] == "here" else 404)
            if blob["where"] == "here":
                assert (hashlib.sha256(answer.content).hexdigest(), len(answer.content)) == (
                    blob["sha256"],
                    blob["size"],
                )
            seen.add(blob["where"])
    assert seen == {"here", "composed"}
    (revision,) = of(whole["patch:1"], "patch_revisions")
    assert "blob_sha256" not in revision and "nnz" not in revision
    people = {user["name"] for page in whole["patch:1"] for user in page["people"]}
    assert people == {"alice", "bob", "rita"}
    said = str(whole)
    assert all(secret not in said for secret in world.tokens.values())


def test_what_is_hidden_unfinished_or_quarantined_is_not_carried(sqlite_crew: Community) -> None:
    crew, world = sqlite_crew, sqlite_crew.world
    crew.post("carol", "/patches/1/comments", 201, message="a secret")
    crew.post("bob", "/patches/1/comments", 201, message="a word")
    crew.post("bob", "/cards", 201, title="t", message="", card="# Another card\n")
    sha256 = crew.patch(2)["sha256"]
    with world.database.write() as session:
        (comment,) = session.scalars(select(Comment).where(Comment.message == "a secret"))
        comment.hidden_at = now()
        session.execute(update(Patch).where(Patch.number == 2).values(quarantined_at=now()))
        unread = crew.revision(session, 3)
        session.execute(update(PatchRevision).where(PatchRevision.id == unread.id).values(state="checking"))
        proposal = session.scalars(select(CardProposal)).one()
        assert proposal.card == "# Another card\n"
    assert parts(crew) == ["model", "patch:1", "patch:2", "patch:4", "patch:5"]
    assert "a secret" not in str(rows(crew, "patch:1")) and "a word" in str(rows(crew, "patch:1"))
    assert of(rows(crew, "patch:3"), "patches") == []
    assert of(rows(crew, "patch:5"), "card_proposals")[0]["card"] == proposal.card
    quarantined = rows(crew, "patch:2")
    assert of(quarantined, "patches")[0]["quarantined_at"] is not None
    assert quarantined[0]["blobs"] == []
    crew.get(f"/mirror/files/{sha256}", status=404)
    with world.database.write() as session:
        session.execute(update(Model).values(visibility="private"))
    for path in ("/mirror/parts", "/mirror/rows", f"/mirror/files/{sha256}"):
        crew.get(path, status=404)
        crew.get(path, "carol", status=404)
    assert world.client(None).get("/api/v1/mirror/models").json()["items"] == []
    assert parts(crew, user="mary")[0] == "model"
    assert rows(crew, "model", "mary")[0]["rows"][0]["values"]["visibility"] == "private"


@pytest.mark.parametrize(
    "named",
    ["", "models", "model:", "patch:0", "patch:x", "patch:1.2", "recipe:ab", "release:1", "channel:A", "user:1"],
)
def test_what_is_no_part_is_refused(sqlite_crew: Community, named: str) -> None:
    answer = sqlite_crew.world.client(None).get(f"{URL}/mirror/rows", params={"part": named})
    assert answer.status_code == 422 and "not a part of a model" in answer.json()["detail"]


def test_the_name_of_a_part_reads_back() -> None:
    for part in (Part("model"), Part("patch", "3"), Part("recipe", "a" * 64), Part("release", "1.2.0-rc.1+x")):
        assert parse_part(str(part)) == part


def test_no_more_long_texts_come_into_memory_than_fit_on_a_page(
    sqlite_crew: Community, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew, loaded = sqlite_crew, list[str]()
    for n in range(4):
        crew.post("bob", "/patches/1/comments", 201, message=f"{n}" * 100)
    whole = rows(crew, "patch:1")
    monkeypatch.setattr(exports, "PAGE_BYTES", 150)
    listener = Comment, "load", lambda row, _: loaded.append(row.message)
    event.listen(*listener)
    try:
        crew.get("/mirror/rows?part=patch:1&skip=0")
        assert 1 <= len(loaded) <= 2, "of four"
        pages = rows(crew, "patch:1")
    finally:
        event.remove(*listener)
    assert [row for page in pages for row in page["rows"]] == whole[0]["rows"]
    assert len(pages) >= 3


@pytest.mark.heavy
def test_a_page_of_parts_reads_little_however_many_recipes_there_are(world: World) -> None:
    """3,000 compositions with builds, evaluations and releases: a page finds its keys by the indexes."""
    add_model(world)
    digests, texts = [f"{n:064x}" for n in range(3000)], {"device": "cpu", "weights_digest": f"sha256:{'0' * 64}"}
    with world.database.write() as session:
        model = session.scalars(select(Model)).one()
        session.execute(
            insert(Recipe),
            [{"digest": digest, "base_digest": "b", "alpha": "1", "method": "sum"} for digest in digests],
        )
        mine = [{"id": uuid.uuid4(), "model_id": model.id, "recipe_digest": digest} for digest in digests]
        session.execute(insert(Composition), [{**row, **texts, "seconds": 1.0, "commit": "c" * 40} for row in mine])
        session.execute(insert(Build), [{**row, **texts, "builder": "w"} for row in mine])
        words = dict.fromkeys(("task", "dataset", "metric"), "x")
        measured = {"user_id": model.creator_id, "value": 1.0, "higher_is_better": True, **words}
        session.execute(insert(Evaluation), [{**row, **measured} for row in mine])
        cut = {"state": "draft", "changelog": "", "creator_id": model.creator_id}
        session.execute(
            insert(Release), [{**row, **cut, "version": f"0.0.{n}", "sort": str(n)} for n, row in enumerate(mine)]
        )
    with world.database.write() as session:
        session.execute(text("ANALYZE"))
    world.database.engine.dispose()  # connections that are open do not see the statistics
    with statements_asked(world.database.engine) as asked, world.database.read() as session:
        found = exports.parts(session, session.scalars(select(Model)).one(), Part("recipe", digests[999]), 100)
    assert found == [Part("recipe", digest) for digest in digests[1000:1100]]
    ((plan, _),) = explain(world.database.engine, asked, "builds.recipe_digest")
    for table in ("compositions", "releases", "builds", "evaluations"):
        by_index = rf"SEARCH {table} USING COVERING INDEX|Index (Only )?Scan using \w+ on {table}"
        assert re.search(by_index, plan), plan
    assert not re.search("Seq Scan|SCAN (compositions|releases|builds|evaluations)", plan), plan
