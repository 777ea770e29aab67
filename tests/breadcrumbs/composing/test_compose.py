import hashlib
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.breadcrumbs.composing import engines, small, staging
from registry.breadcrumbs.composing.compose import BaseTensors, compose, compose_files
from registry.breadcrumbs.composing.lanes import Crew
from registry.breadcrumbs.composing.staging import Step
from registry.breadcrumbs.diffing.diff import diff
from registry.breadcrumbs.formats.checkpoint import open_checkpoint, open_files
from registry.breadcrumbs.formats.digest import digest_checkpoint, digest_of, tensor_digests
from registry.breadcrumbs.formats.layout import MaskParams
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.breadcrumbs.formats.recipe import make_recipe, scale
from registry.breadcrumbs.kernels.devices import pick_device
from registry.errors import BaseMismatch, InvalidPatch, InvalidRecipe, InvalidRequest, NotFinite, StorageFull
from registry.files import durable
from tests.support.science_makers import (
    DTYPES,
    PatchedBase,
    Touch,
    compose_block,
    decode,
    raw,
    read_all,
    slow_round,
    write_model,
)


@pytest.fixture
def world(tmp_path):
    return PatchedBase(tmp_path)


def slow_compose(base, patches, alpha, weights):
    """Section 4 of the specification in Python floats, which are float64."""
    results = {}
    for name, tensor in base.items():
        values = tensor.reshape(-1).double().tolist()
        for sha256 in sorted(patches):
            for place, value in patches[sha256].get(name, []):
                values[place] = values[place] + scale(alpha, weights[sha256]) * value
        results[name] = [slow_round(value, tensor.dtype) for value in values]
    return results


def test_a_composition_is_what_the_specification_says_to_the_bit(world):
    composed = world.compose("out", file_digests=True)
    patches = {sha256: decode(path) for sha256, path in world.paths.items()}
    assert sum(len(places) for patch in patches.values() for places in patch.values()) > 1000
    slow = slow_compose(
        {n: t for n, t in world.base.items() if t.is_floating_point() and n != "untouched"},
        patches, "0.3", dict(zip(world.paths, ("1", "-0.5", "2"), strict=True)),
    )  # fmt: skip
    found = read_all(world.folder / "out/model.safetensors")
    for name, values in slow.items():
        expected = torch.tensor(values, dtype=torch.float64).to(world.base[name].dtype).reshape(world.base[name].shape)
        assert raw(found[name]) == raw(expected), name
    assert raw(found["ids"]) == raw(world.base["ids"])
    assert raw(found["untouched"]) == raw(world.base["untouched"])
    with open_checkpoint(world.folder / "out") as out:
        assert digest_checkpoint(out) == composed.weights_digest
    content = (world.folder / "out/model.safetensors").read_bytes()
    assert composed.files["model.safetensors"].sha256 == hashlib.sha256(content).hexdigest()
    assert composed.files["model.safetensors"].size == len(content)


def test_headers_names_and_shards_are_the_bases(tmp_path):
    PatchedBase(tmp_path / "one").compose("out")
    composed = {}
    for shards in (2, 3):
        world = PatchedBase(tmp_path / f"{shards}", shards)
        composed[shards] = world.compose("out")
        for name in composed[shards].files:
            ours, theirs = (world.folder / at / name for at in ("out", "base"))
            size = 8 + int.from_bytes(theirs.read_bytes()[:8], "little")
            assert ours.read_bytes()[:size] == theirs.read_bytes()[:size]
            assert len(ours.read_bytes()) == len(theirs.read_bytes())
        assert sorted(composed[shards].files) == sorted(p.name for p in (world.folder / "out").iterdir())
    assert composed[2].weights_digest == composed[3].weights_digest
    assert composed[2].weights_digest == PatchedBase(tmp_path / "again").compose("out").weights_digest


def test_order_threads_and_size_of_chunks_change_no_byte(world, monkeypatch):
    digests = {world.compose("out").weights_digest}
    items = dict(zip(world.paths, ("1", "-0.5", "2"), strict=True))
    for number, order in enumerate(itertools.permutations(world.paths)):
        monkeypatch.setattr(staging, "MIN_CHUNK_ELEMENTS", [64, 128, 2**15][number % 3])
        monkeypatch.setattr(
            engines.CpuEngine, "step", Step([64, 2000, 2**23][number % 3], [64, 256, 2**20][number % 3])
        )
        world.paths = {sha256: world.paths[sha256] for sha256 in order}
        weights = tuple(items[sha256] for sha256 in order)
        digests.add(world.compose(f"out{number}", weights=weights, threads=1 + number % 4).weights_digest)
    assert len(digests) == 1


