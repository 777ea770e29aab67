"""A primary in wrong hands: it gets nothing that is not its own, and what it says is held to what is found out here."""

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from registry.db.tables import AuditEvent, Composition, CompositionFile, PatchRevision, Recipe, Release
from registry.documents.commits import commit_id
from registry.errors import HistoryChanged, Unavailable
from registry.outside.primary import Primary
from registry.services.blobs import blobs
from registry.services.catalog import hub_bases, models
from registry.services.composing import builds
from registry.services.mirroring import mirrors, problems
from registry.worker.mirror import reading
from tests.support.community import NAME, URL
from tests.support.world import create_model
from tests.worker.mirror.test_following import Pair, pair, small

__all__ = ["pair", "small"]


def altering(pair: Pair, part: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Have the primary change the rows of one kind of part."""
    real = pair.follower.primary.get

    def get(asked: str, patience: float = 0, **query: Any) -> bytes:
        raw = real(asked, patience, **query)
        if asked.endswith("/rows") and str(query.get("part", "")).startswith(part):
            page = json.loads(raw)
            change(page)
            return json.dumps(page).encode()
        return raw

    pair.follower.primary.get = get  # type: ignore[method-assign]


def rows(page: dict[str, Any], table: str) -> list[dict[str, Any]]:
    return [row["values"] for row in page["rows"] if row["table"] == table]


def test_keys_of_this_registry_make_nothing_the_primarys(small: Pair) -> None:
    """It names a namespace with the key of a model here, and models with those of a user and a namespace."""
    here, real = small.here, small.follower.primary.get
    create_model(here, "zoe/own", small.crew.base)
    public = here.client(None)
    own = public.get("/api/v1/models/zoe/own/mirror/rows", params={"part": "model"}).json()
    theirs = json.loads(real(f"/models/{NAME}/mirror/rows", part="model", skip=0))
    base, files = rows(theirs, "models")[0], rows(theirs, "base_files")
    evil = {"id": str(uuid.uuid4()), "name": "evil", "display_name": "", "is_program": False}
    evil["namespace"] = str(uuid.uuid4())

    def document(key: str, space: str, name: str, owner: str = "evil") -> bytes:
        row = {**base, "id": key, "namespace_id": space, "creator_id": evil["id"], "name": name}
        named = [{"table": "base_files", "values": {**file, "model_id": key}} for file in files]
        page = {"space": {"id": space, "name": owner, "kind": "user"}, "people": [evil], "recipe": None}
        return json.dumps(
            {**page, "rows": [{"table": "models", "values": row}, *named], "blobs": theirs["blobs"], "next": None}
        ).encode()

    download = small.follower.primary.download
    small.follower.primary.download = lambda _, *rest: download(NAME, *rest)  # type: ignore[method-assign]
    stolen = [{"table": "models", "values": {**own["rows"][0]["values"], "card": "# OWNED"}}, *own["rows"][1:]]
    plans = {
        "evil/a": document(own["space"]["id"], str(evil["namespace"]), "a"),
        "evil/b": document(own["people"][0]["id"], str(evil["namespace"]), "b"),
        "evilorg/c": document(str(uuid.uuid4()), own["rows"][0]["values"]["id"], "c", owner="evilorg"),
        "zoe/own": json.dumps({**own, "rows": stolen}).encode(),
    }
    for name, plan in plans.items():

        def get(asked: str, patience: float = 0, name: str = name, plan: bytes = plan, **query: Any) -> bytes:
            if asked == "/mirror/models":
                return json.dumps({"items": [{"id": str(uuid.uuid4()), "name": name}], "next": None}).encode()
            if asked.endswith("/parts"):
                return json.dumps({"items": ["channel:x"], "next": None}).encode()
            return plan if asked.startswith("/models/") else real(asked, patience, **query)

        small.follower.primary.get = get  # type: ignore[method-assign]
        small.hurry()
        small.refused("The key of", name)
        assert public.get(f"/api/v1/models/{name}").status_code == (200 if name == "zoe/own" else 404)
    shown = public.get("/api/v1/models/zoe/own").json()
    assert (shown["primary"], "OWNED" in (shown["card"] or "")) == (None, False)
    assert here.client("zoe").patch("/api/v1/models/zoe/own", json={"min_approvals": 3}).status_code == 200


@pytest.mark.parametrize("place", ["here", "composed", "hub"])
def test_naming_a_file_of_a_private_model_does_not_give_it(small: Pair, place: str, tmp_path: Path) -> None:
    here, secret = small.here, b"# the card of a private model\n"
    shutil.copytree(small.crew.base, tmp_path / "base")
    (tmp_path / "base" / "README.md").write_bytes(secret)
    create_model(here, "zoe/private", tmp_path / "base")
    assert here.client("zoe").patch("/api/v1/models/zoe/private", json={"visibility": "private"}).status_code == 200
    digest = hashlib.sha256(secret).hexdigest()

    def name_it(page: dict[str, Any]) -> None:
        rows(page, "models")[0]["base_commit"] = None
        page["rows"] = [row for row in page["rows"] if row["values"].get("path") != "README.md"]
        values = {"model_id": rows(page, "models")[0]["id"], "path": "README.md", "sha256": digest}
        page["rows"].append({"table": "base_files", "values": values})
        page["blobs"].append({"sha256": digest, "size": len(secret), "where": place})

    altering(small, "model", name_it)
    small.refused(f"{digest}|cannot be")
    assert here.client(None).get(URL).status_code == 404
    assert here.client(None).get(f"{URL}/mirror/files/{digest}").status_code == 404


def give_weights(pair: Pair, content: bytes, place: str) -> None:
    """Have the primary name other weights for all releases, with manifests that say so."""
    digest = hashlib.sha256(content).hexdigest()

    def change(page: dict[str, Any]) -> None:
        made = [row for row in rows(page, "composition_files") if row["path"].endswith(".safetensors")]
        old = {row["sha256"] for row in made}
        for row in (*rows(page, "composition_files"), *rows(page, "release_files")):
            row["sha256"] = digest if row["sha256"] in old else row["sha256"]
        for row in rows(page, "releases"):
            manifest = json.loads(row["manifest"])
            for file in manifest["files"]:
                if file["sha256"] in old:
                    file["sha256"], file["size"] = digest, len(content)
            row["manifest"] = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            row["signature"] = None
            files = [file for file in rows(page, "release_files") if file["release_id"] == row["id"]]
            row["commit"] = commit_id({file["path"]: file["sha256"] for file in files})
        page["blobs"] = [blob for blob in page["blobs"] if blob["sha256"] not in old]
        page["blobs"].append({"sha256": digest, "size": len(content), "where": place})

    altering(pair, "recipe:", change)


def test_weights_of_releases_are_composed_here_and_not_sent(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = b"these are no weights at all"
    give_weights(pair, evil, "here")
    real = Primary.download

    def download(primary: Primary, model: str, sha256: str, size: int, file: BinaryIO, *rest: Any) -> None:
        if sha256 == hashlib.sha256(evil).hexdigest():
            file.write(evil)
            file.flush()
        else:
            real(primary, model, sha256, size, file, *rest)

    monkeypatch.setattr(Primary, "download", download)
    pair.refused("composed here")
    assert pair.count(Release) == 0


def test_other_weights_than_those_of_the_recipe_are_an_alarm(pair: Pair) -> None:
    give_weights(pair, b"these are no weights at all", "composed")
    pair.follower.round()
    with pair.here.database.read() as session:
        assert not any(session.scalars(select(Recipe.disputed)))
    pair.here.work()
    with pair.here.database.read() as session:
        assert all(session.scalars(select(Recipe.disputed).join(Composition)))
        alarms = session.scalars(select(AuditEvent).where(AuditEvent.action == "recipe.alarm")).all()
        made = session.scalars(select(CompositionFile.path).where(CompositionFile.path.endswith(".safetensors"))).all()
    assert len(alarms) == pair.count(Composition)
    assert {path for event in alarms for path in (event.after or {})["files"]} == set(made)


def test_with_keys_a_release_waits_for_its_signature(pair: Pair) -> None:
    plain = pair.follower.settings
    pair.follower.settings = plain.model_copy(update={"mirror_keys": "/nonexistent.pem"})
    pair.crew.put("mary", "/channels/stable", version="1.0.0", reason="First.")
    pair.follower.round()
    assert pair.get("/releases")["items"] == []
    channel = pair.get("/channels")[0]
    assert (channel["name"], channel["release"]) == ("stable", None)
    pair.follower.settings = plain
    pair.crew.post("bob", "/evaluations", 201, ref="1.0.0", **SCORE)
    pair.follower.round()
    assert [one["version"] for one in pair.get("/releases")["items"]] == ["1.0.0"]
    pair.same("/channels", "/channels/stable/history")


SCORE = {"task": "t", "dataset": "d", "metric": "m", "value": 0.5, "higher_is_better": True}


def test_a_base_is_verified_whatever_the_primary_lists(small: Pair) -> None:
    real = small.follower.primary.get

    def get(asked: str, patience: float = 0, **query: Any) -> bytes:
        raw = real(asked, patience, **query)
        if asked.endswith("/parts"):
            page = json.loads(raw)
            return json.dumps({**page, "items": [part for part in page["items"] if part != "model"]}).encode()
        return raw

    small.follower.primary.get = get  # type: ignore[method-assign]
    altering(small, "", lambda page: rows(page, "models")[0].update(base_digest="sha256:" + "0" * 64))
    small.refused("has the digest")
    assert small.here.client(None).get(URL).status_code == 404


def test_a_document_is_bounded_as_a_whole(small: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_ROWS", 3)
    small.refused("more than 3 rows")
    monkeypatch.setattr(reading, "MAX_ROWS", 1000)
    monkeypatch.setattr(reading, "MAX_BYTES", 100)
    small.hurry()
    small.refused("more than 100 bytes")


def test_commits_follow_from_files_and_builds_count_for_their_own_model(pair: Pair) -> None:
    here, evil = pair.here, "sha256:" + "e" * 64
    create_model(here, "zoe/own", pair.crew.base)

    def change(page: dict[str, Any]) -> None:
        for row in rows(page, "patch_revisions"):
            row["commit"] = "c" * 40
        if builds_told := rows(page, "builds"):
            page["rows"].append(
                {"table": "builds", "values": {**builds_told[0], "id": str(uuid.uuid4()), "builder": "evil"}}
            )
            page["rows"][-1]["values"]["weights_digest"] = evil

    altering(pair, "", change)
    pair.follower.round()
    with here.database.read() as session:
        assert not any(session.scalars(select(PatchRevision.commit)))
        digests = session.scalars(select(Composition.recipe_digest)).all()
        mirrored, own = (models.find(session, name) for name in (NAME, "zoe/own"))
        assert all(evil in found for found in builds.results(session, mirrored, digests).values())
        assert not any(builds.results(session, own, digests).values())
    with here.database.write() as session:
        mirrors.promote(session, current=True)
        assert not any(builds.results(session, own, digests).values())


def test_a_composition_has_the_commit_of_its_files(pair: Pair) -> None:
    altering(pair, "recipe:", lambda page: [row.update(commit="c" * 40) for row in rows(page, "compositions")])
    pair.refused("commit c{40}")


def test_sizes_that_a_primary_tells_give_way_to_those_that_are_known_here(small: Pair) -> None:
    digest = "d" * 64
    for size, told, expected in ((5, True, 5), (7, False, 7), (9, True, 7)):
        with small.here.database.write() as session:
            blobs.refer(session, digest, size, "computed", told=told)
            assert blobs.sizes_of(session, [digest]) == {digest: expected}


def test_a_base_that_a_primary_names_is_read_without_the_token_for_the_hub(
    small: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower, asked = small.follower, list[Any]()
    follower.settings = follower.settings.model_copy(update={"hub_token": SecretStr("hf_secret")})
    monkeypatch.setattr(follower, "in_sandbox", lambda *_, hub, **__: asked.append(hub["token"]) or {})
    file = hub_bases.HubFile("model.safetensors", 1, "0" * 64)
    for allowed in (False, True):
        follower.settings = follower.settings.model_copy(update={"mirror_hub_token": allowed})
        with pytest.raises(Unavailable), follower.files_here(f"hf://a/b@{'0' * 40}", [file], {}):
            raise AssertionError("nothing was fetched")
        assert set(asked) == {"hf_secret" if allowed else None}
        asked.clear()


def test_the_source_of_a_base_stays_what_it_was(small: Pair) -> None:
    small.follower.round()
    altering(small, "model", lambda page: rows(page, "models")[0].update(source=f"hf://evil/gated@{'0' * 40}"))
    small.crew.rules(license="mit")
    with pytest.raises(HistoryChanged, match="source of a row of models"):
        small.follower.round()


def test_what_a_primary_tells_of_events_is_plain_and_known(small: Pair) -> None:
    small.follower.round()
    for message in ("one", "two", "three"):
        small.crew.post("bob", "/patches/1/comments", 201, message=message)
    real = small.follower.primary.get

    def get(asked: str, patience: float = 0, **query: Any) -> bytes:
        page = json.loads(real(asked, patience, **query))
        if asked == "/changes" and page["items"]:
            page["items"][0]["action"] = "token.create"
            page["items"][1]["user"] = "bob\x1b[2J\n"
            page["items"][1]["after"]["more"] = "x" * 2**17
            page["items"][2]["model"] = "../" + "x" * 2**17
        return json.dumps(page).encode()

    small.follower.primary.get = get  # type: ignore[method-assign]
    small.follower.round()
    mirrored = [row for row in small.rows(AuditEvent) if (row.after or {}).get("mirrored")]
    assert [row.action for row in mirrored] == ["patch.comment"]
    assert (mirrored[0].user_name or "").isprintable() and "more" not in (mirrored[0].after or {})
    with small.here.database.write() as session:
        problems.set_aside(session, NAME, "bad\x1b[2J\nSet aside  nothing")
        mirrors.note(session, None, "worse\x1b[2J")
        assert "\x1b" not in mirrors.tell(mirrors.status(session) or {})
        assert len(mirrors.tell_unfinished(mirrors.unfinished(session))[0].splitlines()) == 1
