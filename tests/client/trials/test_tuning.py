"""Tuning: the search by itself, and with a command on models composed here."""

import hashlib
import json
import os
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.trials import tuning
from client.trials.searching import Phase, Search, Setting, Tried
from registry.errors import InvalidRequest
from tests.support import makers
from tests.support.visitors import Crumb

SUM = """\
import json, pathlib, sys
def total(folder):
    found = 0.0
    for file in pathlib.Path(folder).glob("*.safetensors"):
        data = file.read_bytes()
        size = int.from_bytes(data[:8], "little")
        table = json.loads(data[8 : 8 + size])
        import struct
        for name, entry in table.items():
            if name != "__metadata__" and entry["dtype"] == "F32":
                start, stop = entry["data_offsets"]
                found += sum(abs(n) for n in struct.unpack(f"<{(stop - start) // 4}f", data[8 + size :][start:stop]))
    return found
open("runs", "a").write(sys.argv[-1] + "\\n")
"""


def scored(score: Callable[[Setting], float | None]) -> Callable[[Phase, Sequence[Setting]], list[Tried]]:
    return lambda phase, settings: [Tried(phase, setting, str(setting), score(setting)) for setting in settings]


@given(st.integers(-7, 7), st.sampled_from([1, -1]))
def test_alpha_goes_on_while_the_edge_wins(best: int, sign: int) -> None:
    search = Search(Setting("1", ("1",)), lambda *_: [], budget=40, lowest=sign < 0)
    wanted = float(search.at(best).alpha)
    search.score = scored(lambda setting: -sign * abs(float(setting.alpha) - wanted))
    search.tune_alpha()
    assert float(search.best().setting.alpha) == wanted
    assert len(search.tried) == len({one.setting for one in search.tried}) == 3 + abs(best)


def test_weights_are_tuned_patch_by_patch_with_the_best_of_what_came_before() -> None:
    target = {"alpha": 1.5, "weights": (2.0, 0.0, 0.5)}

    def score(setting: Setting) -> float:
        off = sum(abs(float(w) - t) for w, t in zip(setting.weights, target["weights"], strict=True))  # type: ignore[call-overload]
        return -abs(float(setting.alpha) - 1.5) - off

    found = Search(Setting("1", ("1", "1", "1")), scored(score)).run()
    assert (found.setting, found.phase) == (Setting("1.5", ("2", "0", "0.5")), "weights")


def test_a_budget_is_kept_and_of_equal_scores_the_first_stays() -> None:
    search = Search(Setting("0.3", ("1", "1")), scored(lambda _: 0.5), budget=5)
    assert search.run().setting == Setting("0.3", ("1", "1"))
    assert [one.phase for one in search.tried] == ["alpha"] * 3 + ["weights"] * 2


def test_what_overflows_has_no_score_and_all_of_it_is_an_error() -> None:
    search = Search(Setting("1", ("1",)), scored(lambda one: None if float(one.alpha) > 1 else float(one.alpha)))
    assert search.run().setting.alpha == "1"
    with pytest.raises(InvalidRequest, match="overflows"):
        Search(Setting("1", ("1",)), scored(lambda _: None)).run()


def test_no_setting_leaves_every_patch_out() -> None:
    search = Search(Setting("1", ("1",)), scored(lambda one: -float(one.weights[0])))
    search.run()
    assert all(one.setting.weights != ("0",) for one in search.tried)


@pytest.fixture
def files(tmp_path: Path, crumb: Crumb) -> list[str]:
    """A base and two patches of it; `score.py` tells how near a model's sums are to those at alpha 0.9."""
    base = makers.make_checkpoint(tmp_path / "base")
    for seed, name in enumerate(("one", "two"), 1):
        tuned = makers.fine_tuned(base, tmp_path / f"tuned-{name}", seed)
        makers.make_patch(base, tuned, tmp_path / f"{name}.safetensors")
    patches = ["one.safetensors", "two.safetensors"]
    crumb("apply", "base", *patches, "-o", "target", "--alpha", "0.9")
    (tmp_path / "score.py").write_text(SUM + "print(-abs(total(sys.argv[-1]) - total('target')))\n")
    return ["base", *patches]


