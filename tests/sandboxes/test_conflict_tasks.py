"""The conflicts task: what it refuses, and what it does with damaged files."""

import json
import math
import os

import pytest

from registry.breadcrumbs.comparing.conflicts import Sums, analyse
from registry.errors import BaseMismatch, InvalidPatch, InvalidRequest, StorageFailed
from registry.files.hashing import hash_file
from registry.sandboxes import tasks
from tests.support.conflict_makers import (
    BASE,
    ENGINES,
    assert_close,
    compare,
    dense,
    every_pair,
    opened,
    slow_sums,
    write_patches,
)
from tests.support.science_makers import build, take_apart

EVERY_ENGINE = pytest.mark.parametrize("engine", ENGINES)


@pytest.fixture(autouse=True)
def launched_on_lanes(request):
    """Have the kernels of CUDA run on the CPU, in the tests that use them."""
    if "cuda" in request.node.name:
        request.getfixturevalue("lanes")


def written(folder, sizes=None, base=BASE):
    """Write two patches, the first with bitmasks, the second with indices of `w`; return them by name."""
    sizes = sizes or {"v": 100, "w": 3000}
    folder.mkdir(exist_ok=True)
    every = {name: (range(0, size, 2), [0.5] * len(range(0, size, 2))) for name, size in sizes.items()}
    few = {"w": ([0, 4, sizes["w"] - 1], [-1.0, 2.0, 3.0])}
    return write_patches(folder, sizes, [every, few], base=base)


def damaged(path, change):
    """Write a patch again with changed entries: `change` gets the name and bytes of each."""
    metadata, entries = take_apart(path.read_bytes())
    path.write_bytes(build(metadata, [(*entry[:3], change(entry[0], entry[3])) for entry in entries]))


# What is refused


def test_patches_of_two_bases_are_refused_by_name(tmp_path):
    ours = written(tmp_path / "ours")
    other = "sha256:" + 64 * "f"
    theirs = written(tmp_path / "theirs", base=other)
    one, two = ours
    with pytest.raises(BaseMismatch) as refused:
        compare({one: ours[one], two: theirs[two]})
    assert all(word in refused.value.message for word in (one, two, BASE, other))


def test_two_shapes_of_one_tensor_are_refused_by_name(tmp_path):
    ours, theirs = written(tmp_path / "ours"), written(tmp_path / "theirs", {"v": 100, "w": 2999})
    one, two = ours
    with pytest.raises(BaseMismatch) as refused:
        compare({one: ours[one], two: theirs[two]})
    assert all(word in refused.value.message for word in (one, two, "'w'", "[3000]", "[2999]"))


def test_a_pair_needs_its_patches(tmp_path):
    paths = written(tmp_path)
    with pytest.raises(InvalidRequest, match=f"Patch {64 * 'e'} of a pair is not given"):
        compare(paths, [(next(iter(paths)), 64 * "e")])


def test_a_device_that_is_none_is_refused(tmp_path):
    with opened(written(tmp_path)) as patches, pytest.raises(InvalidRequest, match="choose auto, cpu or cuda"):
        analyse(patches, [], "abacus")


@EVERY_ENGINE
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused(engine, value, tmp_path):
    sizes = {"w": 3000}
    places = list(range(0, 3000, 3))
    values = [1.0] * 999 + [value]
    paths = write_patches(tmp_path, sizes, [{"w": (places, [2.0] * 1000)}, {"w": (places, values)}])
    with pytest.raises(InvalidPatch, match=f"Patch {max(paths)} has a value of 'w' that is NaN or Inf"):
        compare(paths, engine=engine, step=64)


@EVERY_ENGINE
def test_a_mask_that_contradicts_its_values_is_refused(engine, tmp_path):
    paths = written(tmp_path)
    damaged(paths[min(paths)], lambda name, data: b"\xff" + data[1:] if name == "w.bitmask" else data)
    with pytest.raises(InvalidPatch, match="differ in number"):
        compare(paths, engine=engine)


@EVERY_ENGINE
@pytest.mark.parametrize("index", [-1, 0, 3000, 2**31 - 1])
def test_an_index_out_of_place_is_refused(engine, index, tmp_path):
    paths = written(tmp_path)
    bad = index.to_bytes(4, "little", signed=True)
    damaged(paths[max(paths)], lambda name, data: data[:4] + bad + data[8:] if name == "w.indices" else data)
    with pytest.raises(InvalidPatch, match=r"strictly increase|differ in number"):
        compare(paths, engine=engine)


# The task


def by_digest(paths):
    return {hash_file(path): str(path) for path in paths.values()}


def test_the_task_tells_every_number_as_json_and_only_moves_on(tmp_path):
    paths = by_digest(written(tmp_path))
    pairs, told = every_pair(paths), []
    found = json.loads(json.dumps(tasks.conflicts(paths, pairs, "cpu", None, told.append), allow_nan=False))
    assert told == sorted(told)
    assert told[-1] == 1
    [pair] = found["pairs"]
    assert [(pair["first"], pair["second"])] == pairs
    known = [dense(paths[sha256], {"v": 100, "w": 3000}) for sha256 in pairs[0]]
    assert list(pair["tensors"]) == ["v", "w"]
    for name, numbers in pair["tensors"].items():
        assert_close(Sums(**numbers), slow_sums(known[0][name], known[1][name]))
    assert found["census"] == {"v": [50, 50, 0], "w": [1499, 1499, 2]}


def test_pairs_may_come_as_json_has_them(tmp_path):
    paths = by_digest(written(tmp_path))
    found = tasks.conflicts(paths, [list(pair) for pair in every_pair(paths)], "cpu", None, lambda done: None)
    assert len(found["pairs"]) == 1


@pytest.mark.parametrize("damage", ["value", "mask", "header", "short", "gone"])
def test_a_file_that_the_disk_damaged_is_nobodys_fault(damage, tmp_path):
    written_ones = written(tmp_path)
    paths, path = by_digest(written_ones), written_ones[min(written_ones)]
    sha256, content = hash_file(path), path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "short":
        os.truncate(path, len(content) - 1)
    elif damage == "header":
        path.write_bytes(content[:8] + b"?" + content[9:])
    else:
        entry = "w.values" if damage == "value" else "w.bitmask"
        damaged(path, lambda name, data: bytes([data[0] ^ 2]) + data[1:] if name == entry else data)
    with pytest.raises(StorageFailed, match="missing" if damage == "gone" else f"{sha256} is damaged"):
        tasks.conflicts(paths, every_pair(paths), "cpu", None, lambda done: None)


def test_what_is_asked_wrongly_is_said_and_not_blamed_on_the_disk(tmp_path):
    paths = by_digest(written(tmp_path))
    with pytest.raises(InvalidRequest, match="is not given"):
        tasks.conflicts(paths, [(min(paths), "0")], "cpu", None, lambda done: None)
