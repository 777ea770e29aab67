"""What pushes of the Hub's tools may hold, and what becomes of those that hold something else."""

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file, save_file
from sqlalchemy import select, update
from starlette.testclient import TestClient

from registry.breadcrumbs.formats.patchfile import open_patch
from registry.db.audit import check_chain
from registry.db.tables import AuditEvent, Blob, Job, Model, Namespace, Push, PushedFile, UploadSession, now
from registry.files.beside import COMPANION
from registry.services.blobs import quotas
from registry.services.hub.pushed_files import missing_shards
from registry.services.people.tokens import create_token
from tests.support.adapter_makers import factors, write_adapter
from tests.support.hubs import WIDTH, make_llama
from tests.support.makers import changed, fine_tuned, make_patch, read_weights, write_weights
from tests.support.world import World, create_model, push_patch, upload

pytestmark = pytest.mark.heavy

NAME = "alice/m"
COMMIT = f"/api/models/{NAME}/commit/main"
LFS = f"/{NAME}.git/info/lfs/objects"


@pytest.fixture
def base(world: World, tmp_path: Path) -> Path:
    folder = make_llama(tmp_path / "base", 1, shards=1)
    create_model(world, NAME, folder, "alice")
    world.token("bob")
    return folder


def body(files: dict[str, bytes | str], title: str = "Learn", deleted: tuple[str, ...] = ()) -> bytes:
    """Return a commit; a text is the sha256 of a large file."""
    lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": title, "description": ""}}]
    for path, content in files.items():
        if isinstance(content, str):
            lines.append({"key": "lfsFile", "value": {"path": path, "algo": "sha256", "oid": content, "size": 1}})
        else:
            encoded = base64.b64encode(content).decode()
            lines.append({"key": "file", "value": {"path": path, "content": encoded, "encoding": "base64"}})
    lines += [{"key": "deletedFile", "value": {"path": path}} for path in deleted]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def pushed(client: TestClient, files: dict[str, bytes | str], where: str = COMMIT, **params: Any) -> Any:
    return client.post(where, content=body(files), params=params or {"create_pr": 1})


def weights(folder: Path) -> dict[str, bytes | str]:
    return {"model.safetensors": (folder / "model.safetensors").read_bytes()}


def batch(client: TestClient, *files: bytes, **more: Any) -> list[dict[str, Any]]:
    objects = [{"oid": hashlib.sha256(data).hexdigest(), "size": len(data)} for data in files]
    asked = {"operation": "upload", "transfers": ["basic", "multipart"], "objects": objects, **more}
    answer = client.post(f"{LFS}/batch", json=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()["objects"]


def parts_of(action: dict[str, Any]) -> list[str]:
    header = action.get("header", {})
    addresses = [header[key] for key in sorted((key for key in header if key.isdecimal()), key=int)]
    return [address.removeprefix("http://testserver") for address in addresses or [action["href"]]]


@pytest.mark.parametrize(
    "path",
    [
        "../x.json",
        "/etc/x.json",
        "a/../../x.json",
        "a//b.json",
        "a\\b.json",
        "x\0.json",
        "a.json/",
        "con?.txt",
    ],
)
def test_a_path_that_no_folder_should_have_is_refused(world: World, base: Path, path: str) -> None:
    bob = world.client("bob")
    answer = pushed(bob, weights(base) | {path: b"{}"})
    assert answer.status_code == 400, answer.text
    assert bob.get(f"/api/v1/models/{NAME}/patches/1/push").status_code == 404  # nothing is left behind
    assert world.client("alice").get(f"/api/v1/models/{NAME}").json()["patches"] == 0


def test_pickled_weights_are_refused_and_what_training_left_is_dropped(
    world: World, base: Path, tmp_path: Path
) -> None:
    bob, files = world.client("bob"), weights(fine_tuned(base, tmp_path / "tuned"))
    answer = pushed(bob, files | {"pytorch_model.bin": b"x"})
    assert answer.status_code == 400 and "pickle" in answer.json()["error"]
    left = dict.fromkeys(("optimizer.pt", "a/rng_state.pkl", "checkpoint-5/model.safetensors", ".gitignore"), b"x")
    assert pushed(bob, files | left).status_code == 200
    with world.database.read() as session:
        assert set(session.scalars(select(PushedFile.path))) == {"model.safetensors"}


def test_files_that_could_not_lie_in_one_folder_are_refused(world: World, base: Path) -> None:
    bob = world.client("bob")
    assert "one file on some systems" in pushed(bob, weights(base) | {"A.json": b"{}", "a.json": b"{}"}).json()["error"]
    assert "lies inside a," in pushed(bob, weights(base) | {"a": b"{}", "a/b.json": b"{}"}).json()["error"]


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "changes no weights"),
        (b"[]", "not `key` and `value`"),
        (b"{", "not strict JSON"),
        (b'{"key":"file","value":{"path":"a.json","content":"?"}}', "not base64"),
        (b'{"key":"lfsFile","value":{"path":"a.safetensors","oid":"abc"}}', "not a sha256"),
        (b'{"key":"rename","value":{"path":"a"}}', "does not know"),
        (b'{"key":"file","value":{"content":""}}', "needs `path`"),
        (b'{"key":"header","value":{"summary":1}}', "needs `summary`"),
        (b"\n".join([b'{"key":"deletedFile","value":{"path":"a"}}'] * 10_000), "at most 2000"),
    ],
)
def test_a_commit_that_is_none_is_refused_with_the_reason(world: World, base: Path, raw: bytes, why: str) -> None:
    answer = world.client("bob").post(COMMIT, content=raw, params={"create_pr": 1})
    assert answer.status_code == 400 and why in answer.json()["error"], answer.text
    assert answer.headers["x-error-message"]