def test_files_are_tuned_and_the_command_it_ends_with_makes_the_model(
    tmp_path: Path, crumb: Crumb, files: list[str]
) -> None:
    command = ["--", sys.executable, "score.py"]
    found = json.loads(crumb("tune", *files, "--alpha", "0.4", "--budget", "8", "--json", *command))
    ladder = [one["setting"]["alpha"] for one in found["tried"] if one["phase"] == "alpha"]
    assert ladder == ["0.4", "0.6", "0.267", "0.9", "1.35"]
    assert len(found["tried"]) == 8
    assert found["best"]["setting"] == {"alpha": "0.9", "weights": ["1", "1"], "where": []}
    assert (found["scored"], found["evaluation"]) == (8, None)
    assert found["use"] == "crumb apply base one.safetensors two.safetensors -o merged --alpha 0.9"
    runs = len((tmp_path / "runs").read_text().splitlines())
    assert runs == 8
    again = json.loads(crumb("tune", *files, "--alpha", "0.4", "--budget", "8", "--json", *command))
    assert [one["kept"] for one in again["tried"]] == [True] * 8
    assert (again["best"]["score"], again["use"]) == (found["best"]["score"], found["use"])
    assert len((tmp_path / "runs").read_text().splitlines()) == runs
    crumb("tune", *files, "--alpha", "0.4", "--budget", "3", "--again", "--workers", "2", *command)
    assert len((tmp_path / "runs").read_text().splitlines()) == runs + 3
    text = crumb("tune", *files, "--alpha", "0.4", "--budget", "8", "--plot", "scores.svg", *command)
    assert "the highest of 8" in text and "crumb apply base" in text and "one.safetensors: 1\n" in text
    assert text.count("*") == 2  # the legend and the best
    assert "scores.svg" in text
    picture = ET.parse(tmp_path / "scores.svg")
    said = [title.text or "" for title in picture.iterfind(".//{*}circle/{*}title")]
    assert len(said) == 8
    assert said[-1].startswith("alpha 0.9, weights 1 1: ")


def test_the_search_starts_where_the_sizes_of_the_patches_put_alpha(crumb: Crumb, files: list[str]) -> None:
    crumb("apply", *files, "-o", "auto")
    found = json.loads(crumb("tune", *files, "--budget", "1", "--json", "--", sys.executable, "score.py"))
    assert found["best"]["recipe"] in Path(crumb.cwd / "auto" / "README.md").read_text()


def test_a_function_scores_in_place_of_a_command_and_its_scores_are_not_kept(tmp_path: Path, files: list[str]) -> None:
    runs: list[Path] = []

    def score(model: Path) -> float:
        runs.append(model)
        assert (model / "config.json").is_file()
        return float(len(runs) == 2)

    base, *patches = files
    weighed = [(tmp_path / patch, "1") for patch in patches]
    how = tuning.How(score, alpha="0.4", budget=3)
    tuned = tuning.tune_files(tmp_path / base, weighed, how)
    assert tuned.best == tuned.tried[1] and tuned.best.setting.alpha == "0.6"
    again = tuning.tune_files(tmp_path / base, weighed, how)
    assert len(runs) == 6 and not any(one.kept for one in again.tried)


