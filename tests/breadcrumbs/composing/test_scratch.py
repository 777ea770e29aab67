"""Scratch weights: whatever they held before, they hold the bytes of a fresh composition."""

from contextlib import ExitStack

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.breadcrumbs.composing import staging
from registry.breadcrumbs.composing.compose import compose
from registry.breadcrumbs.composing.engines import CpuEngine
from registry.breadcrumbs.composing.scratch import ScratchWeights
from registry.breadcrumbs.composing.staging import Step
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.breadcrumbs.formats.recipe import Item, make_recipe
from registry.errors import NotFinite
from tests.support.science_makers import PatchedBase

HUGE = "1000000"  # an alpha at which float16 overflows
WHERE = st.sampled_from([(), (("float*", "0"),), (("bfloat16", "0.5"), ("*", "0")), (("*", "2"),), (("*", "0"),)])
ITEMS = st.tuples(st.sampled_from(["0.5", "1", "2"]), WHERE)


class Scene:
    """A base of every dtype in three shards, its patches, and scratch weights; `fresh` composes anew."""

    def __init__(self, folder, stack):
        world = PatchedBase(folder, shards=3)
        self.folder, self.digest, self.sha256s = folder, world.digest, list(world.paths)
        self.base = stack.enter_context(open_checkpoint(folder / "base"))
        self.patches = {sha256: stack.enter_context(open_patch(path)) for sha256, path in world.paths.items()}

    def recipe(self, alpha, parts, method="sum"):
        items = [Item(sha256, *part) for sha256, part in zip(self.sha256s, parts, strict=True) if part]
        return make_recipe(self.digest, alpha, items, method)

    def scratch(self, name="scratch", device="cpu"):
        (self.folder / name).mkdir()
        return ScratchWeights(self.base, self.patches, self.folder / name, device)

    def fresh(self, recipe):
        out = self.folder / recipe.digest
        out.mkdir(exist_ok=True)
        if not any(out.iterdir()):
            compose(self.base, self.patches, recipe, out, "cpu", digests=False)
        return bytes_of(out)


def bytes_of(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.safetensors"))}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    with ExitStack() as stack:
        yield Scene(tmp_path_factory.mktemp("scratch"), stack)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["0.3", "1", "-0.7", HUGE]),
            st.tuples(*[st.none() | ITEMS] * 3),
            st.sampled_from(["sum", "ties", "mean"]),
        ),
        min_size=2,
        max_size=6,
    ),
    st.sampled_from([Step(64, 64), Step(2000, 256), Step(2**23, 2**20)]),
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_after_any_compositions_the_bytes_are_those_of_a_fresh_one(scene, monkeypatch, candidates, step):
    monkeypatch.setattr(staging, "MIN_CHUNK_ELEMENTS", 64)
    monkeypatch.setattr(CpuEngine, "step", step)
    scratch = scene.scratch(f"scratch{len(list(scene.folder.iterdir()))}")
    for candidate in candidates:
        recipe = scene.recipe(*candidate)
        try:
            expected = scene.fresh(recipe)
        except NotFinite:
            with pytest.raises(NotFinite):
                scratch.compose(recipe)
            continue
        scratch.compose(recipe)
        assert bytes_of(scratch.folder) == expected


def test_only_tensors_that_differ_are_written_again(scene):
    scratch = scene.scratch("only")
    one = ("1", (("*16", "1"), ("*", "0")))  # the first patch, in the tensors of two bytes an element
    whole = ("1", ())
    size = {name: spec.numel * int(name[-2:]) // 8 for name, spec in scene.base.tensors.items() if "float" in name}
    assert scratch.compose(scene.recipe("1", (one, None, None))) == scene.base.size
    poisoned = {name: poison(scene, scratch, name) for name in ("float64", "untouched", "ids")}
    assert scratch.compose(scene.recipe("2", (one, None, None))) == size["bfloat16"] + size["float16"]
    assert scratch.compose(scene.recipe("2", (one, None, None))) == 0
    assert scratch.compose(scene.recipe("2", (None, None, None))) == size["bfloat16"] + size["float16"]
    assert {name: read(scene, scratch, name) for name in poisoned} == poisoned
    scratch.compose(scene.recipe("2", (whole, None, None)))
    assert read(scene, scratch, "float64") != poisoned["float64"]
    assert read(scene, scratch, "ids") == poisoned["ids"]
    before = {file: file.stat().st_mtime_ns for file in scratch.folder.iterdir()}
    bfloat16 = (("bfloat16", "0.5"),)
    scratch.compose(scene.recipe("2", (("1", bfloat16), None, None)))
    changed = [file.name for file, at in before.items() if file.stat().st_mtime_ns != at]
    assert changed == [place(scene, "bfloat16")[0]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_writes_the_same_bytes_over_each_other(scene):
    scratch, one = scene.scratch("gpu", "cuda"), ("1", (("*16", "1"), ("*", "0")))
    for alpha, parts, method in [
        ("0.3", (one, None, None), "sum"),
        ("0.3", (("1", ()), ("0.5", ()), None), "sum"),  # tensors that the first composition did not read
        (HUGE, (("1", ()), ("0.5", ()), None), "sum"),
        ("0.7", (("1", ()), ("0.5", ()), one), "ties"),
        ("0.7", (None, None, one), "mean"),
    ]:
        recipe = scene.recipe(alpha, parts, method)
        if alpha == HUGE:
            with pytest.raises(NotFinite):
                scratch.compose(recipe)
        else:
            scratch.compose(recipe)
            assert bytes_of(scratch.folder) == scene.fresh(recipe)


def test_an_alpha_that_no_tensor_feels_writes_nothing(scene):
    """With `sum` alpha is part of the scales, so 0.5 x 2 is 1 x 1; an average is multiplied by alpha afterwards."""
    scratch = scene.scratch("alpha")
    scratch.compose(scene.recipe("0.5", (("2", ()), None, None)))
    assert scratch.compose(scene.recipe("1", (("1", ()), None, None))) == 0
    scratch.compose(scene.recipe("1", (("1", ()), ("1", ()), None), "ties"))
    assert scratch.compose(scene.recipe("0.5", (("1", ()), ("1", ()), None), "ties")) > 0


def poison(scene, scratch, name):
    file, entry = place(scene, name)
    with (scratch.folder / file).open("r+b") as opened:
        opened.seek(entry.start)
        opened.write(b"\x5a" * (entry.stop - entry.start))
    return read(scene, scratch, name)


def read(scene, scratch, name):
    file, entry = place(scene, name)
    return (scratch.folder / file).read_bytes()[entry.start : entry.stop]


def place(scene, name):
    return next((file, h.entries[name]) for file, h in scene.base.headers.items() if name in h.entries)
