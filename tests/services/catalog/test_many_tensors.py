"""Patches of tens of thousands of tensors, as for mixtures of experts: pushed, checked, shown, composed and pulled."""

import json
import math
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from registry.breadcrumbs.formats.digest import digest_files
from registry.services.catalog import norms, patches
from tests.support.community import Community
from tests.support.makers import make_patch
from tests.support.many import name_of, write_many
from tests.support.world import World, create_model, push_patch, statements

pytestmark = pytest.mark.heavy

MODEL = "alice/experts"


@pytest.fixture
def world_settings() -> dict[str, Any]:
    return {"part_bytes": 2**26}


def live_through(world: World, folder: Path, count: int) -> None:
    """Push a patch of so many tensors, look at it, compose it, and pull the result."""
    base = write_many(folder / "base", count, shards=2)
    info = make_patch(base, write_many(folder / "tuned", count, moved=0.05), folder / "p.safetensors", drop_bottom="0")
    assert len(info.tensors) == count
    model = create_model(world, MODEL, base)
    assert (model["state"], model["parameters"]) == ("ready", 8 * count)
    with statements(world) as asked:
        patch = push_patch(world, MODEL, folder / "p.safetensors", propose=True)
    assert patch["check"] == "checked", patch
    assert sum("INSERT INTO patch_tensors" in statement for statement in asked) == 1
    client = world.client()
    tensors = client.get(f"/api/v1/models/{MODEL}/patches/1/tensors").json()
    assert [tensor["name"] for tensor in tensors] == sorted(map(name_of, range(count)))
    assert {tensor["nnz"] for tensor in tensors} == {8}
    page = world.client(None).get(f"/{MODEL}/patches/1", headers={"Accept": "text/html"})
    assert page.status_code == 200
    assert len(page.content) < 400_000
    words = "experts.7.up_proj"
    found = client.get(f"/api/v1/models/{MODEL}/patches", params={"tensor": words}).json()["items"]
    assert [row["number"] for row in found] == [1]
    asking = {"alpha": "0.5", "patches": [{"number": 1, "where": [["*.down_proj.weight", "0"]]}]}
    assert client.post(f"/api/v1/models/{MODEL}/compositions", json=asking).status_code == 202
    world.work()
    composed = client.post(f"/api/v1/models/{MODEL}/compositions", json=asking).json()
    revision = f"/api/v1/models/{MODEL}/revisions/{composed['recipe']['digest']}"
    out = folder / "pulled"
    out.mkdir()
    for file in client.get(revision).json()["files"]:
        (out / file["path"]).write_bytes(client.get(f"{revision}/files/{file['path']}").content)
    files = {path.name: path for path in out.iterdir()}
    assert digest_files(files) == composed["weights_digest"]
    assert json.loads(files["model.safetensors.index.json"].read_text())["weight_map"].keys() == set(info.tensors)


def test_thousands_of_tensors_go_through_a_registry(world: World, tmp_path: Path) -> None:
    live_through(world, tmp_path, 6_600)  # more columns in all than PostgreSQL takes parameters


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)  # more rows than it takes parameters
def test_seventy_thousand_tensors_go_through_a_registry(world: World, tmp_path: Path) -> None:
    live_through(world, tmp_path, 70_200)


@pytest.mark.heavy
def test_a_second_patch_of_thousands_of_tensors_is_compared_with_the_first(world: World, tmp_path: Path) -> None:
    count = 2_400
    base = write_many(tmp_path / "base", count)
    create_model(world, MODEL, base)
    for number, moved in enumerate((0.05, 0.1), 1):
        tuned = write_many(tmp_path / f"tuned{number}", count, moved=moved)
        make_patch(base, tuned, tmp_path / f"p{number}", drop_bottom="0")
        assert push_patch(world, MODEL, tmp_path / f"p{number}")["check"] == "checked"
    client = world.client()
    body = {"patches": [{"number": 1}, {"number": 2}]}
    assert client.post(f"/api/v1/models/{MODEL}/conflicts", json=body).status_code in (200, 202)
    world.work()
    known = client.post(f"/api/v1/models/{MODEL}/conflicts", json=body).json()
    assert known["missing"] == 0
    assert known["pairs"][0]["whole"]["overlap"] == 8 * count


@pytest.mark.heavy
def test_norms_are_compared_with_as_many_of_the_newest_patches_as_their_tensors_allow(
    crew: Community, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(norms, "OUTLIER_DEVIATIONS", math.inf)
    crew.accept(1, 2, 3, 4)
    tensors = len(crew.get("/patches/1/tensors"))
    for most, compared in ((4 * tensors, 4), (3 * tensors, 3), (1, 3)):
        monkeypatch.setattr(norms, "MOST_ROWS", most)
        with crew.world.database.read() as session:
            revision = crew.revision(session, 4)
            contents = [{"name": tensor.name, "l2": tensor.l2} for tensor in patches.tensors(session, revision)]
            fifth: Any = SimpleNamespace(id=uuid.uuid4())  # none of the accepted ones
            summary = norms.check(session, crew.model(session), fifth, contents)["summary"]
        assert summary.endswith(f"ordinary among {compared} accepted patches."), summary
