"""A primary in wrong hands: it gets nothing that is not its own, and what it says is held to what is found out here."""

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from sqlalchemy import select

from registry.db.tables import AuditEvent, Composition, CompositionFile, Recipe, Release
from registry.documents.commits import commit_id
from registry.errors import BreadcrumbError, InvalidRequest
from registry.outside.primary import Primary
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
    base = json.loads(real(f"/models/{NAME}/mirror/rows", part="model", skip=0))["rows"][0]["values"]
    evil = {"id": str(uuid.uuid4()), "name": "evil", "display_name": "", "is_program": False}
    evil["namespace"] = str(uuid.uuid4())

    def document(key: str, space: str, name: str, owner: str = "evil") -> bytes:
        row = {**base, "id": key, "namespace_id": space, "creator_id": evil["id"], "name": name}
        page = {"space": {"id": space, "name": owner, "kind": "user"}, "people": [evil]}
        return json.dumps(
            {**page, "recipe": None, "rows": [{"table": "models", "values": row}], "blobs": [], "next": None}
        ).encode()

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
        with pytest.raises(InvalidRequest, match="The key of"):
            small.follower.round()
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
    with pytest.raises(BreadcrumbError, match=f"{digest}|cannot be"):
        small.follower.round()
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
    with pytest.raises(InvalidRequest, match="composed here"):
        pair.follower.round()
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
