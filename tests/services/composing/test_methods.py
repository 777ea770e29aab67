"""Methods and weights by tensor at the registry: asked for, composed, kept in recipes and releases."""

import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from client.actions.patching import apply
from registry.breadcrumbs.formats.recipe import Item, make_recipe
from registry.db.session import migrate, migrations_config, open_database
from registry.db.tables import Recipe
from tests.support.community import Community
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.world import World, create_model, push_patch

URL = "/api/v1/models/alice/tiny"


def ask(world: World, *items: dict[str, Any], path: str = "/compositions", **how: Any) -> Any:
    return world.client("bob").post(URL + path, json={"patches": list(items), **how})


def push_three(world: World, folder: Path) -> tuple[Path, list[Path]]:
    """Create alice/tiny with three patches, and return its base and their files."""
    base = make_checkpoint(folder / "base")
    create_model(world, "alice/tiny", base)
    files = []
    for seed in (1, 2, 3):
        files.append(folder / f"{seed}.safetensors")
        make_patch(base, fine_tuned(base, folder / f"tuned{seed}", seed=seed), files[-1])
        push_patch(world, "alice/tiny", files[-1])
    return base, files


def test_what_is_composed_is_what_apply_makes_here(world: World, tmp_path: Path) -> None:
    base, files = push_three(world, tmp_path)
    items = [{"number": 1}, {"number": 2, "weight": "0.5", "where": [["*", "0.25"]]}, {"number": 3}]
    for method in ("ties", "mean"):
        asked = ask(world, *items, method=method, alpha="0.7").json()["recipe"]
        assert asked["method"] == method
        assert [item["where"] for item in asked["patches"] if item["number"] == 2] == [[["*", "0.25"]]]
        world.work()
        done = ask(world, *items, method=method, alpha="0.7").json()
        here = apply(
            base,
            [files[0], (files[1], "0.5"), files[2]],
            tmp_path / method,
            alpha="0.7",
            method=method,
            where=[(2, "*", "0.25")],
        )
        assert (done["recipe"]["digest"], done["weights_digest"]) == (here.recipe, here.weights_digest)
        card = world.client(None).get(f"{URL}/revisions/{asked['digest']}/files/README.md").text
        assert "× 0.25" in card
        assert (
            make_recipe(
                asked["base"],
                asked["alpha"],
                [Item(item["sha256"], item["weight"], tuple(map(tuple, item["where"]))) for item in asked["patches"]],
                method,
            ).digest
            == asked["digest"]
        )


@pytest.mark.parametrize(
    ("items", "how", "words"),
    [
        ([{"number": 1, "where": [["nowhere.*", "0.5"]]}], {}, "alice/tiny#1 changes no tensor that matches 'nowhere"),
        ([{"number": 1, "where": [["[", "0.5"]]}], {}, "not a glob"),
        ([{"number": 1, "weight": "-1"}], {"method": "ties"}, "weights above 0"),
        ([{"number": 1, "where": [["*", "-1"]]}], {"method": "mean"}, "weights above 0"),
        ([{"number": 1}], {"method": "slerp"}, "sum"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(
    crew: Community, items: list[dict[str, Any]], how: dict[str, Any], words: str
) -> None:
    answer = ask(crew.world, *items, **how)
    assert answer.status_code == 422
    assert re.search(words, answer.json()["detail"])
    with crew.world.database.read() as session:
        assert not session.scalars(sa.select(Recipe).where(Recipe.method != "sum")).all()


def test_a_preview_has_the_recipe_that_is_composed(crew: Community) -> None:
    items = [{"number": 1, "where": [["*", "0.5"]]}, {"number": 2}]
    preview = ask(crew.world, *items, path="/preview", method="mean", alpha="1").json()
    assert preview["method"] == "mean"
    assert preview["recipe"] == ask(crew.world, *items, method="mean", alpha="1").json()["recipe"]["digest"]


def test_a_release_keeps_the_method_and_the_weights_by_tensor_of_what_it_starts_from(lived: Community) -> None:
    halved = {"patches": [{"number": 1, "where": [["*", "0.5"]]}]}
    first = lived.post("mary", "/releases", 202, version="2.0.0", method="ties", **halved)
    start = first["recipe"]["digest"]
    lived.world.work()
    again = lived.post("mary", "/releases", 202, version="2.1.0", from_ref="2.0.0", add=[{"number": 2}])
    assert again["recipe"]["method"] == "ties"
    assert [item["where"] for item in again["recipe"]["patches"] if item["number"] == 1] == [[["*", "0.5"]]]
    other = lived.post("mary", "/releases", 202, version="2.2.0", from_ref="2.0.0", method="sum")
    assert other["recipe"]["method"] == "sum"
    assert other["recipe"]["digest"] != start


def test_a_database_with_such_recipes_is_not_taken_back(database_url: str) -> None:
    migrate(database_url)
    database = open_database(database_url)
    with database.write() as session:
        session.add(Recipe(digest="0" * 64, base_digest="sha256:" + "0" * 64, alpha="1", method="ties", items=[]))
    database.engine.dispose()
    with pytest.raises(RuntimeError, match="other methods"):
        command.downgrade(migrations_config(database_url), "f1b83d6e0a27")


def test_alpha_auto_is_the_decimal_that_the_patches_give(world: World, tmp_path: Path) -> None:
    base, files = push_three(world, tmp_path)
    items = [{"number": 1}, {"number": 2, "weight": "0.5"}, {"number": 3}]
    preview = ask(world, *items, path="/preview").json()
    assert (preview["recipe"], preview["alpha"], preview["alpha_rule"]) == (None, "auto", None)
    assert any("3 pairs of them are not compared yet" in warning for warning in preview["warnings"])
    refused = ask(world, *items)
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:breadcrumb:problem:not-compared")
    world.work()
    recipe = ask(world, *items).json()["recipe"]
    here = apply(base, [files[0], (files[1], "0.5"), files[2]], tmp_path / "here")
    assert recipe["digest"] == here.recipe
    assert 0.1 < float(recipe["alpha"]) < 3
    preview = ask(world, *items, path="/preview", alpha="auto").json()
    assert (preview["recipe"], preview["alpha"]) == (recipe["digest"], recipe["alpha"])
    assert ask(world, {"number": 1}).json()["recipe"]["alpha"] == "1"
    assert ask(world, *items, alpha="automatic").status_code == 422