def test_what_cannot_be_tuned_is_one_sentence(crumb: Crumb, files: list[str]) -> None:
    crumb("tune", *files, code=1)
    assert "No command is given" in crumb.errors
    crumb("tune", "base", "--", "true", code=1)
    assert "no patches to tune" in crumb.errors
    crumb("tune", *files, "--alpha", "0", "--", sys.executable, "score.py", code=1)
    assert "alpha 0" in crumb.errors
    crumb("tune", *files, "--", sys.executable, "-c", "print('none')", code=1)
    assert (
        "On the model (alpha 0.3, weights 1 1) the command's last line is 'none', which is not a score" in crumb.errors
    )
    crumb("tune", *files, "--method", "most", "--", sys.executable, "score.py", code=1)
    assert "'most' is not a method" in crumb.errors
    crumb("tune", "base", "one.safetensors:-1", "--method", "ties", "--", sys.executable, "score.py", code=1)
    assert "takes weights above 0" in crumb.errors
    crumb("tune", *files, "--by-layer", "--", sys.executable, "score.py", code=1)
    assert "--sampler optuna" in crumb.errors
    crumb("tune", *files, "--sampler", "grid", "--", sys.executable, "score.py", code=1)
    assert "'grid' is not a sampler" in crumb.errors
    crumb("tune", *files, "--plot", "nowhere/scores.svg", "--", "false", code=1)
    assert "the folder nowhere does not exist" in crumb.errors
    crumb("tune", *files, "--record", "math", "--", sys.executable, "score.py", code=1)
    assert "cannot be recorded" in crumb.errors


@pytest.mark.parametrize("method", ["sum", "ties"])
def test_every_model_that_is_scored_is_that_of_its_setting(
    tmp_path: Path, crumb: Crumb, files: list[str], method: str
) -> None:
    digest = "import hashlib, pathlib, sys\nopen('runs', 'a').write(sys.argv[-1] + '\\n')\n"
    digest += "sha256 = hashlib.sha256((pathlib.Path(sys.argv[-1]) / 'model.safetensors').read_bytes()).hexdigest()\n"
    (tmp_path / "digest.py").write_text(digest + "print(int(sha256[:12], 16))\n")
    options = ["--method", method, "--workers", "2", "--json", "--", sys.executable, "digest.py"]
    found = json.loads(crumb("tune", *files, "--alpha", "0.4", "--budget", "9", *options))
    for place, one in enumerate(found["tried"]):
        weighed = zip(files[1:], one["setting"]["weights"], strict=True)
        chosen = [f"{name}:{weight}" for name, weight in weighed if weight != "0"]
        where = tmp_path / f"fresh-{place}"
        crumb("apply", "base", *chosen, "-o", where, "--alpha", one["setting"]["alpha"], "--method", method)
        sha256 = hashlib.sha256((where / "model.safetensors").read_bytes()).hexdigest()
        assert one["score"] == int(sha256[:12], 16)
    folders = [Path(line) for line in (tmp_path / "runs").read_text().splitlines()]
    assert {folder.name for folder in folders} == {one["recipe"][:12] for one in found["tried"]}
    assert len({folder.parent for folder in folders}) <= 2
    assert not any(folder.parent.exists() for folder in folders)


def test_a_command_that_fails_ends_those_beside_it_and_what_was_scored_is_kept(
    tmp_path: Path, crumb: Crumb, files: list[str]
) -> None:
    """The first model is scored, the second one's command never ends by itself, and the third one's fails."""
    waits = """\
import os, pathlib, sys, time
open("runs", "a").write(sys.argv[-1] + "\\n")
place = len(open("runs").read().splitlines())
if place == 2:
    pathlib.Path("pid").write_text(str(os.getpid()))
    time.sleep(600)
while place == 3 and not (pathlib.Path("pid").exists() and pathlib.Path("pid").read_text()):
    time.sleep(0.01)
sys.exit(7 if place == 3 else print(0.5))
"""
    (tmp_path / "waits.py").write_text(waits)
    command = ["--", sys.executable, "waits.py"]
    assert "0.4" in crumb("tune", *files, "--alpha", "0.4", "--budget", "1", *command)
    crumb("tune", *files, "--alpha", "0.4", "--budget", "3", "--workers", "2", *command, code=1)
    assert "exit code 7" in crumb.errors and "alpha 0.4, weights 1 1: 0.5 (kept)" in crumb.errors
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    again = json.loads(crumb("tune", *files, "--alpha", "0.4", "--budget", "3", "--json", *command))
    assert [one["kept"] for one in again["tried"]] == [True, False, False]
