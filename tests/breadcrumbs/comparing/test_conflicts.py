"""What patches do to the same weights: against the definition, by every engine."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.breadcrumbs.comparing import torch_engine
from registry.breadcrumbs.comparing.conflicts import Sums, analyse, total
from registry.breadcrumbs.comparing.cuda_engine import CudaEngine
from registry.breadcrumbs.comparing.engines import CpuConflictEngine
from registry.breadcrumbs.comparing.torch_engine import TorchEngine
from registry.breadcrumbs.composing.gpu.tensor_arena import TensorArena
from registry.breadcrumbs.kernels.devices import MIN_GPU_BYTES
from tests.support.conflict_makers import (
    ENGINES,
    KINDS,
    NUMBERS,
    assert_close,
    compare,
    dense,
    every_pair,
    opened,
    slow_sums,
    write_patches,
)
from tests.support.host_lanes import DEVICE
from tests.support.makers import SHAPES, fine_tuned, make_checkpoint, make_patch

RATIOS = (
    "iou", "lift", "sign_conflict", "sign_conflict_mass", "cosine", "overlap_cosine", "cancellation", "norm_ratio",
)  # fmt: skip
EVERY_ENGINE = pytest.mark.parametrize("engine", ENGINES)


@pytest.fixture(autouse=True)
def launched_on_lanes(request):
    """Have the kernels of CUDA run on the CPU, in the tests that use them."""
    if "cuda" in request.node.name:
        request.getfixturevalue("lanes")


def scattered(random, size, density, values=None):
    """Return places, one at least, and values for them."""
    places = np.flatnonzero(random.random(size) < density)
    places = places if len(places) else random.integers(0, size, 1)
    return places.tolist(), (random.standard_normal(len(places)) if values is None else values(len(places))).tolist()


def write_pair(folder, first, second, size=200, **options):
    """Write two patches of one tensor; return their paths and their sums."""
    paths = write_patches(folder, {"w": size}, [{"w": first}, {"w": second}], **options)
    return paths, compare(paths).pairs[every_pair(paths)[0]]["w"]


# Against the definition


@EVERY_ENGINE
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_sums_are_those_of_the_definition(engine, data, tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("any"), np.random.default_rng(data.draw(st.integers(0, 2**32)))
    dtype = data.draw(st.sampled_from(list(KINDS)))
    value_dtypes = data.draw(st.lists(st.sampled_from(["auto", "BF16", "F16", "F32"]), min_size=1, max_size=3))
    sizes = {name: data.draw(st.integers(1, 700)) for name in "uvw"}
    odd = data.draw(st.booleans())  # zeros, subnormals, and what is large

    def values(count):
        drawn = random.standard_normal(count)
        return drawn * 10.0 ** random.integers(-7, 5, count) * (random.random(count) < 0.8) if odd else drawn

    changes = []
    for _ in range(data.draw(st.integers(2, 5))):
        named = data.draw(st.sets(st.sampled_from("uvw"), min_size=1))
        density = data.draw(st.sampled_from([0.01, 0.14, 0.6, 1.0]))
        changes.append({name: scattered(random, sizes[name], density, values) for name in sorted(named)})
    paths = write_patches(folder, sizes, changes, dtype, value_dtypes)
    found = compare(paths, engine=engine, step=data.draw(st.sampled_from([None, 64])))
    known = {name: dense(path, sizes) for name, path in paths.items()}
    touched = {name: {key for key, change in zip(paths, changes, strict=True) if name in change} for name in sizes}
    for pair in every_pair(paths):
        assert list(found.pairs[pair]) == [name for name in sizes if touched[name] & set(pair)]
        for name, sums in found.pairs[pair].items():
            assert_close(sums, slow_sums(known[pair[0]][name], known[pair[1]][name]))
    for name in sizes:
        depth = sum(known[key][name][0].astype(int) for key in paths)
        due = tuple(np.bincount(depth, minlength=len(paths) + 1).tolist())
        assert found.census.get(name, due) == due
        assert (name in found.census) == bool(touched[name])


@EVERY_ENGINE
@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("dtype", KINDS)
def test_patches_made_by_diff_are_compared_as_they_are_written(engine, granularity, dtype, tmp_path):
    base, paths = make_checkpoint(tmp_path / "base", dtypes=[KINDS[dtype]]), {}
    for number, drop in enumerate(["0.5", "0.85", "0.98"]):
        tuned = fine_tuned(base, tmp_path / f"tuned{number}", seed=number + 1)
        path = tmp_path / f"{number}.safetensors"
        make_patch(base, tuned, path, drop_bottom=drop, granularity=granularity)
        paths[str(number)] = path
    sizes = {**{name: math.prod(shape) for name, shape in SHAPES.items()}, "lm_head.weight": 640}
    found, known = compare(paths, engine=engine), {name: dense(path, sizes) for name, path in paths.items()}
    for pair, tensors in found.pairs.items():
        assert {"scale", "embed.weight", "layers.1.conv.weight"} <= set(tensors)
        for name, sums in tensors.items():
            assert_close(sums, slow_sums(known[pair[0]][name], known[pair[1]][name]))
    assert all(sum(counts) == sizes[name] for name, counts in found.census.items())


@EVERY_ENGINE
def test_sixty_four_patches_and_all_their_pairs(engine, tmp_path):
    random, sizes = np.random.default_rng(5), {"w": 130}
    paths = write_patches(tmp_path, sizes, [{"w": scattered(random, 130, 0.3)} for _ in range(64)], "BF16")
    found, known = compare(paths, engine=engine), [dense(path, sizes)["w"] for path in paths.values()]
    assert len(found.pairs) == 2016
    for one, two in itertools.combinations(range(64), 2):
        assert_close(found.pairs[f"{one:064x}", f"{two:064x}"]["w"], slow_sums(known[one], known[two]))
    depth = sum(mask.astype(int) for mask, _ in known)
    assert found.census == {"w": tuple(np.bincount(depth, minlength=65).tolist())}


# What is known of some pairs


def test_a_patch_and_itself_are_one(tmp_path):
    change = scattered(np.random.default_rng(1), 200, 0.2)
    _, sums = write_pair(tmp_path, change, change)
    assert (sums.iou, sums.sign_conflict, sums.sign_conflict_mass, sums.cancellation) == (1, 0, 0, 0)
    assert sums.cosine == pytest.approx(1, abs=1e-15)
    assert sums.overlap_cosine == pytest.approx(1, abs=1e-15)
    assert sums.norm_ratio == 1
    assert sums.lift == 200 / len(change[0])


def test_a_patch_and_its_opposite_cancel(tmp_path):
    places, values = scattered(np.random.default_rng(2), 200, 0.2)
    _, sums = write_pair(tmp_path, (places, values), (places, [-value for value in values]))
    assert (sums.iou, sums.sign_conflict, sums.sign_conflict_mass) == (1, 1, 1)
    assert sums.cosine == pytest.approx(-1, abs=1e-15)
    assert sums.cosine >= -1
    assert sums.cancellation == pytest.approx(1, abs=1e-15)
    assert sums.cancellation <= 1
    assert sums.abs_sum >= 0


def test_patches_that_do_not_meet_have_no_ratio_where_they_would_meet(tmp_path):
    _, sums = write_pair(tmp_path, (range(0, 50), [1.0] * 50), (range(50, 80), [-2.0] * 30))
    assert (sums.union, sums.overlap, sums.iou, sums.lift, sums.cosine, sums.cancellation) == (80, 0, 0, 0, 0, 0)
    assert (sums.sign_conflict, sums.sign_conflict_mass, sums.overlap_cosine) == (None, None, None)
    assert sums.norm_ratio == pytest.approx(math.sqrt(50 / 120))


def test_a_value_that_is_zero_is_touched_and_has_no_sign(tmp_path):
    _, sums = write_pair(tmp_path, ([3, 4, 5], [0.0, -0.0, 1.0]), ([3, 4, 5], [-1.0, 1.0, -3.0]))
    assert (sums.overlap, sums.opposed, sums.opposed_mass, sums.overlap_mass) == (3, 1, 1.0, 1.0)
    assert sums.second_overlap_squares == 11
    assert sums.cancellation == pytest.approx(2 / 6)
    nothing, _ = write_pair(tmp_path, ([7], [0.0]), ([7], [-0.0]))
    zero = compare(nothing).pairs[every_pair(nothing)[0]]["w"]
    assert [getattr(zero, name) for name in RATIOS[2:]] == [0, None, None, None, None, None]


def test_nothing_at_all_has_no_ratio():
    assert [getattr(total([]), name) for name in RATIOS] == [None] * len(RATIOS)
    assert total([]) == Sums()


def test_rounding_never_leaves_what_a_ratio_can_be():
    assert Sums(first_l1=1.0, second_l1=1.0, abs_sum=2.0000000000000004).cancellation == 0
    assert Sums(dot=-2.0, first_squares=3.9999999999999996, second_squares=1.0).cosine == -1


@EVERY_ENGINE
@pytest.mark.parametrize("extreme", [torch.finfo(torch.float32).max, 2.0**-149])
def test_the_largest_and_smallest_values_stay_finite(engine, extreme, tmp_path):
    places = list(range(1000))
    signs = [(-1) ** (place // 3) * extreme for place in places]
    paths = write_patches(tmp_path, {"w": 1000}, [{"w": (places, [extreme] * 1000)}, {"w": (places, signs)}])
    sums = compare(paths, engine=engine).pairs[every_pair(paths)[0]]["w"]
    assert all(math.isfinite(getattr(sums, name)) for name in (*NUMBERS, *RATIOS))
    assert (sums.opposed, sums.norm_ratio) == (499, 1)
    assert sums.cosine == pytest.approx(2 / 1000)


# Laws


def random_paths(folder, patches=4, sizes=None, seed=3, density=0.2):
    random, sizes = np.random.default_rng(seed), sizes or {"u": 70, "v": 999, "w": 5000}
    changes = [{name: scattered(random, size, density) for name, size in sizes.items()} for _ in range(patches)]
    return write_patches(folder, sizes, changes, "F32", ["F32", "BF16", "F16"])


def test_sums_of_tensors_add_up_to_those_of_the_model(tmp_path):
    paths = random_paths(tmp_path, 2)
    sizes = {"u": 70, "v": 999, "w": 5000}
    tensors = compare(paths).pairs[every_pair(paths)[0]]
    masks, values = (
        [np.concatenate([dense(path, sizes)[name][part] for name in sizes]) for path in paths.values()]
        for part in range(2)
    )
    whole = replace(
        slow_sums((masks[0], values[0]), (masks[1], values[1])),
        expected=math.fsum(sums.first * sums.second / sums.numel for sums in tensors.values()),
    )
    assert_close(total(tensors.values()), whole)
    assert_close(tensors["u"] + tensors["v"] + tensors["w"], whole)


@EVERY_ENGINE
def test_who_is_first_only_swaps_the_sides(engine, tmp_path):
    paths = random_paths(tmp_path, 2)
    one, two = paths
    found = compare(paths, [(one, two), (two, one)], engine)
    for name, sums in found.pairs[two, one].items():
        sides = {key: key.replace("first", "#").replace("second", "first").replace("#", "second") for key in NUMBERS}
        mirrored = Sums(**{sides[key]: getattr(sums, key) for key in NUMBERS})
        assert mirrored == found.pairs[one, two][name]


@EVERY_ENGINE
def test_the_number_of_threads_changes_no_bit(engine, tmp_path, monkeypatch):
    paths = random_paths(tmp_path, sizes={f"t{number}": 1000 + 64 * number for number in range(6)})
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(TorchEngine, "WORKERS", threads)
        found.append(compare(paths, engine=engine, step=64, threads=threads))
    assert found[0] == found[1] == found[2]


def test_only_what_is_asked_for_is_compared_and_once(tmp_path):
    paths = random_paths(tmp_path)
    one, _, three, four = paths
    found = compare(paths, [(three, one), (one, four), (three, one)])
    assert list(found.pairs) == [(three, one), (one, four)]
    alone = compare({name: paths[name] for name in (one, three)}, [(three, one)])
    assert alone.pairs[three, one] == found.pairs[three, one]
    assert compare(paths, []).pairs == {}
    assert compare(paths, []).census == found.census
    assert compare({}, []).census == {}


@EVERY_ENGINE
def test_progress_only_moves_on_and_ends_with_all(engine, tmp_path):
    told = []
    compare(random_paths(tmp_path), engine=engine, step=64, progress=lambda done, whole: told.append((done, whole)))
    assert told == sorted(told)
    assert len(told) > 50
    assert told[-1] == (4 * 6069, 4 * 6069)


@EVERY_ENGINE
def test_memory_is_that_of_a_chunk_however_large_the_tensor(engine, tmp_path, monkeypatch):
    arenas = []

    def small(self):
        arenas.append(TensorArena(64, pinned=False))
        return arenas[-1]

    for kind in (CpuConflictEngine, TorchEngine):
        monkeypatch.setattr(kind, "arena", small)
    paths = random_paths(tmp_path, 3, {"w": 2**20}, density=0.15)
    found = compare(paths, engine=engine, step=2**14)
    assert sum(path.stat().st_size for path in paths.values()) > 2**20
    assert 0 < max(arena.bytes.size for arena in arenas) < 2**18
    assert sum(found.census["w"]) == 2**20


def test_what_does_not_fit_on_the_device_is_measured_on_the_cpu(tmp_path, monkeypatch):
    paths, engine = random_paths(tmp_path), TorchEngine(torch.device("cpu"), MIN_GPU_BYTES)
    engine._room = 0

    def refuse(*parts):
        raise AssertionError("the device was asked")

    monkeypatch.setattr(torch_engine, "_measure_pair", refuse)
    with pytest.raises(AssertionError):
        compare(paths, engine="torch")
    assert compare(paths, engine=engine, step=64) == compare(paths, step=64)


def test_pairs_whose_sums_do_not_fit_at_once_are_measured_in_parts(lanes, tmp_path):
    paths, engine = random_paths(tmp_path, 5), CudaEngine(DEVICE, MIN_GPU_BYTES)
    whole = compare(paths, engine=engine, step=2**17)
    assert lanes.launched["pairs"] == 3  # one for each tensor
    engine._left = 2 * 3 * (56 * 3 + 16)
    assert compare(paths, engine=engine, step=2**17) == whole
    assert lanes.launched["pairs"] == 3 + 4 + 3 + 3  # of 10 pairs, 3 at a time, and 4 of smaller tensors
    engine._left = 0
    assert compare(paths, engine=engine, step=2**17) == whole
    assert lanes.launched["pairs"] == 13 + 3 * 10


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_finds_the_same(tmp_path):
    paths = random_paths(tmp_path, 8, {"v": 999, "w": 3_000_000}, density=0.15)
    with opened(paths) as patches:
        ours, theirs = (analyse(patches, every_pair(paths), device) for device in ("cpu", "cuda"))
        assert theirs == analyse(patches, every_pair(paths), "cuda")
    assert ours.census == theirs.census
    for pair, tensors in ours.pairs.items():
        for name, sums in tensors.items():
            assert_close(theirs.pairs[pair][name], sums)
