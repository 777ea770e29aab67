"""The parts of the experiments on quality: methods, choices, statistics, data; and all of it once, in small (slow)."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.quality.__main__ import begin, main, only
from benchmarks.quality.experiments.bench import COMBINED, Bench
from benchmarks.quality.experiments.contributions import compose_files
from benchmarks.quality.experiments.counts import choose
from benchmarks.quality.experiments.merging import Setting, Values, add_patches, elect, exact, read_patch, read_weights
from benchmarks.quality.plans import quick
from benchmarks.quality.running import Steps
from benchmarks.quality.statistics import correlation, mean
from benchmarks.quality.worlds.language import Language
from benchmarks.quality.worlds.restoration import DAMAGES, Restoration
from benchmarks.quality.worlds.vision import VIEWS, Vision
from tests.support.makers import SHAPES, fine_tuned, make_checkpoint, make_patch, write_weights
from tests.support.makers import read_weights as read_tensors

ROOT = Path(__file__).parents[2]


def without_integers(folder: Path) -> Path:
    tensors = {name: tensor for name, tensor in read_tensors(folder).items() if tensor.is_floating_point()}
    write_weights(folder, tensors)
    return folder


@pytest.mark.parametrize("method", ["breadcrumbs", "TIES", "mean"])
@pytest.mark.parametrize(("drop_bottom", "drop_top"), [("0.85", "0.007"), ("0.98", "0"), ("0", "0")])
def test_the_experiments_compose_what_the_product_composes(tmp_path, drop_bottom, drop_top, method):
    base = without_integers(make_checkpoint(tmp_path / "base"))
    names = sorted(read_tensors(base))
    starts = dict(
        zip(names, np.cumsum([0, *(read_tensors(base)[name].numel() for name in names)]).tolist(), strict=False)
    )
    start = read_weights(base, names)
    files, patches = [], []
    for seed in (1, 2, 3):
        tuned, file = fine_tuned(base, tmp_path / f"tuned{seed}", seed), tmp_path / f"{seed}.safetensors"
        info = make_patch(base, tuned, file, drop_bottom=drop_bottom, drop_top=drop_top)
        files.append(file)
        patches.append(read_patch(file, info.sha256, starts, len(start)))
    compose_files(base, files, Setting(method, alpha="0.3"), tmp_path / "composed")
    expected = read_weights(tmp_path / "composed", names)
    if method in COMBINED:
        made = (start + exact("0.3") * COMBINED[method](patches, len(start))).astype(np.float32)
    else:
        made = add_patches(start, patches, exact("0.3"))
    assert np.array_equal(made.view(np.uint32), expected.view(np.uint32))
    assert set(SHAPES) <= set(names)


values = arrays(np.float64, (3, 12), elements=st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]))


@given(values)
def test_ties_takes_the_mean_of_what_has_the_heavier_sign(table):
    patches = [Values(str(number), None, row) for number, row in enumerate(table)]
    expected = []
    for column in table.T:
        sign = 1 if sum(column) >= 0 else -1
        same = [value for value in column if value * sign > 0]
        expected.append(float(np.float32(sum(same) / len(same))) if same else 0.0)
    assert elect(patches, 12).tolist() == expected


def test_what_is_chosen_is_best_on_the_counts_that_are_known():
    first, second = Setting("TIES", alpha="0.3"), Setting("TIES", alpha="1")
    scores = {2: {first: 0.5, second: 0.9}, 4: {first: 0.8, second: 0.3}, 8: {first: 0.0, second: 1.0}}
    assert choose([first, second], scores, [2, 4]) == first
    assert choose([first, second], scores, [2, 3]) == second


def test_an_interval_is_students():
    centre, half = mean([1.0, 2.0, 3.0])
    assert centre == 2.0
    assert half == pytest.approx(4.302652729911275 / math.sqrt(3))
    assert mean([5.0]) == (5.0, 0.0)


def test_a_rank_correlation_sees_order_and_not_size():
    tasks = [f"{number}" for number in range(8)]
    pairs = [
        {"first": one, "second": two, "cosine": int(one) + int(two), "loss": math.exp(int(one) + int(two)), "iou": 1.0}
        for one in tasks
        for two in tasks
        if one < two
    ]
    rank, low, high = correlation([pairs, pairs], "cosine", "loss")
    assert rank == pytest.approx(1)
    assert low == pytest.approx(1)
    assert high == pytest.approx(1)
    noise = np.random.default_rng(0).normal(size=len(pairs))
    rank, low, high = correlation(
        [[pair | {"loss": x} for pair, x in zip(pairs, noise, strict=True)]], "cosine", "loss"
    )
    assert low < rank < high
    assert low < 0 < high


def test_a_step_that_is_done_is_not_done_again(tmp_path):
    steps, done = Steps(tmp_path, Vision(), 0), []
    assert steps.run("one", lambda: done.append(1) or {"a": 1}) == {"a": 1}
    assert Steps(tmp_path, Vision(), 0).run("one", lambda: done.append(2)) == {"a": 1}
    assert done == [1]
    with pytest.raises(ZeroDivisionError):
        steps.run("two", lambda: 1 / 0)
    assert sorted(path.name for path in steps.folder.iterdir()) == ["one.json"]


def rows(batch):
    return {row.numpy().tobytes() for row in batch.x}


@pytest.mark.parametrize(
    "kind", [Vision(), pytest.param(Language(), marks=pytest.mark.slow), Restoration()], ids=lambda kind: kind.name
)
def test_no_example_is_in_two_parts_and_a_seed_cuts_anew(kind):
    world, again, other = kind.world(0), kind.world(0), kind.world(1)
    for task in (*kind.tasks, *kind.held_out):
        parts = world.parts[task]
        for part in ("tune", "validation", "test"):
            batch = getattr(parts, part)
            assert len(batch) == len(batch.y) > 0
            assert batch.x.isfinite().all()
            assert torch.equal(batch.x, getattr(again.parts[task], part).x)
        assert not torch.equal(parts.test.x, other.parts[task].test.x)
    first = world.parts[kind.tasks[0]]
    repeated = len(rows(first.tune) & rows(first.test))  # licences, say, repeat themselves
    assert repeated <= 0.1 * len(first.test)
    assert not set(kind.tasks) & set(kind.held_out)
    draw = [world.mixture(torch.Generator().manual_seed(3)).x for _ in range(2)]
    assert torch.equal(*draw)


def test_views_and_damages_keep_shapes_and_differ():
    images = torch.rand(5, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = {name: view(images) for name, view in VIEWS.items()}
    assert all(found.shape == images.shape and 0 <= found.min() <= found.max() <= 1 for found in seen.values())
    pieces = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    damaged = {name: damage(pieces) for name, damage in DAMAGES.items()}
    assert all(found.shape == pieces.shape for found in damaged.values())
    for results, given_ in ((seen, images), (damaged, pieces)):
        assert len({found.contiguous().numpy().tobytes() for found in (*results.values(), given_)}) == len(results) + 1


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_little_of_everything_from_data_to_report(tmp_path):
    command = [sys.executable, "-m", "benchmarks.quality", "--quick", "--work", str(tmp_path)]
    plan = only(quick(), ["language", "vision", "restoration"])  # the real base needs a network
    kinds = [kind.name for kind in plan.kinds]
    subprocess.run([*command, "--kinds", *kinds], cwd=ROOT, check=True, capture_output=True, timeout=1000)
    first = json.loads((tmp_path / "results.json").read_text())
    assert [world["kind"] for world in first["worlds"]] == [kind.name for kind in plan.kinds]
    for world in first["worlds"]:
        assert all(found["same"] for found in world["compositions"])
        assert len(world["pairs"]) == 2 * 3
    report = (tmp_path / "README.md").read_text()
    for figure in ("counts", "grid", "sizes", "pairs"):
        assert f"figures/{figure}.svg" in report
        assert (tmp_path / "figures" / f"{figure}.svg").stat().st_size > 1000

    kind = plan.kinds[1]
    bench = Bench(kind, 0, tmp_path / f"{kind.name}-0")
    both = Setting("breadcrumbs", "0.85", "0.007", "0.3")
    random = Setting("breadcrumbs", "0.85", "0.007", "0.3", random=1)
    for kept, drawn in zip(bench.of_tasks(both, kind.tasks), bench.of_tasks(random, kind.tasks), strict=True):
        assert len(kept.values) == len(drawn.values)
        assert not np.array_equal(kept.places, drawn.places)
    assert bench.evaluate(Setting("task arithmetic", alpha="1"), kind.tasks[:1], "test") == pytest.approx(1, abs=0.02)
    settings = [
        both,
        both.at("1"),
        random,
        Setting("averaging"),
        *(Setting("TIES", "0.8", "0", a) for a in ("0.3", "1")),
    ]
    for _ in range(2):  # what was scored is kept
        for setting, tasks, part in product(settings, (kind.tasks, kind.tasks[1::-1]), ("validation", "test")):
            anew = bench.normalised(bench.merge(setting, tasks), tasks, part)
            assert bench.evaluate(setting, tasks, part) == pytest.approx(anew, rel=1e-12)
            assert bench.evaluate(setting, tasks[::-1], part) == bench.evaluate(setting, tasks, part)

    trained = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}
    last = plan.kinds[-1].name  # what is there of the others stays in the results
    (tmp_path / f"{last}-0" / "pairs.json").unlink()
    subprocess.run([*command, "--kinds", last], cwd=ROOT, check=True, capture_output=True, timeout=1000)
    again = json.loads((tmp_path / "results.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")} == trained
    assert [world["pairs"] for world in again["worlds"]] == [world["pairs"] for world in first["worlds"]]
    assert again["hours"] > first["hours"]


def test_kinds_run_one_after_the_other_and_plans_do_not_mix(tmp_path):
    plan = quick()
    begin(only(plan, ["vision"]), tmp_path)
    begin(only(plan, ["minilm", "vision"]), tmp_path)
    with pytest.raises(SystemExit, match="models of another plan"):
        begin(replace(plan, few=(1,)), tmp_path)
    changed = replace(plan, kinds=[replace(kind, tune_steps=11) for kind in plan.kinds])
    with pytest.raises(SystemExit, match="models of another plan"):
        begin(only(changed, ["vision"]), tmp_path)
    begin(only(changed, ["language"]), tmp_path)
    with pytest.raises(SystemExit, match="sound is not a kind"):
        only(plan, ["sound"])


def test_models_of_another_plan_are_not_mixed_in(tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(SystemExit, match="holds models of another plan"):
        main(["--quick", "--work", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
