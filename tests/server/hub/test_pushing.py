"""What pushes of the Hub's tools may hold, and what becomes of those that hold something else."""

import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import select, update
from starlette.testclient import TestClient

from registry.db.audit import check_chain
from registry.db.tables import AuditEvent, Blob, Job, Model, PushedFile, UploadSession, now
from registry.services.blobs import quotas
from registry.services.people.tokens import create_token
from tests.support.adapter_makers import factors, write_adapter
from tests.support.hub_pushes import COMMIT, NAME, body, pushed, weights
from tests.support.hubs import WIDTH, make_llama
from tests.support.makers import fine_tuned, read_weights, write_weights
from tests.support.world import World, create_model, upload

pytestmark = pytest.mark.heavy
LFS = f"/{NAME}.git/info/lfs/objects"


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
