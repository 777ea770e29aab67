"""Tuning of models at a registry: from patches and recipes there, to a recipe with an evaluation there."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from client import Client
from registry import errors
from tests.support import makers
from tests.support.visitors import Crumb, Registry

SIZE = """\
import pathlib, sys
blocks = [file.read_bytes() for file in sorted(pathlib.Path(sys.argv[-1]).glob("*.safetensors"))]
print(sum(sum(block) for block in blocks) % 997)
"""


@pytest.fixture(scope="module")
def model(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with two patches, the first in its second revision."""
    from client.actions.models import create
    from client.actions.push import push

    folder = tmp_path_factory.mktemp("tuned")
    base = makers.make_checkpoint(folder / "base", shards=2)
    for seed in (1, 2, 3):
        makers.make_patch(base, makers.fine_tuned(base, folder / f"{seed}", seed), folder / f"{seed}.safetensors")
    with registry.client() as client:
        create(client, "ana/tuned", base)
        push(client, folder / "1.safetensors", "ana/tuned", "first")
        push(client, folder / "2.safetensors", "ana/tuned", "first, better", update=1)
        push(client, folder / "3.safetensors", "ana/tuned", "second")
    return "ana/tuned"


@pytest.fixture
def command(here: Registry, crumb: Crumb) -> list[str]:
    (crumb.cwd / "score.py").write_text(SIZE)
    return ["--", sys.executable, "score.py"]


def test_the_best_is_composed_at_the_registry_and_recorded_with_the_number_of_models_it_was_chosen_among(
    model: str, crumb: Crumb, command: list[str]
) -> None:
    options = ["--alpha", "0.5", "--budget", "6", "--workers", "2", "--lowest"]
    text = crumb("tune", model, "1", "2:0.5", *options, *command)
    assert "--record TASK" in text
    recorded = ["--record", "bytes", "--dataset", "all of them", "--metric", "sum"]
    found = json.loads(crumb("tune", model, "1", "2:0.5", *options, *recorded, "--json", *command))
    assert all(one["kept"] for one in found["tried"])
    evaluation = found["evaluation"]
    assert evaluation["subject"] == found["best"]["recipe"]
    assert (evaluation["task"], evaluation["dataset"], evaluation["metric"]) == ("bytes", "all of them", "sum")
    assert (evaluation["value"], evaluation["higher_is_better"]) == (found["best"]["score"], False)
    assert (
        (evaluation["tried"], evaluation["command"])
        == (6, shlex.join(command[1:]))
        == (found["scored"], found["command"])
    )
    assert found["best"]["score"] == min(one["score"] for one in found["tried"])
    composed = json.loads(crumb(*shlex.split(found["use"])[1:], "--json"))
    assert composed["recipe"]["digest"] == found["best"]["recipe"]
    assert "chosen among 6" in crumb("eval", "list", f"{model}@{found['best']['recipe']}")
    assert "recorded" in crumb("tune", model, "1", "2:0.5", *options, *recorded, *command)


def test_a_recipe_is_tuned_as_it_is_with_its_method_its_revisions_and_its_factors(
    model: str, crumb: Crumb, command: list[str]
) -> None:
    how = ["--alpha", "0.5", "--method", "ties", "--where", "1:layers.0.*=0.25"]
    start = json.loads(crumb("compose", model, "1.1", "2:0.5", *how, "--json"))["recipe"]["digest"]
    found = json.loads(crumb("tune", f"{model}@{start}", "--alpha", "0.5", "--budget", "1", "--json", *command))
    assert (found["best"]["recipe"], found["method"]) == (start, "ties")
    use = ["crumb", "compose", model, "1.1", "2.1:0.5", "--alpha", "0.5", "--method", "ties"]
    assert shlex.split(found["use"]) == [*use, "--where", "1:layers.0.*=0.25"]
    text = crumb("tune", f"{model}@{start}", "--alpha", "0.5", "--budget", "1", *command)
    assert "1: 1 (layers.0.* x 0.25)" in text
    found = json.loads(crumb("tune", f"{model}@{start}", "--method", "sum", "--budget", "1", "--json", *command))
    assert (found["method"], found["best"]["setting"]["weights"]) == ("sum", ["1", "0.5"])


def test_who_may_not_record_is_told_before_anything_is_composed(
    model: str, crumb: Crumb, command: list[str], tmp_path: Path
) -> None:
    (crumb.cwd / "score.py").write_text("open('ran', 'w')\nprint(1)")
    crumb("tune", model, "1", "--record", "bytes", *command, code=1, CRUMB_TOKEN="")
    assert "token" in crumb.errors
    assert not (crumb.cwd / "ran").exists()


def test_without_a_registry_no_evaluation_is_lost(
    model: str, crumb: Crumb, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search is not in vain: its scores are kept, and the same command records them later."""
    arguments = ["tune", model, "2", "--alpha", "0.5", "--budget", "2", "--record", "bytes"]

    def down(*_: object, **__: object) -> None:
        raise errors.Unavailable("It is down.")

    with monkeypatch.context() as patch:
        patch.setattr(Client, "add_evaluation", down)
        crumb(*arguments, *command, code=1)
    found = json.loads(crumb(*arguments, "--json", *command))
    assert [one["kept"] for one in found["tried"]] == [True, True]
    assert found["evaluation"]["dataset"] == "validation"