def test_a_commit_that_is_too_long_is_refused_before_it_is_read(world: World, base: Path) -> None:
    headers = {"Content-Length": str(10**9)}
    answer = world.client("bob").post(COMMIT, content=b"{}", params={"create_pr": 1}, headers=headers)
    assert answer.status_code == 413


def test_knowing_a_digest_grants_nothing(world: World, base: Path, tmp_path: Path) -> None:
    secret = make_llama(tmp_path / "secret", 7, shards=1)
    create_model(world, "alice/secret", secret, "alice")
    assert world.client("alice").patch("/api/v1/models/alice/secret", json={"visibility": "private"}).status_code == 200
    data = (secret / "model.safetensors").read_bytes()
    answer = pushed(world.client("bob"), {"model.safetensors": hashlib.sha256(data).hexdigest()})
    assert answer.status_code == 400 and "missing" in answer.json()["error"]
    assert "actions" in batch(world.client("bob"), data)[0]  # he has to send what he says that he has
    assert "actions" not in batch(world.client("alice"), data)[0]


def test_parts_are_what_was_announced_and_no_more(world: World, base: Path, tmp_path: Path) -> None:
    bob, nobody = world.client("bob"), world.client(None)
    data = (fine_tuned(base, tmp_path / "tuned") / "model.safetensors").read_bytes()
    (said,) = batch(bob, data)
    addresses = parts_of(said["actions"]["upload"])
    size = int(said["actions"]["upload"]["header"]["chunk_size"])
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert len(addresses) == len(pieces) > 2
    assert nobody.put(addresses[0], content=pieces[0] + b"x").status_code == 413
    assert nobody.put(addresses[0], content=pieces[0][:-1]).status_code == 422
    assert nobody.put(addresses[0][:-1] + "0", content=pieces[0]).status_code == 416
    assert nobody.post(said["actions"]["upload"]["href"].removeprefix("http://testserver")).status_code == 409
    for address, piece in zip(addresses, pieces, strict=True):
        answer = nobody.put(address, content=iter([piece]))  # without a length
        assert answer.status_code == 200 and answer.headers["etag"] == f'"{hashlib.sha256(piece).hexdigest()}"'
    assert nobody.post(said["actions"]["upload"]["href"].removeprefix("http://testserver")).status_code == 200
    assert bob.post(f"{LFS}/verify", json={"oid": said["oid"], "size": said["size"]}).status_code == 200
    assert "actions" not in batch(bob, data)[0]
    assert nobody.put(addresses[0], content=pieces[0]).status_code == 409


def test_damaged_parts_are_told_and_can_be_sent_again(world: World, base: Path, tmp_path: Path) -> None:
    bob = world.client("bob")
    data = (fine_tuned(base, tmp_path / "tuned") / "model.safetensors").read_bytes()
    (said,) = batch(bob, data)
    addresses, size = parts_of(said["actions"]["upload"]), int(said["actions"]["upload"]["header"]["chunk_size"])
    for number, address in enumerate(addresses):
        piece = data[number * size : (number + 1) * size]
        assert bob.put(address, content=bytes(len(piece)) if number == 1 else piece).status_code == 200
    answer = pushed(bob, {"model.safetensors": said["oid"]})
    assert answer.status_code == 400 and "do not hash" in answer.json()["error"]
    for number, address in enumerate(addresses):
        assert bob.put(address, content=data[number * size : (number + 1) * size]).status_code == 200
    assert pushed(bob, {"model.safetensors": said["oid"]}).status_code == 200  # without `verify`, as npm's library


def test_a_batch_is_bounded_and_each_file_has_its_own_refusal(world: World, base: Path) -> None:
    world.client("alice", admin=True)
    bob = world.client("bob")
    for objects in (
        [],
        [{"oid": "x", "size": 1}],
        [{"oid": "0" * 64, "size": -1}],
        [{"oid": "0" * 64, "size": 1}] * 1001,
    ):
        assert bob.post(f"{LFS}/batch", json={"operation": "upload", "objects": objects}).status_code == 400
    assert bob.post(f"{LFS}/batch", json={"operation": "download", "objects": []}).status_code == 400
    with world.database.write() as session:
        quotas.set_quota(session, "bob", {"quota_bytes": 100})
    small, large = batch(bob, b"a", b"b" * 1000)
    assert "actions" in small and "error" not in small
    assert large["error"]["code"] == 429 and "bob has room for 100 bytes" in large["error"]["message"]


