"""Patches made of what the Hub's tools push: what is compared with the base, when, and what is told of it."""

import json
import re
import shutil
from collections.abc import Callable
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
from registry.db.tables import Job, Model, Namespace, Push, PushedFile
from registry.files.beside import COMPANION
from registry.services.blobs import quotas
from registry.services.hub.pushed_files import missing_shards
from tests.support.adapter_makers import factors, write_adapter
from tests.support.hub_pushes import COMMIT, NAME, body, pushed, weights
from tests.support.hubs import WIDTH, make_llama
from tests.support.makers import changed, fine_tuned, make_patch, read_weights, write_weights
from tests.support.world import World, push_patch

pytestmark = pytest.mark.heavy


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