@pytest.mark.parametrize("joined", [1000, 2**20])
def test_small_tensors_that_are_composed_together_give_the_same_files(world, monkeypatch, joined):
    """In chunks each by itself, in one call each, several in a call: with all that is hashed on the way."""
    monkeypatch.setattr(small, "JOINED_BYTES", joined)
    files = {"model.safetensors": hashlib.sha256((world.folder / "base/model.safetensors").read_bytes()).hexdigest()}
    together = world.compose("together", file_digests=True)
    assert together == replace(world.compose("base-files", file_digests=True, base_files=files), **unlike(together))
    monkeypatch.setattr(staging, "MIN_CHUNK_ELEMENTS", 64)
    assert together == replace(world.compose("alone", file_digests=True), **unlike(together))
    with pytest.raises(BaseMismatch):
        world.compose("out", base_files={"model.safetensors": "0" * 64})


def test_files_composed_one_by_one_are_those_of_the_whole(tmp_path):
    """Each where no other file of the base is, held to what is known of the base's tensors."""
    world = PatchedBase(tmp_path, 3)
    composed = world.compose("whole", file_digests=True)
    recipe = make_recipe(world.digest, "0.3", zip(world.paths, ("1", "-0.5", "2"), strict=True))
    patches = {sha256: open_patch(path) for sha256, path in world.paths.items()}
    with open_checkpoint(world.folder / "base") as base:
        whole = BaseTensors(base.tensors, tensor_digests(base))
    hashes = {}
    for name in composed.files:
        path = world.folder / "base" / name
        for files in ({name: hashlib.sha256(path.read_bytes()).hexdigest()}, None):
            with open_files({name: path}) as some:
                ask = some, patches, recipe, world.folder, "cpu"
                part = compose_files(*ask, whole=whole, file_digests=True, base_files=files)
                assert part.tensors.keys() == some.tensors.keys() < base.tensors.keys()
            assert part.files == {name: composed.files[name]}
            assert (world.folder / name).read_bytes() == (world.folder / "whole" / name).read_bytes()
            (world.folder / name).unlink()
        hashes |= part.tensors
    assert digest_of(base.tensors, hashes) == composed.weights_digest
    with open_files({name: path}) as some:
        ask = some, patches, recipe, None, "cpu"
        with pytest.raises(BaseMismatch, match="these tensors are"):
            compose_files(*ask, whole=replace(whole, digests=whole.digests | {min(whole.digests): "0" * 64}))
        with pytest.raises(BaseMismatch, match="hashes to"):
            compose_files(*ask, whole=whole, base_files={name: "0" * 64})
        with pytest.raises(BaseMismatch, match="and this checkpoint has no such tensor"):
            compose_files(*ask)
        digests = whole.digests | dict.fromkeys(some.tensors, "0" * 64)  # of another base, of which a file is missing
        other = replace(recipe, base=digest_of(whole.specs, digests), items=())
        with pytest.raises(BaseMismatch, match=f"not to {'0' * 64}"):
            compose_files(some, {}, other, None, "cpu", whole=replace(whole, digests=digests))
    for patch in patches.values():
        patch.close()


def unlike(composed):
    """Return what differs between compositions of the same weights."""
    return {"seconds": composed.seconds, "phases": composed.phases}


@pytest.mark.parametrize(("shards", "files", "lanes"), [(1, False, 3), (1, True, 1), (3, True, 3)])
def test_several_tensors_or_files_are_hashed_at_a_time(tmp_path, monkeypatch, shards, files, lanes):
    world, used = PatchedBase(tmp_path, shards), set()
    follow = Crew.follow

    def note(self, slot, lane, *asked):
        used.add(lane)
        follow(self, slot, lane, *asked)

    expected = world.compose("alone", threads=1, file_digests=files)
    monkeypatch.setattr(staging, "MIN_CHUNK_ELEMENTS", 64)
    monkeypatch.setattr(Crew, "follow", note)
    found = world.compose("out", file_digests=files)
    assert len({lane.split()[-1] for lane in used if lane.startswith("hash")}) == lanes
    assert (found.weights_digest, found.files) == (expected.weights_digest, expected.files)


