"""Ranges of composed weight files: the bytes that composing whole writes there."""

import itertools
import random
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.breadcrumbs.composing import ranges, ranks, small, staging
from registry.breadcrumbs.composing.compose import compose
from registry.breadcrumbs.composing.engines import CpuEngine
from registry.breadcrumbs.composing.ranges import ComposedWeights
from registry.breadcrumbs.composing.staging import Step
from registry.breadcrumbs.diffing.diff import diff
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.digest import digest_checkpoint
from registry.breadcrumbs.formats.layout import MaskParams
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.breadcrumbs.formats.recipe import Item, make_recipe, scale
from registry.errors import BaseMismatch, EntryNotFound, InvalidInput, InvalidPatch, NotFinite, RangeNotSatisfiable
from tests.support.science_makers import (
    DTYPES,
    PatchedBase,
    decode,
    raw,
    slow_combine,
    slow_round,
    take_apart,
    write_model,
)

FILE = "model.safetensors"


@pytest.fixture
def small_steps(monkeypatch):
    """Chunks of 128 elements, and ranks of 256, so that tensors of a thousand have many of both."""
    shrink(monkeypatch, 128, 256)


def shrink(monkeypatch, chunk, block):
    monkeypatch.setattr(staging, "MIN_CHUNK_ELEMENTS", chunk)
    monkeypatch.setattr(CpuEngine, "step", Step(64, chunk))
    monkeypatch.setattr(ranks, "BLOCK", block)
    monkeypatch.setattr(ranges, "READ_BYTES", 500)
    monkeypatch.setattr(small, "JOINED_BYTES", 5000)


class Patched(NamedTuple):
    """A patch of a drawn world: how it is masked, how its values are stored, and what it does not touch."""

    drop_bottom: str
    granularity: str
    value_dtype: str
    exclude: str
    weight: str
    where: tuple[tuple[str, str], ...]


PATCHES = st.builds(
    Patched,
    st.sampled_from(["0", "0.5", "0.9", "0.98", "0.998"]),
    st.sampled_from(["tensor", "row"]),
    st.sampled_from(["auto", "F32", "BF16", "F16"]),
    st.sampled_from(["", "[a-c]*", "?0*", "b*"]),
    st.sampled_from(["1", "0.5", "2", "0.0000001"]),
    st.sampled_from([(), (("*1", "0.25"), ("[b-d]*", "0")), (("*", "3"),)]),
)
SIZES = st.sampled_from([1, 7, 63, 64, 65, 130, 1000, 1025, 2500])
TENSORS = st.lists(st.tuples(SIZES, st.sampled_from([*DTYPES, torch.int64, torch.bool])), min_size=2, max_size=9)


def write_world(folder, tensors, shards, patches):
    """Write a base of these tensors and the patches; return the digest of the base and the files of the patches."""
    torch.manual_seed(len(tensors))
    base = {
        f"{'abcde'[at % 5]}{at}": (torch.randn(size) if dtype.is_floating_point else torch.arange(size)).to(dtype)
        for at, (size, dtype) in enumerate(tensors)
    }
    base |= {"e-empty": torch.zeros(0, 3), "d-always": torch.randn(700, 2).bfloat16()}
    write_model(folder / "base", base, shards)
    paths = {}
    with open_checkpoint(folder / "base") as before:
        digest = digest_checkpoint(before)
        for number, patch in enumerate(patches):
            tuned = {n: t + torch.randn(t.shape).to(t.dtype) if t.is_floating_point() else t for n, t in base.items()}
            write_model(folder / f"tuned{number}", tuned)
            params = MaskParams(patch.drop_bottom, "0", patch.granularity, patch.value_dtype)
            with open_checkpoint(folder / f"tuned{number}") as after:
                exclude = [patch.exclude] if patch.exclude else []
                info = diff(before, after, folder / f"patch{number}", params, exclude=exclude)
            paths[info.sha256] = folder / f"patch{number}"
    return digest, paths


@contextmanager
def opened(folder, recipe, paths):
    with ExitStack() as stack:
        base = stack.enter_context(open_checkpoint(folder / "base"))
        chosen = {item.sha256: stack.enter_context(open_patch(paths[item.sha256])) for item in recipe.items}
        yield base, chosen, ComposedWeights(base, chosen, recipe)


