"""The sampler of tuning: layers from names, and Optuna where it is installed."""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from client.trials.sampling import layers_of, sample
from client.trials.searching import Search, Setting
from registry.errors import InvalidRequest
from tests.client.trials.test_tuning import SUM, scored
from tests.support import makers
from tests.support.visitors import Crumb

START = Setting("0.3", ("1", "0.77"))
GLOBS = [["layers.0.*", "layers.1.*"], ["layers.0.*"]]
NONE: list[list[str]] = [[], []]


def test_a_layer_ends_with_the_first_number_of_a_name() -> None:
    names = ["model.layers.10.mlp.experts.3.w", "model.layers.9.norm", "h.0.x", "lm_head.weight", "layers.0", "v2.a"]
    assert layers_of(names) == ["h.0.*", "model.layers.9.*", "model.layers.10.*"]


def near(setting: Setting) -> float | None:
    """The highest at alpha 0.6, weights 1.5 and 0.3, factors 0.5; overflows above 1.2."""
    if float(setting.alpha) > 1.2:
        return None
    targets = [(setting.alpha, 0.6), *zip(setting.weights, (1.5, 0.3), strict=True)]
    factors = [(by, 0.5) for pairs in setting.where for _, by in pairs]
    return -sum((float(value) - target) ** 2 for value, target in (*targets, *factors))


def sampled(globs: Sequence[Sequence[str]], workers: int = 1, budget: int = 40, start: Setting = START) -> Search:
    pytest.importorskip("optuna")
    search = Search(start, scored(near), budget)
    sample(search, globs, workers)
    return search


@pytest.mark.parametrize("globs", [[], GLOBS])
@pytest.mark.parametrize("workers", [1, 3])
def test_it_starts_at_the_start_is_the_same_each_time_and_finds_better(globs: list[list[str]], workers: int) -> None:
    search = sampled(globs or NONE, workers)
    assert search.tried[0].setting == START
    assert len(search.tried) == len({one.setting for one in search.tried}) == 40
    assert search.tried == sampled(globs or NONE, workers).tried
    assert (search.best().score or 0) > (near(START) or 0) / 2
    assert any(one.score is None for one in search.tried) or globs
    chosen = {glob for one in search.tried for pairs in one.setting.where for glob, _ in pairs}
    assert chosen == {glob for part in globs for glob in part}
    assert all(0.3 / 7.6 <= float(one.setting.alpha) <= 0.3 * 7.6 for one in search.tried)


def test_any_start_will_do() -> None:
    for start in (Setting("-0.7", ("-1.5", "3")), Setting("0.3", ("1",)), Setting("12", ("0", "0.001"))):
        search = Search(start, scored(lambda setting: float(setting.alpha)), 12)
        pytest.importorskip("optuna")
        sample(search, [[] for _ in start.weights], 1)
        assert search.tried[0].setting == start
        assert all(one.setting.alpha.startswith("-") == start.alpha.startswith("-") for one in search.tried)


@pytest.mark.parametrize("lowest", [False, True])
def test_it_goes_where_the_score_is_best_and_no_model_is_without_patches(lowest: bool) -> None:
    pytest.importorskip("optuna")
    sign = 1 if lowest else -1
    search = Search(Setting("0.3", ("1",)), scored(lambda one: sign * float(one.weights[0])), 40, lowest)
    assert 0 < float(sample(search, [[]], 1).setting.weights[0]) <= 0.1
    assert all(one.setting.weights != ("0",) for one in search.tried)


def test_a_score_that_never_comes_ends_the_search() -> None:
    pytest.importorskip("optuna")
    search = Search(START, scored(lambda _: None), 8)
    with pytest.raises(InvalidRequest, match="overflows"):
        sample(search, NONE, 1)
    assert len(search.tried) == 8


def test_patches_are_tuned_by_layer_and_the_command_it_ends_with_makes_the_model(tmp_path: Path, crumb: Crumb) -> None:
    pytest.importorskip("optuna")
    base = makers.make_checkpoint(tmp_path / "base")
    for seed, name in enumerate(("one", "two"), 1):
        makers.make_patch(
            base, makers.fine_tuned(base, tmp_path / f"tuned-{name}", seed), tmp_path / f"{name}.safetensors"
        )
    (tmp_path / "score.py").write_text(SUM + "print(total(sys.argv[-1]))\n")
    arguments = ["tune", "base", "one.safetensors", "two.safetensors:0.5", "--sampler", "optuna", "--by-layer"]
    arguments += ["--where", "embed*", "--budget", "6", "--workers", "2"]
    command = ["--", sys.executable, "score.py"]
    found = json.loads(crumb(*arguments, "--json", *command))
    assert [one["phase"] for one in found["tried"]] == ["sample"] * 6
    globs = {glob for one in found["tried"] for pairs in one["setting"]["where"] for glob, _ in pairs}
    assert globs == {"embed*", "layers.0.*", "layers.1.*"}
    assert found["best"]["score"] == max(one["score"] for one in found["tried"])
    crumb(*shlex.split(found["use"])[1:])
    assert found["best"]["recipe"] in (tmp_path / "merged" / "README.md").read_text()
    again = json.loads(crumb(*arguments, "--json", *command))
    assert all(one["kept"] for one in again["tried"])
    assert json.dumps(again["best"]["setting"]) == json.dumps(found["best"]["setting"])
    crumb(*arguments, "--where", "nowhere*", *command, code=1)
    assert "No patch changes a tensor that matches 'nowhere*'" in crumb.errors