def test_a_base_that_is_not_checked_is_composed_and_hashed_all_the_same(world):
    checked = world.compose("checked")
    assert world.compose("out", check_base=False).weights_digest == checked.weights_digest
    world.digest = f"sha256:{'0' * 64}"
    for path in world.paths.values():
        path.write_bytes(path.read_bytes().replace(checked_base(world), world.digest.encode()))
    assert world.compose("other", check_base=False).weights_digest == checked.weights_digest
    with pytest.raises(BaseMismatch):
        world.compose("refused")


def checked_base(world):
    with open_checkpoint(world.folder / "base") as base:
        return digest_checkpoint(base).encode()


def test_without_digests_the_same_bytes_are_written(world):
    composed = world.compose("out", digests=False)
    assert composed.weights_digest is None
    assert composed.files["model.safetensors"].sha256 is None
    world.compose("hashed")
    ours, theirs = (world.folder / at / "model.safetensors" for at in ("out", "hashed"))
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_the_gpu_gives_the_same_bytes(world):
    assert world.compose("gpu", device="cuda").weights_digest == world.compose("cpu", device="cpu").weights_digest


def test_no_patches_give_the_base(world):
    assert world.compose("out", weights=()).weights_digest == world.digest


VALUES = st.floats(width=16, allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 6e-8, -6e-8])