@contextmanager
def composed(world, alpha="0.3", weights=("1", "-0.5", "2"), method="sum"):
    """Yield the ranges of a world's composition, and its patches by the number of their file."""
    items = [Item(*item) for item in zip(world.paths, weights, strict=False)]
    recipe = make_recipe(world.digest, alpha, items, method)
    with opened(world.folder, recipe, world.paths) as (_, patches, weights):
        yield weights, {path.name: patches[sha256] for sha256, path in world.paths.items() if sha256 in patches}


def read(weights, name=FILE, start=0, stop=None, threads=None):
    return b"".join(map(bytes, weights.read(name, start, stop, threads)))


def places(data, size, edges):
    """Draw a range of a file: anywhere, at the edges of its tensors, of 0 bytes, of 1 byte."""
    near = st.sampled_from(edges).flatmap(lambda edge: st.integers(max(0, edge - 9), min(size, edge + 9)))
    start = data.draw(st.integers(0, size) | near)
    stop = data.draw(st.integers(0, size) | near | st.sampled_from([start, min(size, start + 1)]))
    return min(start, stop), max(start, stop)


@given(
    TENSORS,
    st.integers(1, 3),
    st.lists(PATCHES, min_size=1, max_size=4),
    st.sampled_from(["sum", "ties", "mean"]),
    st.sampled_from([(64, 64), (128, 256), (2**15, 128), (1024, 2**20)]),
    st.data(),
)
@settings(max_examples=30, deadline=None)
def test_any_range_is_that_slice_of_the_file_composed_whole(tensors, shards, patches, method, steps, data):
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as monkeypatch:
        shrink(monkeypatch, *steps)
        folder = Path(name)
        digest, paths = write_world(folder, tensors, shards, patches)
        items = [Item(sha256, patch.weight, patch.where) for sha256, patch in zip(paths, patches, strict=False)]
        recipe = make_recipe(digest, "0.3", items, method)
        (folder / "out").mkdir()
        with opened(folder, recipe, paths) as (base, chosen, weights):
            compose(base, chosen, recipe, folder / "out", "cpu")
            whole = {file: (folder / "out" / file).read_bytes() for file in base.files}
            assert weights.sizes == {file: len(content) for file, content in whole.items()}
            edges = {file: [entry.start for entry in base.headers[file].entries.values()] for file in whole}
            for _ in range(12):
                file = data.draw(st.sampled_from(sorted(whole)))
                start, stop = places(data, len(whole[file]), [0, 8, *edges[file], len(whole[file])])
                assert read(weights, file, start, stop) == whole[file][start:stop]
            assert {file: read(weights, file) for file in whole} == whole


@pytest.mark.parametrize("method", ["sum", "ties", "mean"])
@pytest.mark.usefixtures("small_steps")
def test_ranges_put_together_are_what_the_specification_says(tmp_path, method):
    world = PatchedBase(tmp_path)
    votes = {}
    for (_, path), weight in sorted(zip(world.paths.items(), ("1", "0.5", "2"), strict=True)):
        by = scale(*(["-0.7"] if method == "sum" else []), weight)
        for name, pairs in decode(path).items():
            for place, value in pairs:
                votes.setdefault(name, {}).setdefault(place, []).append((by, value))
    with composed(world, "-0.7", ("1", "0.5", "2"), method) as (weights, _):
        cuts = sorted({0, weights.sizes[FILE], *random.Random(1).sample(range(weights.sizes[FILE]), 40)})
        content = b"".join(read(weights, FILE, *cut) for cut in itertools.pairwise(cuts))
    found = {name: data for name, _, _, data in take_apart(content)[1]}
    assert found.keys() == world.base.keys()
    for name, before in world.base.items():
        expected = [
            slow_round(slow_combine(value, votes[name][place], method, scale("-0.7")), before.dtype)
            if place in votes.get(name, {})
            else value
            for place, value in enumerate(before.reshape(-1).tolist())
        ]
        assert found[name] == raw(torch.tensor(expected, dtype=before.dtype)), name


def compose_whole(folder, recipe, base, chosen):
    (folder / "out").mkdir()
    compose(base, chosen, recipe, folder / "out", "cpu")
    return (folder / "out" / FILE).read_bytes()


