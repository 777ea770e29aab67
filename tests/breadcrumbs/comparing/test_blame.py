import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.breadcrumbs.comparing import blame
from registry.breadcrumbs.comparing.blame import blame_model, blame_tensor, blame_weight
from registry.breadcrumbs.composing.compose import compose
from registry.breadcrumbs.diffing.diff import diff
from registry.breadcrumbs.formats import blocks
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.digest import digest_checkpoint
from registry.breadcrumbs.formats.header import TensorSpec, format_header
from registry.breadcrumbs.formats.layout import MaskParams, format_metadata, layout
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.breadcrumbs.formats.recipe import make_recipe, scale
from registry.errors import BaseMismatch, InvalidPatch, InvalidRecipe, InvalidRequest
from tests.support.science_makers import decode, read_all, write_model

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
MASKS = [
    MaskParams("0.3", "0.007"),
    MaskParams("0.4", "0.1", "row", "F32"),
    MaskParams("0.98", "0", "tensor", "BF16"),  # so few that they are stored as indices
]
WEIGHTS = ("1", "-0.5", "2.7")


class Case:
    """A base of every dtype in two shards, three patches for it, a recipe of them, and what it composes to."""

    def __init__(self, folder):
        random = torch.Generator().manual_seed(3)
        self.folder = folder
        self.base = {
            **{
                code: torch.randn(9, 5, 11, dtype=torch.float64, generator=random).to(kind)
                for code, kind in DTYPES.items()
            },
            "scalar": torch.tensor(-0.0),
            "endless": torch.tensor([math.inf, -math.inf, 1.0]),
            "ids": torch.arange(3),
            "empty": torch.zeros(0, 2),
        }
        write_model(folder / "base", self.base, 2)
        self.opened = {}
        self.checkpoint = open_checkpoint(folder / "base")
        self.digest = digest_checkpoint(self.checkpoint)
        for seed, params in enumerate(MASKS):
            tuned = {
                name: t + torch.randn(t.shape, generator=random, dtype=torch.float64).to(t.dtype)
                if t.is_floating_point()
                else t
                for name, t in self.base.items()
            }
            write_model(folder / f"tuned{seed}", tuned)
            with open_checkpoint(folder / f"tuned{seed}") as after:
                left_out = ["endless", *(["F16"] if seed == 1 else [])]
                info = diff(self.checkpoint, after, folder / f"patch{seed}", params, exclude=left_out)
            self.opened[info.sha256] = open_patch(folder / f"patch{seed}")
        self.decoded = {sha256: decode(folder / f"patch{seed}") for seed, sha256 in enumerate(self.opened)}
        self.recipe = self.recipe_of()
        (folder / "out").mkdir()
        compose(self.checkpoint, self.opened, self.recipe, folder / "out", "cpu")
        self.composed = {name: t for file in (folder / "out").iterdir() for name, t in read_all(file).items()}

    def recipe_of(self, alpha="0.3", weights=WEIGHTS):
        return make_recipe(self.digest, alpha, zip(self.opened, weights, strict=True))

    def weight(self, tensor, *index):
        return blame_weight(self.checkpoint, self.opened, self.recipe, tensor, index)

    def close(self):
        for opened in (self.checkpoint, *self.opened.values()):
            opened.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = Case(tmp_path_factory.mktemp("world"))
    yield made
    made.close()


def same(found, expected):
    """Compare to the bit, zeros with their signs."""
    return np.float64(found).tobytes() == np.float64(expected).tobytes()


