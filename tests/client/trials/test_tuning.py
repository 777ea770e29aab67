"""Tuning: the search by itself, and with a command on models composed here."""

import json
import sys
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
    assert found["best"]["setting"] == {"alpha": "0.9", "weights": ["1", "1"]}
    assert found["use"] == "crumb apply base one.safetensors two.safetensors -o merged --alpha 0.9"
    runs = len((tmp_path / "runs").read_text().splitlines())
    assert runs == 8
    again = json.loads(crumb("tune", *files, "--alpha", "0.4", "--budget", "8", "--json", *command))
    assert [one["kept"] for one in again["tried"]] == [True] * 8
    assert (again["best"]["score"], again["use"]) == (found["best"]["score"], found["use"])
    assert len((tmp_path / "runs").read_text().splitlines()) == runs
    crumb("tune", *files, "--alpha", "0.4", "--budget", "3", "--again", "--workers", "2", *command)
    assert len((tmp_path / "runs").read_text().splitlines()) == runs + 3
    text = crumb("tune", *files, "--alpha", "0.4", "--budget", "8", *command)
    assert "the highest of 8" in text and "crumb apply base" in text


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
    assert "not a score" in crumb.errors