@pytest.mark.usefixtures("small_steps")
def test_a_range_may_begin_just_before_an_index_at_it_and_just_after_it(tmp_path):
    base = torch.randn(4000).bfloat16()
    write_model(tmp_path / "base", {"w": base})
    write_model(tmp_path / "tuned", {"w": base + (torch.arange(4000) % 64 == 0) * torch.ones(1).bfloat16()})
    with open_checkpoint(tmp_path / "base") as before, open_checkpoint(tmp_path / "tuned") as after:
        info = diff(before, after, tmp_path / "patch", MaskParams("0", "0"))
    recipe = make_recipe(info.base, "0.7", [(info.sha256, "1")])
    with opened(tmp_path, recipe, {info.sha256: tmp_path / "patch"}) as (checkpoint, chosen, weights):
        assert chosen[info.sha256].mask_entry("w").name == "w.indices"
        whole, at = compose_whole(tmp_path, recipe, checkpoint, chosen), checkpoint.headers[FILE].entries["w"].start
        for element in range(0, 4000, 64):
            for start in (max(at, at + 2 * element - 1), at + 2 * element, at + 2 * element + 1):
                assert read(weights, FILE, start, min(len(whole), start + 150)) == whole[start : start + 150]


def test_small_tensors_with_untouched_ones_between_them_come_in_the_order_of_the_file(tmp_path):
    patch = Patched("0.5", "tensor", "auto", "[bd]*", "1", ())
    digest, paths = write_world(tmp_path, [(100, torch.bfloat16)] * 12, 1, [patch])
    recipe = make_recipe(digest, "1", [(sha256, "1") for sha256 in paths])
    with opened(tmp_path, recipe, paths) as (base, chosen, weights):
        whole = compose_whole(tmp_path, recipe, base, chosen)
        edges = [entry.start for entry in base.headers[FILE].entries.values()] + [len(whole)]
        for start, stop in itertools.combinations(edges, 2):
            for first, last in ((start, stop), (start + 1, stop - 1)):
                assert read(weights, FILE, first, max(first, last)) == whole[first:last]


@pytest.mark.usefixtures("small_steps")
def test_threads_that_read_at_the_same_time_find_the_same_bytes(tmp_path):
    world = PatchedBase(tmp_path)
    with composed(world) as (weights, _):
        whole, random_ = read(weights), random.Random(2)
        cuts = [sorted(random_.choices(range(len(whole)), k=2)) for _ in range(60)]
        with ThreadPoolExecutor(4) as pool:
            for cut, found in zip(cuts, pool.map(lambda cut: read(weights, FILE, *cut), cuts), strict=True):
                assert found == whole[slice(*cut)]


def test_what_needs_no_patch_reads_none(tmp_path):
    world = PatchedBase(tmp_path)
    with composed(world) as (weights, patches), open_checkpoint(tmp_path / "base") as base:
        header, expected = base.headers[FILE], (tmp_path / "base" / FILE).read_bytes()
        for patch in patches.values():
            patch.close()
        assert read(weights, FILE, 3, header.size) == expected[3 : header.size]
        for name in ("untouched", "ids"):
            entry = header.entries[name]
            assert read(weights, FILE, entry.start + 1, entry.stop) == expected[entry.start + 1 : entry.stop]
        entry = header.entries["float32"]
        with pytest.raises(ValueError, match="closed"):
            read(weights, FILE, entry.start, entry.stop)


def test_a_patch_of_another_tensor_is_not_read(tmp_path):
    first, second = (Patched("0", "tensor", "auto", exclude, "1", ()) for exclude in ("a*", "[b-e]*"))
    digest, paths = write_world(tmp_path, [(1000, torch.float32)], 1, [first, second])
    recipe = make_recipe(digest, "1", [(sha256, "1") for sha256 in paths])
    with opened(tmp_path, recipe, paths) as (base, patches, weights):
        whole, entry = read(weights), base.headers[FILE].entries["a0"]
        patches[next(iter(paths))].close()  # does not touch a0
        assert read(weights, FILE, entry.start + 6, entry.stop) == whole[entry.start + 6 : entry.stop]