@given(data=st.data(), tensor=st.sampled_from(list(DTYPES)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_a_weights_parts_are_what_the_files_hold_and_their_sum_is_what_was_composed(world, data, tensor):
    shape = world.base[tensor].shape
    index = tuple(data.draw(st.integers(0, length - 1)) for length in shape)
    place = int(np.ravel_multi_index(index, shape))
    found = world.weight(tensor, *index)
    assert (found.tensor, found.index, found.dtype) == (tensor, index, tensor)
    assert same(found.base, world.base[tensor][index].double())
    assert same(found.composed, world.composed[tensor][index].double())
    expected = {}
    for sha256, weight in zip(world.opened, WEIGHTS, strict=True):
        for at, value in world.decoded[sha256].get(tensor, []):
            if at == place:
                factor = float(np.float32(scale("0.3", weight)))
                expected[sha256] = (value, factor, np.float64(factor) * np.float64(value))
    assert {part.sha256: (part.value, part.scale, part.amount) for part in found.contributions} == expected
    sizes = [abs(part.amount) for part in found.contributions]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("tensor", [*DTYPES, "scalar"])
def test_every_weight_of_a_tensor_is_as_composed(world, tensor):
    touched = {sha256: dict(places.get(tensor, [])) for sha256, places in world.decoded.items()}
    masks = {patch.mask_entry(tensor).dtype for patch in world.opened.values() if tensor in patch.info.tensors}
    assert tensor == "scalar" or masks == {"U8", "I32"}
    count = 0
    for place, index in enumerate(itertools.product(*map(range, world.base[tensor].shape))):
        found = world.weight(tensor, *index)
        assert same(found.composed, world.composed[tensor][index].double())
        assert same(found.base, world.base[tensor][index].double())
        assert {part.sha256 for part in found.contributions} == {s for s in touched if place in touched[s]}
        count += len(found.contributions)
    assert count == sum(map(len, touched.values())) > 0


def test_equal_contributions_are_in_the_order_of_their_digests(tmp_path):
    base, patches = {"w": torch.zeros(4)}, {}
    write_model(tmp_path / "base", base)
    with open_checkpoint(tmp_path / "base") as opened:
        digest = digest_checkpoint(opened)
        for number in range(4):
            write_model(tmp_path / f"tuned{number}", {"w": torch.tensor([(-1.0) ** number, 0, 0, number + 1.0])})
            with open_checkpoint(tmp_path / f"tuned{number}") as tuned:
                info = diff(opened, tuned, tmp_path / f"patch{number}", MaskParams("0", "0"))
            patches[info.sha256] = open_patch(tmp_path / f"patch{number}")
        recipe = make_recipe(digest, "1", [(sha256, "1") for sha256 in patches])
        first = blame_weight(opened, patches, recipe, "w", (0,))
        last = blame_weight(opened, patches, recipe, "w", (3,))
        none = blame_weight(opened, patches, recipe, "w", (1,))
    assert [part.sha256 for part in first.contributions] == sorted(patches)
    assert [part.value for part in last.contributions] == [4, 3, 2, 1]
    assert none.contributions == ()
    for patch in patches.values():
        patch.close()


def test_a_base_weight_that_is_not_finite_stays_and_a_sum_that_overflows_is_infinite(tmp_path):
    write_model(tmp_path / "base", {"w": torch.tensor([60000.0, 5.0]).half()})
    write_model(tmp_path / "tuned", {"w": torch.tensor([65504.0, 6.0]).half()})
    with open_checkpoint(tmp_path / "base") as base, open_checkpoint(tmp_path / "tuned") as tuned:
        info = diff(base, tuned, tmp_path / "patch", MaskParams("0", "0"))
    content = (tmp_path / "base/model.safetensors").read_bytes()
    (tmp_path / "base/model.safetensors").write_bytes(content[:-2] + b"\x00\xfc")
    recipe = make_recipe(info.base, "2", [(info.sha256, "1")])
    with open_checkpoint(tmp_path / "base") as base, open_patch(tmp_path / "patch") as patch:
        found = [blame_weight(base, {info.sha256: patch}, recipe, "w", (place,)) for place in (0, 1)]
    assert (found[0].base, found[0].composed) == (60000.0, math.inf)
    assert (found[1].base, found[1].composed) == (-math.inf, -math.inf)
    assert [part.amount for part in found[1].contributions] == [2.0]


@pytest.mark.parametrize(
    ("tensor", "index", "said"),
    [
        ("missing", (0,), r"no tensor 'missing'; .* such as 'BF16'\."),
        ("ids", (0,), r"'ids' is I64, and patches change floating-point"),
        ("empty", (0, 0), r"'empty' of shape \[0, 2\] has no weights"),
        ("F32", (0, 0), r"'F32' of shape \[9, 5, 11\] has no weight at \[0, 0\]; write 3 numbers, from \[0, 0, 0\] to"),
        ("F32", (0, 0, 0, 0), r"to \[8, 4, 10\]\.$"),
        ("F32", (), r"has no weight at \[\]"),
        ("F32", (0, 5, 0), r"has no weight at \[0, 5, 0\]"),
        ("F32", (-1, 0, 0), r"has no weight at \[-1, 0, 0\]"),
        ("scalar", (0,), r"'scalar' of shape \[\] has no weight at \[0\]; write no number at all\."),
    ],
)
def test_a_weight_that_is_not_there_is_refused_with_what_to_write(world, tensor, index, said):
    with pytest.raises(InvalidRequest, match=said):
        world.weight(tensor, *index)
    if tensor in ("missing", "ids"):
        with pytest.raises(InvalidRequest, match=said):
            blame_tensor(world.checkpoint, world.opened, world.recipe, tensor)


def test_recipe_patches_and_base_must_fit(world, tmp_path):
    first, *others = world.opened
    some = {sha256: world.opened[sha256] for sha256 in others}
    with pytest.raises(InvalidRecipe, match=f"Patch {first} of the recipe is not given"):
        blame_weight(world.checkpoint, some, world.recipe, "F32", (0, 0, 0))
    elsewhere = make_recipe(f"sha256:{'0' * 64}", "1", [(first, "1")])
    with pytest.raises(BaseMismatch, match="the recipe for sha256:0000"):
        blame_model(world.checkpoint, world.opened, elsewhere)
    write_model(tmp_path / "other", {**world.base, "F16": torch.zeros(2)})
    with open_checkpoint(tmp_path / "other") as other, pytest.raises(BaseMismatch, match=r"'F16' as F16 \[9, 5, 11\]"):
        blame_tensor(other, world.opened, world.recipe, "F32")


# One weight of many


@pytest.mark.parametrize("sparse", [True, False])
def test_of_a_tensor_of_billions_only_the_weight_and_its_place_are_read(sparse, tmp_path, monkeypatch):
    size = 2**31 + 70  # more than I32 counts
    spec, params = TensorSpec("F16", (size // 2, 2)), MaskParams("0", "0")
    nnz = 1000 if sparse else size // 32 + 1
    entries = layout("w", spec, nnz, params)
    assert [dtype for _, dtype, _ in entries] == ["I64" if sparse else "U8", "F16"]
    digest = f"sha256:{'1' * 64}"
    header = format_header(entries, format_metadata(digest, params, {"w": spec}))
    mask_bytes = 8 * nnz if sparse else (size + 7) // 8
    values = np.arange(1, 1001, dtype=np.float16)
    with (tmp_path / "patch").open("wb") as file:  # with holes, where the file system has them
        file.write(header)
        if sparse:
            file.write((np.arange(1000, dtype=np.int64) * 2_000_000 + 7).tobytes())
        else:
            for octet in (0, 2**20, mask_bytes - 9):
                file.seek(len(header) + octet)
                file.write(b"\x81")
        file.seek(len(header) + mask_bytes)
        file.write(values.tobytes())
        file.truncate(len(header) + mask_bytes + 2 * nnz)
    front = format_header([("w", "F16", spec.shape)])
    with (tmp_path / "base.safetensors").open("wb") as file:
        file.write(front)
        file.truncate(len(front) + 2 * size)
    reads = []
    real = blocks.read_at
    monkeypatch.setattr(blocks, "read_at", lambda file, view, at: (reads.append(len(view)), real(file, view, at)))

    def value_at(flat):
        with open_checkpoint(tmp_path / "base.safetensors") as base, open_patch(tmp_path / "patch") as patch:
            recipe = make_recipe(digest, "0.5", [("a" * 64, "1")])
            found = blame_weight(base, {"a" * 64: patch}, recipe, "w", (flat // 2, flat % 2))
        assert found.composed == sum(part.amount for part in found.contributions)
        return [part.value for part in found.contributions]

    if sparse:
        assert [value_at(2_000_000 * at + 7) for at in (0, 1, 500, 999)] == [[1], [2], [501], [1000]]
        assert [value_at(flat) for flat in (0, 6, 8, 2_000_006, size - 1)] == [[]] * 5
        assert sum(reads) < 9 * 20 * 8
    else:
        last = 8 * (mask_bytes - 9)
        places = [0, 7, 8 * 2**20, 8 * 2**20 + 7, last, last + 7]
        assert [value_at(flat) for flat in places] == [[1], [2], [3], [4], [5], [6]]
        assert [value_at(flat) for flat in (1, 8, 8 * 2**20 + 6, last + 8, size - 1)] == [[]] * 5
        assert max(reads) <= 2**20


def test_a_mask_with_more_bits_than_values_is_refused(world, tmp_path):
    sha256, patch = next(iter(world.opened.items()))
    entry = patch.mask_entry("F32")
    content = bytearray((world.folder / "patch0").read_bytes())
    content[entry.start : entry.stop - 1] = b"\xff" * (entry.stop - 1 - entry.start)
    (tmp_path / "patch").write_bytes(content)
    recipe = make_recipe(world.digest, "1", [(sha256, "1")])
    with open_patch(tmp_path / "patch") as bad, pytest.raises(InvalidPatch, match="'F32' differ in number"):
        blame_weight(world.checkpoint, {sha256: bad}, recipe, "F32", (8, 4, 3))


# Shares


def slow_shares(world, recipe, tensors):
    """Shares by the decoded files and Python's exact sums."""
    weights, energies, counts = {item.sha256: item.weight for item in recipe.items}, {}, {}
    for sha256, decoded in world.decoded.items():
        scaled = [scale(recipe.alpha, weights[sha256]) * v for name in tensors for _, v in decoded.get(name, [])]
        if any(name in decoded for name in tensors):
            energies[sha256], counts[sha256] = math.fsum(value * value for value in scaled), len(scaled)
    total = sum(energies.values())
    ordered = sorted(energies, key=lambda sha256: (-energies[sha256], sha256))
    return [(s, counts[s], math.sqrt(energies[s]), energies[s] / total if total else 0.0) for s in ordered]


def agree(shares, expected):
    rows = [(share.sha256, share.nnz, share.l2, share.share) for share in shares]
    assert [row[:2] for row in rows] == [row[:2] for row in expected]
    for row, due in zip(rows, expected, strict=True):
        assert row[2:] == pytest.approx(due[2:], rel=1e-12)


@pytest.mark.parametrize("block", [7, 2**20])
def test_shares_of_tensors_and_model_are_those_of_the_energies(world, block, monkeypatch):
    monkeypatch.setattr(blame, "READ_ELEMENTS", block)
    touched = sorted({name for decoded in world.decoded.values() for name in decoded})
    whole = blame_model(world.checkpoint, world.opened, world.recipe)
    agree(whole.total, slow_shares(world, world.recipe, touched))
    assert list(whole.tensors) == touched
    for name in touched:
        agree(whole.tensors[name], slow_shares(world, world.recipe, [name]))
        assert blame_tensor(world.checkpoint, world.opened, world.recipe, name) == whole.tensors[name]
        assert sum(share.share for share in whole.tensors[name]) == pytest.approx(1)
    assert len(whole.tensors["F16"]) == 2  # one patch left it out
    assert blame_tensor(world.checkpoint, world.opened, world.recipe, "endless") == ()


@given(
    alpha=st.integers(-300, 300).map(lambda number: f"{number / 100}"),
    weights=st.tuples(*[st.integers(-30, 30).map(lambda number: f"{number / 10}")] * 3),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
def test_shares_follow_alpha_and_weights(world, alpha, weights):
    recipe = world.recipe_of(alpha, weights)
    agree(blame_tensor(world.checkpoint, world.opened, recipe, "F32"), slow_shares(world, recipe, ["F32"]))


def test_where_nothing_is_added_all_shares_are_zero(world):
    whole = blame_model(world.checkpoint, world.opened, world.recipe_of("0"))
    assert [(share.l2, share.share) for share in whole.total] == [(0.0, 0.0)] * 3
    assert [share.sha256 for share in whole.total] == sorted(world.opened)


def test_progress_comes_to_its_end(world):
    told = []
    blame_model(world.checkpoint, world.opened, world.recipe, lambda done, whole: told.append((done, whole)))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] > 0
    nothing = make_recipe(world.digest, "1", [])
    assert blame_model(world.checkpoint, {}, nothing).total == ()
