"""Tuning a model in memory: loaded once, and to the same scores as folders give."""

import json
from pathlib import Path

import pytest

from client.live.in_place import read_functions
from client.trials import tuning
from registry.errors import InvalidRequest
from tests.support import makers
from tests.support.live_makers import load, make_llama
from tests.support.visitors import Crumb, Registry

SCORE = """\
import torch
from transformers import AutoModelForCausalLM

def load(folder):
    with open("loads", "a") as file:
        print(folder, file=file)
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")

@torch.no_grad()
def score(model):
    with open("scores", "a") as file:
        print(".", file=file)
    return float(model(torch.tensor([[1, 2, 3]])).logits.float().abs().sum())
"""


@pytest.fixture
def files(crumb: Crumb) -> list[str]:
    """A base and two patches, the second of which overflows at a large alpha."""
    base = make_llama(crumb.cwd / "base")
    for seed, scale in ((1, 0.01), (2, 0.02)):
        tuned = makers.fine_tuned(base, crumb.cwd / f"tuned-{seed}", seed, scale)
        makers.make_patch(base, tuned, crumb.cwd / f"{seed}.safetensors")
    (crumb.cwd / "score.py").write_text(SCORE)
    return ["base", "1.safetensors", "2.safetensors"]


def lines(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_scores_are_those_of_folders_and_the_model_is_loaded_once(
    crumb: Crumb, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(crumb.cwd)
    options = ["--alpha", "0.5", "--budget", "6", "--in-place", "score.py"]
    found = crumb.json("tune", *files, *options)
    assert lines(crumb.cwd / "loads") == 1
    assert lines(crumb.cwd / "scores") == len(found["tried"]) == 6
    assert len({one["score"] for one in found["tried"]}) == 6

    def by_folder(folder: Path) -> float:
        return read_functions(crumb.cwd / "score.py").score(load(folder))

    names = [(crumb.cwd / name, "1") for name in files[1:]]
    how = tuning.How(score=by_folder, alpha="0.5", budget=6)
    expected = tuning.tune_files(crumb.cwd / "base", names, how)
    assert [(one.recipe, one.score) for one in expected.tried] == [(it["recipe"], it["score"]) for it in found["tried"]]

    again = crumb.json("tune", *files, *options)
    assert all(one["kept"] for one in again["tried"]) and lines(crumb.cwd / "loads") == 1
    (crumb.cwd / "score.py").write_text(SCORE + "\n")  # another file, whose scores are its own
    crumb("tune", *files, *options)
    assert lines(crumb.cwd / "loads") == 2


def test_what_does_not_go_together_is_refused(crumb: Crumb, files: list[str]) -> None:
    crumb("tune", *files, "--in-place", "score.py", "--", "true", code=1)
    assert "not by both" in crumb.errors
    crumb("tune", *files, "--in-place", "score.py", "--workers", "2", code=1)
    assert "one model in memory is scored at a time" in crumb.errors.lower()
    crumb("tune", *files, "--in-place", "none.py", code=1)
    assert "There is no file none.py" in crumb.errors
    (crumb.cwd / "half.py").write_text("def load(folder): ...\n")
    with pytest.raises(InvalidRequest, match="does not define score"):
        read_functions(crumb.cwd / "half.py")


def test_the_best_of_a_registry_is_recorded_with_the_file_that_scored_it(
    here: Registry, crumb: Crumb, files: list[str]
) -> None:
    from client.actions.models import create
    from client.actions.push import push

    name = "ana/in-place"
    with here.client() as session:
        create(session, name, crumb.cwd / "base")
        for file in files[1:]:
            push(session, crumb.cwd / file, name, file)
    options = ["--alpha", "0.5", "--budget", "3", "--in-place", "score.py", "--record", "logits"]
    found = json.loads(crumb("tune", name, "1", "2", *options, "--json"))
    assert found["evaluation"]["value"] == found["best"]["score"]
    assert "score.py" in found["evaluation"]["command"]