@pytest.mark.usefixtures("small_steps")
def test_an_overflow_is_raised_in_place_of_its_bytes(tmp_path):
    base = torch.zeros(1000)
    base[600] = 3e38
    write_model(tmp_path / "base", {"w": base})
    write_model(tmp_path / "tuned", {"w": base + (torch.arange(1000) >= 500) * 3e37})
    with open_checkpoint(tmp_path / "base") as before, open_checkpoint(tmp_path / "tuned") as after:
        info = diff(before, after, tmp_path / "patch", MaskParams("0", "0"))
    recipe = make_recipe(info.base, "3", [(info.sha256, "1")])
    (tmp_path / "out").mkdir()
    with opened(tmp_path, recipe, {info.sha256: tmp_path / "patch"}) as (checkpoint, patches, weights):
        with pytest.raises(NotFinite) as whole:
            compose(checkpoint, patches, recipe, tmp_path / "out", "cpu")
        at = checkpoint.headers[FILE].entries["w"].start
        given = 0
        with pytest.raises(NotFinite) as part:
            for piece in weights.read(FILE):
                given += len(piece)
        assert part.value.message == whole.value.message
        assert given <= at + 4 * 512  # the chunk of element 600 begins at 512
        assert len(read(weights, FILE, at, at + 4 * 512)) == 4 * 512


@pytest.mark.usefixtures("small_steps")
def test_a_reader_that_stops_leaves_no_thread(tmp_path):
    world = PatchedBase(tmp_path)
    with composed(world) as (weights, _):
        before = threading.active_count()
        pieces = weights.read(FILE)
        next(pieces)
        assert threading.active_count() > before
        pieces.close()
        assert threading.active_count() == before


def test_only_bytes_of_a_file_that_is_there_are_read(tmp_path):
    world = PatchedBase(tmp_path, shards=2)
    with composed(world) as (weights, _):
        name, size = next(iter(weights.sizes.items()))
        assert read(weights, name, size, size) == b""
        for start, stop in ((-1, 2), (3, 2), (size, size + 1)):
            with pytest.raises(RangeNotSatisfiable) as error:
                weights.read(name, start, stop)
            assert error.value.size == size
        with pytest.raises(EntryNotFound):
            weights.read("model.safetensors")


def test_a_patch_for_another_base_is_refused(tmp_path):
    world = PatchedBase(tmp_path)
    world.digest = f"sha256:{'0' * 64}"
    with pytest.raises(BaseMismatch), composed(world):
        pass


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("end", [False, True])
def test_a_mask_that_has_more_bits_than_values_is_refused(tmp_path, end):
    """The file may have been changed after it was checked; bits are counted from the nearer end of the tensor."""
    patch = Patched("0.9", "tensor", "auto", "", "1", ())
    digest, paths = write_world(tmp_path, [(2500, torch.float32)], 1, [patch])
    ((sha256, path),) = paths.items()
    recipe = make_recipe(digest, "1", [(sha256, "1")])
    with opened(tmp_path, recipe, paths) as (base, patches, weights):
        mask, entry = patches[sha256].mask_entry("a0"), base.headers[FILE].entries["a0"]
        with path.open("r+b") as file:
            file.seek(mask.stop - 200 if end else mask.start)
            file.write(b"\xff" * 199)
        middle = entry.start + 4 * (1700 if end else 1000)
        for start in (middle, entry.start):
            with pytest.raises(InvalidPatch, match="differ in number"):
                read(weights, FILE, start, entry.stop)


@pytest.mark.usefixtures("small_steps")
def test_a_patch_that_was_cut_short_is_refused(tmp_path):
    for drop_bottom in ("0.5", "0.98"):  # a bitmask, and indices
        folder = tmp_path / drop_bottom
        patch = Patched(drop_bottom, "tensor", "auto", "[b-e]*", "1", ())
        digest, paths = write_world(folder, [(2500, torch.bfloat16)], 1, [patch])
        ((sha256, path),) = paths.items()
        recipe = make_recipe(digest, "1", [(sha256, "1")])
        with opened(folder, recipe, paths) as (base, patches, weights):
            stop = base.headers[FILE].entries["a0"].stop
            with path.open("r+b") as file:
                file.truncate(patches[sha256].mask_entry("a0").start + 9)
            with pytest.raises(InvalidInput, match="became shorter"):
                read(weights, FILE, stop - 1000, stop)