def test_what_was_pushed_counts_for_its_author_until_it_is_compared(world: World, base: Path, tmp_path: Path) -> None:
    bob = world.client("bob")
    data = weights(fine_tuned(base, tmp_path / "tuned", seed=1))
    assert pushed(bob, data | {"notes.txt": b"mine"}).json()["pullRequestUrl"].endswith(f"/{NAME}/discussions/1")

    def used() -> int:
        assert list(quotas.check(world.database)) == []
        return int(bob.get("/api/v1/namespaces/bob").json()["used_bytes"])

    whole = len(data["model.safetensors"])
    assert used() == whole + 4
    world.work()
    patch = bob.get(f"/api/v1/models/{NAME}/patches/1").json()
    assert patch["check"] == "checked" and used() == patch["size"] + 4
    assert [file["path"] for file in patch["files"]] == ["notes.txt"]  # it differs from the base, and comes along
    with world.database.read() as session:
        kept = {row.path: row.blob_sha256 is not None for row in session.scalars(select(PushedFile))}
    assert kept == {"model.safetensors": False, "notes.txt": True}


def during_the_diff(world: World, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Let the worker work, and something happen while it diffs for the first time."""
    sandboxed = type(world.worker).in_sandbox

    def interrupted(self: Any, claim: Any, function: str, **kwargs: Any) -> Any:
        if function.endswith(":diff"):
            monkeypatch.setattr(type(world.worker), "in_sandbox", sandboxed)
            act()
        return sandboxed(self, claim, function, **kwargs)

    monkeypatch.setattr(type(world.worker), "in_sandbox", interrupted)
    world.work()


def again(client: TestClient, files: dict[str, bytes | str], description: str = "", title: str = "Learn") -> None:
    """Commit to the pull request #1."""
    lines = body(files, title).splitlines()
    lines[0] = json.dumps({"key": "header", "value": {"summary": title, "description": description}}).encode()
    answer = client.post(f"/api/models/{NAME}/commit/refs%2Fpr%2F1", content=b"\n".join(lines))
    assert answer.status_code == 200, answer.text


def test_a_commit_during_the_diff_is_compared_too(
    world: World, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob = world.client("bob")
    first, second = (fine_tuned(base, tmp_path / str(seed), seed=seed) for seed in (1, 2))
    assert pushed(bob, weights(first)).status_code == 200
    during_the_diff(world, monkeypatch, lambda: again(bob, weights(second)))
    patch = bob.get(f"/api/v1/models/{NAME}/patches/1").json()
    assert patch["sha256"] == make_patch(base, second, tmp_path / "p.safetensors").sha256
    assert patch["newest"] == 1
    with world.database.read() as session:
        assert len(session.scalars(select(Job).where(Job.kind == "diff")).all()) == 2


def test_a_commit_during_a_diff_that_fails_is_not_lost(
    world: World, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob, tuned = world.client("bob"), fine_tuned(base, tmp_path / "tuned")
    assert pushed(bob, {"model.safetensors": b"not weights"}).status_code == 200
    during_the_diff(world, monkeypatch, lambda: again(bob, weights(tuned)))
    assert bob.get(f"/api/v1/models/{NAME}/patches/1").json()["check"] == "checked"


def test_other_options_during_the_diff_are_followed(
    world: World, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob, files = world.client("bob"), weights(fine_tuned(base, tmp_path / "tuned"))
    assert pushed(bob, files).status_code == 200
    during_the_diff(world, monkeypatch, lambda: again(bob, files, "Drop-Bottom: 0.5"))
    assert bob.get(f"/api/v1/models/{NAME}/patches/1").json()["drop_bottom"] == "0.5"


def test_a_commit_without_weights_leaves_texts_and_options_as_they_are(
    world: World, base: Path, tmp_path: Path
) -> None:
    bob, files = world.client("bob"), weights(fine_tuned(base, tmp_path / "tuned"))
    draft = {"title": "Soon", "description": "", "pullRequest": True}
    assert bob.post(f"/api/models/{NAME}/discussions", json=draft).json()["num"] == 1
    again(bob, files, "Drop-Bottom: 0.5\nTask: sql", "Learn SQL")
    again(bob, {"notes.txt": b"mine"}, "", "Upload tokenizer")
    world.work()
    patch = bob.get(f"/api/v1/models/{NAME}/patches/1").json()
    assert (patch["title"], patch["drop_bottom"], patch["task"]) == ("Learn SQL", "0.5", "sql")
    assert [file["path"] for file in patch["files"]] == ["notes.txt"]


def test_what_was_pushed_for_a_patch_that_is_decided_is_let_go_of(world: World, base: Path, tmp_path: Path) -> None:
    bob = world.client("bob")
    assert pushed(bob, weights(fine_tuned(base, tmp_path / "tuned"))).status_code == 200
    world.work()
    again(bob, {"model.safetensors": b"x" * 5000, "notes.txt": b"mine"})
    used = bob.get("/api/v1/namespaces/bob").json()["used_bytes"]
    assert bob.post(f"/api/v1/models/{NAME}/patches/1/withdraw", json={"message": "Wrong."}).status_code == 200
    assert bob.get("/api/v1/namespaces/bob").json()["used_bytes"] == used - 5004
    assert list(quotas.check(world.database)) == []
    world.work()  # the diff that was asked for finds other files, and makes nothing
    assert bob.get(f"/api/v1/models/{NAME}/patches/1").json()["newest"] == 1


def test_a_pull_request_without_a_patch_can_be_closed_by_its_author(world: World, base: Path) -> None:
    bob, there = world.client("bob"), f"/api/models/{NAME}/discussions"
    assert bob.post(there, json={"title": "Soon", "description": "", "pullRequest": True}).status_code == 200
    assert world.client("carol").post(f"{there}/1/status", json={"status": "closed"}).status_code == 403
    assert bob.post(f"{there}/1/status", json={"status": "closed"}).status_code == 200
    assert bob.get(f"{there}/1").json()["status"] == "closed"
    assert bob.post(f"{there}/1/status", json={"status": "closed"}).status_code == 409
    assert pushed(bob, weights(base), f"/api/models/{NAME}/commit/refs%2Fpr%2F1").status_code == 409


def test_a_token_for_one_model_neither_reserves_names_nor_learns_of_private_ones(world: World, base: Path) -> None:
    alice = world.client("alice")
    assert alice.post("/api/repos/create", json={"name": "hidden", "private": True}).status_code == 200
    with world.database.write() as session:
        secret, row = create_token(session, "alice", scopes=("read", "push"))
        row.model_id = session.scalars(select(Model.id).where(Model.name == "m")).one()
    bound = {"Authorization": f"Bearer {secret}"}
    asked = {"files": [{"path": "model.safetensors", "size": 1, "sample": ""}]}
    for ask in (
        lambda name: alice.post("/api/repos/create", json={"name": name}, headers=bound),
        lambda name: alice.post(f"/api/models/alice/{name}/preupload/main", json=asked, headers=bound),
        lambda name: alice.post(f"/api/models/alice/{name}/commit/main", content=b"", headers=bound),
    ):
        hidden, free = ask("hidden"), ask("fresh")
        assert hidden.status_code == free.status_code >= 400
        assert hidden.text.replace("hidden", "fresh") == free.text


def test_a_base_that_was_to_be_private_stays_so(world: World, tmp_path: Path) -> None:
    alice, folder = world.client("alice"), make_llama(tmp_path / "base", 1, shards=1)
    files: dict[str, bytes | str] = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert alice.post("/api/repos/create", json={"name": "kept", "private": True}).status_code == 200
    broken = files | {"model.safetensors": b"x"}
    assert alice.post("/api/models/alice/kept/commit/main", content=body(broken)).status_code == 200
    world.work()  # which refuses it
    shown = alice.get("/api/v1/models/alice/kept").json()
    assert (shown["state"], shown["visibility"], shown["size"]) == ("empty", "private", 0)
    assert alice.post("/api/models/alice/kept/commit/main", content=body(files)).status_code == 200
    early = alice.post("/api/models/alice/kept/commit/main", content=body(files))
    assert early.status_code == 409 and "still being checked" in early.json()["error"]
    world.work()
    assert alice.get("/api/v1/models/alice/kept").json()["visibility"] == "private"
    assert alice.post("/api/repos/create", json={"name": "later"}).status_code == 200
    sent = [{"path": path, "sha256": upload(alice, data)} for path, data in files.items() if isinstance(data, bytes)]
    made = {"name": "alice/later", "files": sent, "visibility": "private"}
    assert alice.post("/api/v1/models", json=made).json()["visibility"] == "private"


def test_the_weights_of_the_newest_revision_pushed_again_change_nothing(
    world: World, base: Path, tmp_path: Path
) -> None:
    bob, files = world.client("bob"), weights(fine_tuned(base, tmp_path / "tuned"))
    assert pushed(bob, files).status_code == 200
    world.work()
    again(bob, files, title="Once more")
    world.work()
    said = bob.get(f"/api/v1/models/{NAME}/patches/1/push").json()
    assert (said["state"], said["error"]) == ("done", None)
    assert bob.get(f"/api/v1/models/{NAME}/patches/1").json()["newest"] == 1
    with world.database.read() as session:
        assert set(session.scalars(select(PushedFile.blob_sha256))) == {None}  # they are let go of once more


def found_in(client: TestClient) -> dict[str, Any]:
    """Return the check of patch 1 with what the comparison found."""
    checks = client.get(f"/api/v1/models/{NAME}/patches/1/discussion").json()["checks"]
    return next(check for check in checks if check["name"] == "diff")


def test_what_a_comparison_found_reaches_the_author_on_pages_in_the_api_and_in_the_tools_of_the_hub(
    world: World, base: Path, tmp_path: Path
) -> None:
    bob = world.client("bob")
    tuned = changed(base, tmp_path / "tuned", lambda name, tensor: tensor.bfloat16() + 1)
    write_weights(tuned, read_weights(tuned) | {"score.weight": torch.ones(2, 2)}, 1)
    draft = {"title": "Soon", "description": "", "pullRequest": True}
    assert bob.post(f"/api/models/{NAME}/discussions", json=draft).status_code == 200
    again(bob, weights(tuned), "Shared-Only: yes")
    world.work()
    check = found_in(bob)
    assert (check["status"], check["required"]) == ("warn", False)
    told = ("Left out, and not in the patch: 'score.weight' is not in the base", "less precise than the base")
    assert all(words in check["summary"] for words in (*told, "far from this base", "norm(tuned - base) is "))
    events = bob.get(f"/api/models/{NAME}/discussions/1").json()["events"]
    assert any(event["data"].get("latest", {}).get("raw") == check["summary"] for event in events)
    page = bob.get(f"/{NAME}/patches/1").text
    assert "less precise than the base" in page and "(advice)" in page


def test_a_comparison_that_found_nothing_says_how_far_the_model_moved(world: World, base: Path, tmp_path: Path) -> None:
    bob = world.client("bob")
    assert pushed(bob, weights(fine_tuned(base, tmp_path / "tuned"))).status_code == 200
    world.work()
    check = found_in(bob)
    assert check["status"] == "pass"
    assert re.search(r"compared with the base; norm\(tuned - base\) is 0\.\d+ of norm\(base\)\.$", check["summary"])


def test_the_mask_is_the_models_unless_a_description_says_otherwise(world: World, base: Path, tmp_path: Path) -> None:
    alice, bob = world.client("alice"), world.client("bob")
    where = f"/api/v1/models/{NAME}"
    refused = alice.patch(where, json={"mask": {"drop_bottom": "0.6", "drop_top": "0.4"}})
    assert refused.status_code == 422 and "drop everything" in refused.json()["detail"]
    assert alice.patch(where, json={"mask": {"drop_bottom": "0.6", "shape": "round"}}).status_code == 422
    assert bob.patch(where, json={"mask": {}}).status_code == 403
    set_to = alice.patch(where, json={"mask": {"drop_bottom": "0.60", "granularity": "row"}})
    assert set_to.json()["mask"] == {"drop_bottom": "0.6", "granularity": "row"}
    logged = alice.get(f"{where}/audit").json()["items"][0]
    assert (logged["action"], logged["after"]["mask"]) == ("model.update", set_to.json()["mask"])
    draft = {"title": "Soon", "description": "", "pullRequest": True}
    assert bob.post(f"/api/models/{NAME}/discussions", json=draft).status_code == 200
    again(bob, weights(fine_tuned(base, tmp_path / "1", seed=1)))
    world.work()
    patch = bob.get(f"{where}/patches/1").json()
    assert (patch["drop_bottom"], patch["granularity"], patch["drop_top"]) == ("0.6", "row", "0.007")
    assert "By the model's settings: drop_bottom 0.6, granularity row." in found_in(bob)["summary"]
    again(bob, weights(fine_tuned(base, tmp_path / "2", seed=2)), "Drop-Bottom: 0.9")
    world.work()
    patch = bob.get(f"{where}/patches/1").json()
    assert (patch["revision"], patch["drop_bottom"], patch["granularity"]) == (2, "0.9", "row")
    assert "By the model's settings: granularity row." in found_in(bob)["summary"]
    assert alice.patch(where, json={"mask": {}}).json()["mask"] == {}


@pytest.mark.parametrize("by", ["config", "tensors"])
def test_a_quantised_base_is_named_and_not_taken(world: World, tmp_path: Path, by: str) -> None:
    alice, folder = world.client("alice"), make_llama(tmp_path / "base", 1, shards=1)
    if by == "config":
        (folder / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    else:
        tensors = read_weights(folder) | {"model.layers.0.q.qweight": torch.ones(2, 2, dtype=torch.int32)}
        write_weights(folder, tensors, 1)
    files: dict[str, bytes | str] = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert alice.post("/api/models/alice/packed/commit/main", content=body(files)).status_code == 200
    world.work()
    assert alice.get("/api/v1/models/alice/packed").status_code == 404
    with world.database.read() as session:
        error = session.scalars(select(Job.error).where(Job.kind == "import", Job.model == "alice/packed")).one()
    assert error is not None and error.startswith("The base is quantised by GPTQ")
    assert "Use the weights from before it was quantised" in error


def test_an_adapter_pushed_to_a_new_name_becomes_no_base_and_says_where_it_belongs(
    world: World, tmp_path: Path
) -> None:
    alice, module = world.client("alice"), "model.layers.0.self_attn.q_proj"
    folder = write_adapter(tmp_path / "adapter", factors(module, WIDTH, WIDTH))
    files: dict[str, bytes | str] = {path.name: path.read_bytes() for path in folder.iterdir()}
    where = "/api/models/alice/lora/commit/main"
    refused = alice.post(where, content=body(files))
    assert refused.status_code == 400 and "(create_pr=True), and it becomes a patch" in refused.json()["error"]
    files = {"model.safetensors": files["adapter_model.safetensors"]}  # by another name, it is known by its tensors
    assert alice.post(where, content=body(files)).status_code == 200
    world.work()
    assert alice.get("/api/v1/models/alice/lora").status_code == 404
    with world.database.read() as session:
        error = session.scalars(select(Job.error).where(Job.kind == "import", Job.model == "alice/lora")).one()
    assert error is not None and error.startswith("The base is an adapter, and a base is a whole model.")


def test_a_checkpoint_in_the_middle_of_a_training_becomes_no_base(world: World, tmp_path: Path) -> None:
    alice, folder = world.client("alice"), make_llama(tmp_path / "base", 1, shards=1)
    files: dict[str, bytes | str] = {path.name: path.read_bytes() for path in folder.iterdir()}
    where = "/api/models/alice/fresh/commit/main"
    early = alice.post(where, content=body(files, "Training in progress, step 500"))
    assert early.status_code == 400 and "hub_strategy='end'" in early.json()["error"]
    assert alice.post(where, content=body(files, "End of training")).status_code == 200


def test_the_options_that_a_refusal_ends_with_are_given_as_lines_of_a_description_that_help(
    world: World, base: Path, tmp_path: Path
) -> None:
    tuned = fine_tuned(base, tmp_path / "tuned", seed=3)
    tensors = read_weights(tuned)
    longer = {name: torch.cat([tensors[name], torch.randn(2, WIDTH)]) for name in tensors if "embed" in name}
    write_weights(tuned, {**tensors, **longer, "score.weight": torch.randn(2, WIDTH)}, 1)
    bob = world.client("bob")
    assert pushed(bob, weights(tuned)).status_code == 200
    world.work()
    page = unescape(bob.get(f"/{NAME}/patches/1").text)
    lines = "Shared-Rows: yes\nShared-Only: yes"
    assert f"--revision refs/pr/1 --commit-description '{lines}'" in page
    events = bob.get(f"/api/models/{NAME}/discussions/1").json()["events"]
    assert events[-1]["data"]["latest"]["raw"].endswith("    Shared-Rows: yes\n    Shared-Only: yes")
    again(bob, weights(tuned), lines)
    world.work()
    assert bob.get(f"/api/v1/models/{NAME}/patches/1").json()["check"] == "checked"


def test_the_same_patch_twice_is_said(world: World, base: Path, tmp_path: Path) -> None:
    tuned = fine_tuned(base, tmp_path / "tuned")
    make_patch(base, tuned, tmp_path / "p.safetensors")
    push_patch(world, NAME, tmp_path / "p.safetensors", "carol")
    bob = world.client("bob")
    assert pushed(bob, weights(tuned)).status_code == 200
    world.work()
    said = bob.get(f"/api/v1/models/{NAME}/patches/2/push").json()
    assert said["state"] == "failed" and f"{NAME}#1.1 is the same patch" in said["error"]
    assert [patch["number"] for patch in bob.get(f"/api/v1/models/{NAME}/patches").json()["items"]] == [1]
    assert bob.get(f"/api/models/{NAME}/discussions").json()["count"] == 1
    assert all(inbox["mine"] == 0 for inbox in bob.get("/api/v1/inbox").json()["items"])
    assert bob.get(f"/api/v1/models/{NAME}/patches/2").status_code == 404


def test_shards_of_several_commits_are_compared_once_all_are_there(world: World, base: Path, tmp_path: Path) -> None:
    tuned = make_llama(tmp_path / "tuned", 1, shards=2)
    index = {"model.safetensors.index.json": (tuned / "model.safetensors.index.json").read_bytes()}
    first, second = ({path.name: path.read_bytes()} for path in sorted(tuned.glob("*.safetensors")))
    first = {name: data[:-400] + b"\0\0\0\x3f" * 100 for name, data in first.items()}
    bob = world.client("bob")
    assert pushed(bob, index | first).status_code == 200
    world.work()
    said = bob.get(f"/api/v1/models/{NAME}/patches/1/push").json()
    assert (said["state"], said["error"]) == ("open", "It waits for model-00002-of-00002.safetensors.")
    assert pushed(bob, dict(second), f"/api/models/{NAME}/commit/refs%2Fpr%2F1").status_code == 200
    world.work()
    assert bob.get(f"/api/v1/models/{NAME}/patches/1").json()["check"] == "checked"


def test_of_shards_that_claim_very_many_others_few_are_looked_for(world: World, base: Path) -> None:
    claims: dict[str, bytes | str] = {f"m{number}-00001-of-99999.safetensors": b"x" for number in range(3)}
    assert len(list(islice(missing_shards(claims, ()), 2))) == 2  # it names them one by one
    assert pushed(world.client("bob"), claims).status_code == 200
    said = world.client("bob").get(f"/api/v1/models/{NAME}/patches/1/push").json()
    assert said["error"] == "It waits for m0-00002-of-99999.safetensors and others."


def test_an_adapter_is_merged_here(world: World, base: Path, tmp_path: Path) -> None:
    module = "model.layers.0.self_attn.q_proj"
    adapter = write_adapter(tmp_path / "adapter", factors(module, WIDTH, WIDTH))
    files: dict[str, bytes | str] = {path.name: path.read_bytes() for path in adapter.iterdir() if path.suffix != ".md"}
    bob = world.client("bob")
    assert pushed(bob, files).status_code == 200
    world.work()
    patch = bob.get(f"/api/v1/models/{NAME}/patches/1").json()
    assert patch["check"] == "checked" and patch["nnz"] > 0


def test_a_description_may_ask_for_a_companion(world: World, base: Path, tmp_path: Path) -> None:
    tuned = fine_tuned(base, tmp_path / "tuned", seed=3)
    file = tuned / "model.safetensors"
    head = torch.randn(2, WIDTH)
    save_file({**load_file(file), "score.weight": head}, file, {"format": "pt"})
    bob = world.client("bob")
    options = "A head.\n\nShared-Only: yes\nCompanion: yes"
    raw = body(weights(tuned)).replace(b'"description": ""', b'"description": ' + json.dumps(options).encode())
    assert bob.post(COMMIT, content=raw, params={"create_pr": 1}).status_code == 200
    world.work()
    patch = bob.get(f"/api/v1/models/{NAME}/patches/1").json()
    assert patch["check"] == "checked", patch
    assert [(file["path"], file["keys"][0]["key"]) for file in patch["files"]] == [(COMPANION, "score.weight")]
    sent = bob.get(f"/api/v1/models/{NAME}/patches/1/files/{COMPANION}").content
    assert torch.equal(load(sent)["score.weight"], head)
    assert quotas_are_right(world)


def test_what_was_tuned_from_a_composition_adds_to_it_and_does_not_repeat_it(
    world: World, base: Path, tmp_path: Path
) -> None:
    make_patch(base, fine_tuned(base, tmp_path / "one", seed=1), tmp_path / "p.safetensors")
    push_patch(world, NAME, tmp_path / "p.safetensors", "bob")
    bob = world.client("bob")
    asked = {"patches": [{"number": 1}], "alpha": "0.5"}
    made = bob.post(f"/api/v1/models/{NAME}/compositions", json=asked).json()
    world.work()
    composed = tmp_path / "composed"
    shutil.copytree(base, composed)
    digest = made["recipe"]["digest"]
    (composed / "model.safetensors").write_bytes(bob.get(f"/{NAME}/resolve/recipe-{digest}/model.safetensors").content)
    tuned = fine_tuned(composed, tmp_path / "tuned", seed=2)
    for words, wanted in ((f"Tuned-From: recipe-{digest[:12]}", composed), ("Task: sums", base)):
        raw = body(weights(tuned)).replace(b'"description": ""', b'"description": ' + json.dumps(words).encode())
        assert bob.post(COMMIT, content=raw, params={"create_pr": 1}).status_code == 200
        world.work()
        number = bob.get(f"/api/v1/models/{NAME}").json()["patches"]
        patch = bob.get(f"/api/v1/models/{NAME}/patches/{number}").json()
        assert patch["check"] == "checked", patch
        sent, expected = (tmp_path / f"{number}.{kind}" for kind in ("sent", "expected"))
        sent.write_bytes(bob.get(f"/api/v1/models/{NAME}/patches/{number}/file").content)
        make_patch(wanted, tuned, expected)
        found, compared = (load_file(file) for file in (sent, expected))
        assert found.keys() == compared.keys() and all(torch.equal(found[name], compared[name]) for name in found)
        with open_patch(sent) as file:
            assert file.info.base == bob.get(f"/api/v1/models/{NAME}").json()["base"]
    raw = body(weights(tuned)).replace(b'"description": ""', b'"description": "Tuned-From: 9.9.9"')
    answer = bob.post(COMMIT, content=raw, params={"create_pr": 1})
    assert answer.status_code == 400 and "names nothing to compare with" in answer.json()["error"]
    raw = raw.replace(b"9.9.9", b"base")
    assert bob.post(COMMIT, content=raw, params={"create_pr": 1}).status_code == 200


def test_a_commit_without_options_keeps_those_of_the_opening_and_may_take_a_setting_of_the_model(
    world: World, base: Path, tmp_path: Path
) -> None:
    bob, tuned = world.client("bob"), fine_tuned(base, tmp_path / "tuned", seed=2)
    opening = {"title": "Learn", "description": "Task: sums\nTuned-From: base", "pullRequest": True}
    answer = bob.post(f"/api/models/{NAME}/discussions", json=opening)
    assert answer.status_code < 300, answer.text
    number = answer.json()["num"]
    where = f"/api/models/{NAME}/commit/refs%2Fpr%2F{number}"
    assert pushed(bob, weights(tuned), where).status_code == 200
    with world.database.read() as session:
        assert session.scalars(select(Push.options)).one() == {"task": "sums", "tuned_from": None}
    world.work()
    patch = bob.get(f"/api/v1/models/{NAME}/patches/{number}").json()
    assert (patch["task"], patch["check"]) == ("sums", "checked")
    with world.database.write() as session:
        session.execute(update(Model).values(mask={"drop_bottom": "0.5"}))
    for top, status in (("0.4", 200), ("0.5", 400)):  # 0.85, of models without settings, would leave no room for 0.4
        words = f'"description": "Drop-Top: {top}"'.encode()
        raw = body(weights(tuned)).replace(b'"description": ""', words)
        assert bob.post(where, content=raw).status_code == status, top


def test_other_files_with_the_same_weights_are_not_dropped_silently(world: World, base: Path, tmp_path: Path) -> None:
    bob, sent = world.client("bob"), weights(fine_tuned(base, tmp_path / "tuned", seed=2))
    assert pushed(bob, sent | {"extra.json": b"{}"}).status_code == 200
    where = f"/api/models/{NAME}/commit/refs%2Fpr%2F1"
    for extra, state in ((b"{}", "done"), (b"[1]", "failed")):
        world.work()
        assert pushed(bob, sent | {"extra.json": extra}, where).status_code == 200
        world.work()
        with world.database.read() as session:
            push = session.scalars(select(Push)).one()
            assert push.state == state and ("has this very patch" in (push.error or "")) == (state == "failed")


def quotas_are_right(world: World) -> bool:
    """Say whether what counts for a namespace is what it has."""
    with world.database.write() as session:
        spaces = session.scalars(select(Namespace)).all()
        before = {space.name: space.used_bytes for space in spaces}
        for space in spaces:
            quotas.recount(session, space.id)
        return before == {space.name: space.used_bytes for space in spaces}


def test_a_crumb_patch_takes_its_next_revision_from_the_hubs_tools(world: World, base: Path, tmp_path: Path) -> None:
    make_patch(base, fine_tuned(base, tmp_path / "one", seed=1), tmp_path / "p.safetensors")
    push_patch(world, NAME, tmp_path / "p.safetensors", "bob")
    second = fine_tuned(base, tmp_path / "two", seed=2)
    bob = world.client("bob")
    where = f"/api/models/{NAME}/commit/refs%2Fpr%2F1"
    assert pushed(world.client("carol"), weights(second), where).status_code == 403
    assert pushed(bob, weights(second), where).status_code == 200
    world.work()
    assert bob.get(f"/api/v1/models/{NAME}/patches/1").json()["newest"] == 2
    assert (
        world.client("bob").post(f"/api/v1/models/{NAME}/patches/1/withdraw", json={"message": "Wrong."}).status_code
        == 200
    )
    refused = pushed(bob, weights(base), where)
    assert refused.status_code == 409 and "takes no more revisions" in refused.json()["error"]


def test_an_empty_model_says_what_to_do_and_takes_a_base(world: World, tmp_path: Path) -> None:
    alice = world.client("alice")
    assert alice.post("/api/repos/create", json={"name": "fresh", "private": True}).status_code == 200
    shown = alice.get("/api/v1/models/alice/fresh").json()
    assert (shown["state"], shown["visibility"], shown["job"]) == ("empty", "private", None)
    answer = alice.get("/api/models/alice/fresh")
    assert answer.status_code == 404 and "has no base yet" in answer.json()["error"]
    assert alice.post("/api/repos/create", json={"name": "seen"}).status_code == 200
    assert alice.get("/alice/seen").status_code == 200
    assert (
        "has no base yet"
        in alice.post("/api/v1/models/alice/fresh/patches", json={"sha256": "0" * 64, "title": "x"}).json()["detail"]
    )
    folder = make_llama(tmp_path / "base", 1, shards=1)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    answer = alice.post("/api/models/alice/fresh/commit/main", content=body(files))
    assert answer.status_code == 200 and answer.json()["pullRequestUrl"] is None
    world.work()
    shown = alice.get("/api/v1/models/alice/fresh").json()
    assert (shown["state"], shown["visibility"]) == ("ready", "private")
    assert alice.get("/api/models/alice/fresh").json()["sha"] == answer.json()["commitOid"]
    with world.database.read() as session:
        spaces = set(session.scalars(select(UploadSession.namespace_id)))
        assert len(spaces) == 1 and session.scalars(select(Blob)).first() is not None


def test_a_name_without_a_base_is_free_again_after_a_week_unless_it_is_private(world: World, tmp_path: Path) -> None:
    alice = world.client("alice")
    for name, private in (("stale", False), ("kept", True), ("fresh", False)):
        assert alice.post("/api/repos/create", json={"name": name, "private": private}).status_code == 200
    create_model(world, NAME, make_llama(tmp_path / "base", 1, shards=1), "alice")
    with world.database.write() as session:
        session.execute(update(Model).where(Model.name != "fresh").values(modified_at=now() - timedelta(days=8)))
    world.worker.sweep()
    states = {name: alice.get(f"/api/v1/models/alice/{name}").status_code for name in ("stale", "kept", "fresh", "m")}
    assert states == {"stale": 404, "kept": 200, "fresh": 200, "m": 200}
    with world.database.read() as session:
        event = session.scalars(select(AuditEvent).where(AuditEvent.action == "model.expire")).one()
        assert (event.subject, event.user_name) == ("alice/stale", None)
        assert list(check_chain(session)) == []
    assert alice.post("/api/repos/create", json={"name": "stale", "private": True}).status_code == 200
