import json
import os
import signal
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from registry.breadcrumbs.composing.compose import compose
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.digest import digest_checkpoint
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.breadcrumbs.formats.recipe import make_recipe
from registry.db.tables import Composition, Job, Recipe
from tests.support.community import Community
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.processes import until
from tests.support.world import World, create_model, push_patch, upload

pytestmark = pytest.mark.heavy

SANDBOXED = "tests.support.sandboxed"

URL = "/api/v1/models/alice/tiny/compositions"


@pytest.fixture
def files(world: World, tmp_path: Path) -> list[Path]:
    """A base, and three checked patches of it."""
    base = make_checkpoint(tmp_path / "base", shards=2)
    create_model(world, "alice/tiny", base)
    made = [base]
    for seed in (1, 2, 3):
        out = tmp_path / f"{seed}.safetensors"
        make_patch(base, fine_tuned(base, tmp_path / f"tuned{seed}", seed=seed), out)
        push_patch(world, "alice/tiny", out, title=f"Patch {seed}")
        made.append(out)
    return made


@pytest.fixture
def stocked(crew: Community) -> World:
    """A registry with such a model, where a test needs none of the files."""
    return crew.world


def ask(world: World, *items: tuple[int, str], alpha: str = "0.3") -> Any:
    body = {"alpha": alpha, "patches": [{"number": number, "weight": weight} for number, weight in items]}
    return world.client("bob").post(URL, json=body)


def count_jobs(world: World) -> int:
    with world.database.read() as session:
        return session.query(Job).filter(Job.kind == "compose").count()


def test_a_composition_names_the_files_of_the_base_that_it_was_left_without(world: World, tmp_path: Path) -> None:
    base, copies = make_checkpoint(tmp_path / "base"), ["model.fp16.safetensors", "onnx/model.onnx"]
    make_patch(base, fine_tuned(base, tmp_path / "tuned"), tmp_path / "1.safetensors")
    (base / "onnx").mkdir()
    (base / copies[0]).write_bytes((base / "model.safetensors").read_bytes())
    (base / copies[1]).write_bytes(b"an export")
    create_model(world, "alice/tiny", base)
    push_patch(world, "alice/tiny", tmp_path / "1.safetensors")
    assert ask(world, (1, "1")).json()["left_out"] == [], "nothing is known before it is composed"
    world.work()
    done = ask(world, (1, "1")).json()
    assert done["left_out"] == copies
    page = world.client().get(f"/alice/tiny/recipes/{done['recipe']['digest']}").text
    assert f"not here, since no patch is in them: <code>{copies[0]}</code>, <code>{copies[1]}</code>." in page
    there = world.client().get(f"/api/v1/models/alice/tiny/revisions/{done['recipe']['digest']}").json()["files"]
    assert not {file["path"] for file in there} & set(copies)


def test_any_subset_is_what_a_local_composition_gives(world: World, files: list[Path], tmp_path: Path) -> None:
    asked = ask(world, (3, "0.50"), (1, "-1"), alpha="00.40")
    assert asked.status_code == 202
    recipe = asked.json()["recipe"]
    assert recipe["alpha"] == "0.4"
    assert {(item["number"], item["weight"], item["title"]) for item in recipe["patches"]} == {
        (1, "-1", "Patch 1"),
        (3, "0.5", "Patch 3"),
    }
    world.work()
    done = ask(world, (1, "-1.0"), (3, "0.5"), alpha="0.4")
    assert done.status_code == 200
    assert done.json()["recipe"]["digest"] == recipe["digest"]

    (tmp_path / "here").mkdir()
    with open_checkpoint(files[0]) as base, open_patch(files[1]) as first, open_patch(files[3]) as third:
        digests = {item["number"]: item["sha256"] for item in recipe["patches"]}
        made = make_recipe(recipe["base"], "0.4", [(digests[1], "-1"), (digests[3], "0.5")])
        local = compose(base, {digests[1]: first, digests[3]: third}, made, tmp_path / "here", "cpu")
    assert made.digest == recipe["digest"]
    assert done.json()["weights_digest"] == local.weights_digest

    revision = world.client(None).get(f"/api/v1/models/alice/tiny/revisions/{recipe['digest'][:8]}").json()
    assert (revision["ref"], revision["weights_digest"]) == (recipe["digest"], local.weights_digest)
    assert {file["path"] for file in revision["files"]} == {path.name for path in files[0].iterdir()}
    (tmp_path / "pulled").mkdir()
    for file in revision["files"]:
        url = f"/api/v1/models/alice/tiny/revisions/{recipe['digest']}/files/{file['path']}"
        (tmp_path / "pulled" / file["path"]).write_bytes(world.client(None).get(url).content)
    with open_checkpoint(tmp_path / "pulled") as pulled:
        assert digest_checkpoint(pulled) == local.weights_digest
    card = (tmp_path / "pulled" / "README.md").read_text()
    assert "Patch 3" in card
    assert "license: apache-2.0" in card
    assert (tmp_path / "pulled" / "config.json").read_bytes() == (files[0] / "config.json").read_bytes()