@given(
    st.lists(VALUES, min_size=1, max_size=20),
    st.lists(st.lists(VALUES, min_size=20, max_size=20), max_size=4),
    st.sampled_from(DTYPES),
    st.sampled_from(["0.3", "-1.7", "0.000001", "1"]),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_a_block_is_composed_as_in_exact_words(base, patches, dtype, alpha, indices):
    block = torch.tensor(base, dtype=torch.float64).to(dtype)
    by = scale(alpha, "1")
    expected = block.double().tolist()
    touches = []
    for number, values in enumerate(patches):
        places = torch.arange(number % 2, len(base), 2)
        kept = torch.tensor(values[: len(places)], dtype=torch.float32)
        touches.append(Touch(places, kept, by))
        for place, value in zip(places.tolist(), kept.tolist(), strict=True):
            expected[place] = expected[place] + by * value
    rounded = [slow_round(value, dtype) for value in expected]
    result, lost = compose_block(block, touches, indices)
    assert lost == sum(math.isinf(value) for value in rounded)
    if not lost:
        assert raw(result) == raw(torch.tensor(rounded, dtype=torch.float64).to(dtype))


def test_a_bfloat16_is_rounded_by_way_of_float32():
    """1 + 2^-8 + 2^-40 is above the tie in float64, but float32 puts it on the tie, and ties go to even."""
    block = torch.tensor([1.0], dtype=torch.bfloat16)
    touch = Touch(torch.tensor([0]), torch.tensor([2.0**-8 + 2.0**-31]), 1.0)
    assert compose_block(block, [touch])[0].item() == 1.0
    touch = Touch(torch.tensor([0]), torch.tensor([2.0**-8 + 2.0**-22]), 1.0)
    assert compose_block(block, [touch])[0].item() == 1 + 2.0**-7


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_inf_of_the_base_keep_their_bits(dtype):
    block = torch.tensor([math.nan, math.inf, -math.inf, 1.0], dtype=dtype)
    bits = block.view({8: torch.int64, 4: torch.int32, 2: torch.int16}[dtype.itemsize])
    bits[0] += 5  # a payload
    touch = Touch(torch.arange(4), torch.ones(4), 1.0)
    result, lost = compose_block(block, [touch])
    assert lost == 0
    assert raw(result)[: 3 * dtype.itemsize] == raw(block)[: 3 * dtype.itemsize]
    assert result[3] == 2.0


def test_every_bfloat16_that_no_patch_touches_keeps_its_bits():
    bits = torch.arange(2**16).to(torch.uint16)
    block = bits.view(torch.bfloat16)
    result, lost = compose_block(block, [Touch(torch.tensor([0]), torch.tensor([0.0]), 1.0)])
    assert lost == 0
    assert torch.equal(result.view(torch.uint16).int()[1:], bits.int()[1:])


def test_a_composition_that_overflows_names_the_tensor_and_leaves_nothing(tmp_path):
    write_model(tmp_path / "base", {"fine": torch.zeros(3), "w": torch.tensor([60000.0, 1.0]).half()}, 2)
    write_model(tmp_path / "tuned", {"fine": torch.ones(3), "w": torch.tensor([64000.0, 2.0]).half()})
    (tmp_path / "out").mkdir()
    with open_checkpoint(tmp_path / "base") as b, open_checkpoint(tmp_path / "tuned") as t:
        info = diff(b, t, tmp_path / "patch", MaskParams("0", "0"))
        with open_patch(tmp_path / "patch") as patch:
            recipe = make_recipe(info.base, "2", [(info.sha256, "1")])
            with pytest.raises(NotFinite, match="'w' overflows F16") as caught:
                compose(b, {info.sha256: patch}, recipe, tmp_path / "out", "cpu")
    assert caught.value.field == "w"
    assert list((tmp_path / "out").iterdir()) == []


def test_a_recipe_for_another_base_is_refused_before_or_after_reading(world):
    world.digest = "sha256:" + "0" * 64
    with pytest.raises(BaseMismatch, match=r"Patch .* is for base"):
        world.compose("out")
    with pytest.raises(BaseMismatch, match="this checkpoint is sha256:"):
        world.compose("none", weights=())
    assert list((world.folder / "out").iterdir()) == list((world.folder / "none").iterdir()) == []


def test_a_patch_that_does_not_fit_this_checkpoint_is_refused(world):
    write_model(world.folder / "other", {**world.base, "float32": torch.zeros(11, 30)})
    (world.folder / "base").rename(world.folder / "old")
    (world.folder / "other").rename(world.folder / "base")
    with pytest.raises(BaseMismatch, match=r"'float32' as F32 \[30, 11\]"):
        world.compose("out")


def test_one_changed_bit_of_the_base_is_noticed(world):
    path = world.folder / "base/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(BaseMismatch, match="this checkpoint is"):
        world.compose("out")
    assert list((world.folder / "out").iterdir()) == []


def test_a_recipe_whose_patch_is_not_given_is_refused(world):
    recipe = make_recipe(world.digest, "1", [("f" * 64, "1")])
    with open_checkpoint(world.folder / "base") as b, pytest.raises(InvalidRecipe, match="is not given"):
        compose(b, {}, recipe, world.folder, "cpu")


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\0\0\0"])
def test_a_mask_that_changed_after_its_check_is_an_error_and_no_garbage(world, data):
    path = next(iter(world.paths.values()))
    content = bytearray(path.read_bytes())
    size = 8 + int.from_bytes(content[:8], "little")
    content[size : size + 3] = data
    path.write_bytes(content)
    with pytest.raises(InvalidPatch, match="mask"):
        world.compose("out")
    assert list((world.folder / "out").iterdir()) == []


def test_a_full_disk_leaves_nothing(world, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(StorageFull):
        world.compose("out")
    assert list((world.folder / "out").iterdir()) == []


@pytest.mark.parametrize("kernel", ["read_parts", "read_masks"])
def test_a_read_that_fails_once_and_then_does_not_changes_no_byte(world, monkeypatch, kernel):
    whole, read, calls = world.compose("whole").weights_digest, getattr(staging, kernel), itertools.count()

    def flicker(*arguments):
        if len(arguments[0]) and next(calls) % 2 == 0:
            return 0  # says that the first failed, and has read nothing
        return read(*arguments)

    monkeypatch.setattr(staging, kernel, flicker)
    assert world.compose("again").weights_digest == whole


def test_progress_ends_at_all_bytes_of_the_base(world):
    seen = []
    world.compose("out", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == sum(t.nbytes for t in world.base.values())


def test_devices_are_chosen_by_name():
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") in ("cpu", "cuda")
    with pytest.raises(InvalidRequest, match="unknown"):
        pick_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(InvalidRequest, match="no CUDA device"):
            pick_device("cuda")


def test_numpy_rounds_as_the_slow_reference_does():
    assert slow_round(1 + 2.0**-24, torch.float32) == float(np.float32(1 + 2.0**-24)) == 1.0