def test_the_same_recipe_is_never_composed_twice(stocked: World) -> None:
    first, second = ask(stocked, (1, "1"), (2, "1")), ask(stocked, (2, "1.0"), (1, "1"))
    assert first.json()["job"]["id"] == second.json()["job"]["id"]
    stocked.work()
    assert ask(stocked, (1, "1"), (2, "1")).json()["job"] is None
    assert count_jobs(stocked) == 1
    assert stocked.worker.device in ("cpu", "cuda"), "a worker says where it has composed"


def test_requests_at_once_get_one_job(stocked: World) -> None:
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(stocked, (1, "1")).status_code)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [202] * 6
    assert count_jobs(stocked) == 1


def test_the_same_recipe_on_a_model_with_the_same_weights_is_not_computed_again(
    world: World, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    create_model(world, "alice/twin", files[0])
    push_patch(world, "alice/twin", files[1])
    ask(world, (1, "1"))
    world.work()
    monkeypatch.setattr(world.worker, "in_sandbox", lambda *_, **__: pytest.fail("composed again"))
    world.client("bob").post(URL.replace("tiny", "twin"), json={"patches": [{"number": 1}], "alpha": "0.3"})
    world.work()
    with world.database.read() as session:
        first, second = session.query(Composition).all()
        assert (first.recipe_digest, first.weights_digest) == (second.recipe_digest, second.weights_digest)


def test_no_patch_at_all_is_the_base(stocked: World) -> None:
    ask(stocked)
    stocked.work()
    assert ask(stocked).json()["weights_digest"] == ask(stocked).json()["recipe"]["base"]


@pytest.mark.parametrize(
    ("items", "alpha", "field"),
    [
        ([(1, "1"), (1, "2")], "0.3", "patches"),
        ([(9, "1")], "0.3", "patches"),
        ([(1, "1e3")], "0.3", "patches.0.weight"),
        ([(1, "nan")], "0.3", "patches.0.weight"),
        ([(1, "1")], "", "alpha"),
        ([(1, "1")], "inf", "alpha"),
        ([(1, "1")], "0x1", "alpha"),
        ([(1, "1" * 20)], "9" * 20, "alpha"),
        ([(0, "1")], "0.3", "patches.0.number"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_by_field(
    stocked: World, items: list[tuple[int, str]], alpha: str, field: str
) -> None:
    answer = ask(stocked, *items, alpha=alpha)
    assert answer.status_code == 422, answer.text
    assert answer.json()["field"] == field
    assert count_jobs(stocked) == 0


def test_a_composition_that_overflows_fails_and_names_the_tensor(world: World, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base", dtypes=(torch.float16,))
    create_model(world, "alice/tiny", base)
    make_patch(base, fine_tuned(base, tmp_path / "tuned"), tmp_path / "patch.safetensors")
    push_patch(world, "alice/tiny", tmp_path / "patch.safetensors")
    job = ask(world, (1, "1"), alpha="9" * 19).json()["job"]
    world.work()
    ended = world.client(None).get(f"/api/v1/jobs/{job['id']}").json()
    assert ended["state"] == "failed"
    assert "embed.weight" in ended["error"]
    assert not list(world.store.staging.glob("job-*"))


def damage(blob: Path, at: int) -> None:
    raw = bytearray(blob.read_bytes())
    raw[at] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(raw)


def test_a_damaged_input_is_noticed_before_it_is_composed(stocked: World) -> None:
    patch = stocked.client(None).get("/api/v1/models/alice/tiny/patches/1").json()
    damage(stocked.store.path(patch["sha256"]), -1)
    job = ask(stocked, (1, "1")).json()["job"]
    stocked.work()
    ended = stocked.client(None).get(f"/api/v1/jobs/{job['id']}").json()
    assert ended["state"] == "failed"
    assert "damaged" in ended["error"]


@pytest.mark.parametrize("at", [20, -1])
def test_a_damaged_base_is_noticed_wherever_the_damage_is(stocked: World, at: int) -> None:
    found = stocked.client(None).get("/api/v1/models/alice/tiny/revisions/base").json()["files"]
    for file in found:
        if file["path"].endswith(".safetensors"):
            damage(stocked.store.path(file["sha256"]), at)
    job = ask(stocked, (1, "1")).json()["job"]
    stocked.work()
    ended = stocked.client(None).get(f"/api/v1/jobs/{job['id']}").json()
    assert ended["state"] == "failed"
    assert "damaged" in ended["error"]


def test_a_process_that_is_kept_serves_until_it_dies(world: World) -> None:
    """Like the process that keeps a base on a GPU."""
    claim = SimpleNamespace()  # heartbeats come later than these answers
    run = partial(world.worker.in_sandbox, claim, f"{SANDBOXED}:answer", keep=True)
    first, second = run(value=1), run(value=2)
    assert second == first | {"value": 2}
    os.kill(first["pid"], signal.SIGKILL)
    assert world.worker.kept is not None
    world.worker.kept._process.join(30)
    third = run(value=3)
    assert third["value"] == 3
    assert third["pid"] != first["pid"]
    world.worker.stopping.set()
    world.worker.run()
    assert world.worker.kept is not None
    with pytest.raises(OSError):
        world.worker.kept.again({"value": 4})


def test_a_running_composition_is_cancelled_and_leaves_nothing(
    stocked: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stocked.worker.in_sandbox
    pid = tmp_path / "pid"
    monkeypatch.setattr(
        stocked.worker, "in_sandbox", lambda claim, *_, **__: run(claim, f"{SANDBOXED}:work", path=str(pid))
    )
    job = ask(stocked, (1, "1")).json()["job"]
    thread = threading.Thread(target=stocked.worker.step)
    thread.start()
    client, url = stocked.client("bob"), f"/api/v1/jobs/{job['id']}"
    until(lambda: client.get(url).json()["progress"])
    client.post(f"{url}/cancel")
    thread.join(30)
    assert client.get(url).json()["state"] == "cancelled"
    assert not list(stocked.store.staging.glob("job-*"))
    monkeypatch.undo()
    assert ask(stocked, (1, "1")).json()["job"]["id"] != job["id"]


def test_a_worker_that_is_stopped_gives_its_job_back(
    stocked: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stocked.worker.in_sandbox
    monkeypatch.setattr(
        stocked.worker,
        "in_sandbox",
        lambda claim, *_, **__: run(claim, f"{SANDBOXED}:work", path=str(tmp_path / "pid")),
    )
    job = ask(stocked, (1, "1")).json()["job"]
    thread = threading.Thread(target=stocked.worker.run)
    thread.start()
    until(lambda: stocked.client(None).get(f"/api/v1/jobs/{job['id']}").json()["progress"])
    stocked.worker.stopping.set()
    thread.join(30)
    assert stocked.client(None).get(f"/api/v1/jobs/{job['id']}").json()["state"] == "queued"
    monkeypatch.undo()
    stocked.worker.stopping.clear()
    stocked.work()
    assert ask(stocked, (1, "1")).status_code == 200


def test_a_prefix_must_be_unique_and_an_uncomposed_recipe_says_what_to_do(stocked: World) -> None:
    client = stocked.client(None)
    absent = client.get(f"/api/v1/models/alice/tiny/revisions/{'0' * 64}")
    assert absent.status_code == 404
    assert "crumb compose" in absent.json()["detail"]
    ask(stocked, (1, "1"))
    stocked.work()
    digest = ask(stocked, (1, "1")).json()["recipe"]["digest"]
    for ref in (digest, digest[:8], f"sha256:{digest}", f"recipe-{digest[:12]}"):
        assert client.get(f"/api/v1/models/alice/tiny/revisions/{ref}").json()["ref"] == digest
    with stocked.database.write() as session:
        composition, recipe = session.query(Composition).one(), session.query(Recipe).one()
        twin = digest[:63] + ("0" if digest[63] != "0" else "1")
        session.add(Recipe(digest=twin, base_digest=recipe.base_digest, alpha="1", items=[]))
        session.flush()
        weights = "sha256:" + "0" * 64
        model_id = composition.model_id
        session.add(
            Composition(
                model_id=model_id,
                recipe_digest=twin,
                weights_digest=weights,
                commit="0" * 40,
                device="cpu",
                seconds=0.0,
            )
        )
    ambiguous = client.get(f"/api/v1/models/alice/tiny/revisions/{digest[:8]}")
    assert (ambiguous.status_code, ambiguous.json()["field"]) == (422, "ref")


def test_nothing_of_a_request_is_kept_when_it_fails(stocked: World) -> None:
    before = json.dumps(stocked.client(None).get("/api/v1/models/alice/tiny/patches").json())
    client = stocked.client("bob")
    sha256 = upload(client, b"bytes")
    client.post("/api/v1/models/alice/tiny/patches", json={"sha256": sha256, "title": "x" * 201})
    assert json.dumps(client.get("/api/v1/models/alice/tiny/patches").json()) == before
