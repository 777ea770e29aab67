import math
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from registry.breadcrumbs.checking.claims import CheckResult
from registry.breadcrumbs.checking.finite import check_finite, try_on
from registry.breadcrumbs.comparing import base_norms
from registry.breadcrumbs.composing import engines, staging
from registry.breadcrumbs.composing.compose import compose
from registry.breadcrumbs.composing.staging import Step
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.digest import digest_checkpoint
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.breadcrumbs.formats.recipe import make_recipe
from registry.errors import BaseMismatch, NotFinite, StorageFailed
from registry.files.hashing import hash_file
from registry.sandboxes import tasks
from tests.support.conflict_makers import write_patch
from tests.support.science_makers import CODES, write_model

BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}

HALF = {torch.bfloat16: 2.0**119, torch.float16: 16.0, torch.float32: 2.0**103}
"""Half of the last bit of the largest number: what is just enough to overflow it."""


class Case:
    """A base and a patch of any changes, on disk."""

    def __init__(self, folder, base, changes, value_dtype="auto", shards=1):
        self.folder, self.files = folder / "base", {}
        write_model(self.folder, base, shards)
        with open_checkpoint(self.folder) as opened:
            self.digest = digest_checkpoint(opened)
            self.tensors = [(name, spec.dtype, list(spec.shape)) for name, spec in opened.tensors.items()]
        self.path = write_patch(folder / "patch.safetensors", self.digest, base, changes, value_dtype)

    def find(self, progress=None):
        with open_checkpoint(self.folder) as base, open_patch(self.path) as patch:
            return try_on(base, patch, progress).overflows

    def check(self):
        with open_checkpoint(self.folder) as base, open_patch(self.path) as patch:
            return check_finite(base, try_on(base, patch).overflows)

    def check_in_task(self, progress=lambda done: None):
        files = {path.name: str(path) for path in self.folder.iterdir()}
        return tasks.check_patch(str(self.path), hash_file(self.path), self.digest, self.tensors, files, progress)


def slow_lost(base, places, values):
    """Count what overflows, by the specification and with numpy; bfloat16 is rounded on the bits."""
    before = base.double().numpy()[places]
    with np.errstate(over="ignore", invalid="ignore"):
        total = before + values.double().numpy()
        if base.dtype != torch.float64:
            total = total.astype(np.float32)
        if base.dtype == torch.float16:
            total = total.astype(np.float16)
    lost = ~np.isfinite(total)
    if base.dtype == torch.bfloat16:
        lost = (total.view(np.uint32) & 0x7FFFFFFF).astype(np.int64) + 0x7FFF + (total.view(np.uint32) >> 16 & 1) >= (
            0x7F800000
        )
    return int((lost & np.isfinite(before)).sum())


@pytest.mark.parametrize("dtype", BITS, ids=CODES.get)
@pytest.mark.parametrize("size", [12, 400])
def test_what_overflows_is_found_and_what_only_just_fits_is_not(dtype, size, tmp_path):
    largest = torch.finfo(dtype).max
    base = torch.zeros(size, dtype=dtype)
    base[5], base[7], base[9] = largest, -largest, largest
    values = {torch.float64: torch.float32}.get(dtype, dtype)
    half = HALF.get(dtype, 1e30)
    step = torch.tensor([half, -half, -half, 1.0]).to(values)
    case = Case(tmp_path, {"w": base}, {"w": ([5, 7, 9, 11], step)})
    expected = {} if dtype == torch.float64 else {"w": 2}  # float32 values are too small for float64
    assert case.find() == expected
    assert slow_lost(base, [5, 7, 9, 11], step) == expected.get("w", 0)
    just = Case(tmp_path / "just", {"w": base}, {"w": ([5, 7, 9, 11], step * torch.tensor(0.49).to(values))})
    assert just.find() == {}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=CODES.get)
def test_where_the_base_is_not_finite_nothing_is_lost(dtype, tmp_path):
    largest = torch.finfo(dtype).max
    base = torch.tensor([math.inf, -math.inf, math.nan, largest], dtype=dtype)
    step = torch.tensor([largest, largest, largest], dtype=dtype)
    assert Case(tmp_path / "a", {"w": base}, {"w": ([0, 1, 2], step)}).find() == {}
    assert Case(tmp_path / "b", {"w": base}, {"w": ([0, 1, 3], step)}).find() == {"w": 1}


@given(data=st.data(), dtype=st.sampled_from(list(BITS)), value_dtype=st.sampled_from(["BF16", "F16", "F32"]))
def test_any_bits_are_judged_as_the_specification_says_and_as_composing_does(
    data, dtype, value_dtype, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("any")
    random = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    size = data.draw(st.integers(1, 300))
    large = data.draw(st.booleans())  # the largest numbers, and about half of their last bit, where it is decided
    values_of = {code: kind for kind, code in CODES.items()}[value_dtype]

    def draw(kind, count, choices):
        least = 2 ** (8 * kind.itemsize - 1)
        bits = torch.randint(-least, least - 1, (count,), generator=random)
        chosen = torch.tensor(choices, dtype=torch.float64)[torch.randint(len(choices), (count,), generator=random)]
        drawn = bits.to(BITS[kind]).view(kind)
        return torch.where(torch.rand(count, generator=random) < 0.7, chosen.to(kind), drawn) if large else drawn

    most, half = torch.finfo(dtype).max, HALF.get(dtype, 1.0)
    base = draw(dtype, size, [most, -most])
    count = data.draw(st.integers(1, size))
    places = torch.randperm(size, generator=random)[:count].sort().values.tolist()
    steps = [sign * factor * half for sign in (1, -1) for factor in (0.99, 1, 1.01)]
    values = draw(values_of, count, steps).nan_to_num(1.0, 2.0, 3.0)
    case = Case(folder, {"w": base}, {"w": (places, values)}, value_dtype)
    expected = slow_lost(base, places, values)
    assert case.find() == ({"w": expected} if expected else {})
    sha256 = hash_file(case.path)
    with open_checkpoint(case.folder) as opened, open_patch(case.path) as patch:
        recipe = make_recipe(case.digest, "1", [(sha256, "1")])
        try:
            compose(opened, {sha256: patch}, recipe, folder, "cpu")
        except NotFinite:
            assert expected
        else:
            assert not expected


def test_tensors_are_named_in_order_whatever_the_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "MIN_CHUNK_ELEMENTS", 64)
    monkeypatch.setattr(engines.CpuEngine, "step", Step(64, 64))
    sizes = {"b": 1000, "a": 900, "small": 4}
    base = {name: torch.full((size, 3), 60000.0).half() for name, size in sizes.items()}
    places = list(range(0, 3000, 7)), torch.full((429,), 30000.0).half()
    few = [1, 2699], torch.tensor([1.0, 30000.0]).half()
    case = Case(tmp_path, base, {"b": places, "a": few, "small": ([4], torch.ones(1).half())})
    found = case.find()
    assert list(found.items()) == [("a", 1), ("b", 429)]
    result = case.check()
    assert (result.name, result.status) == ("finite", "fail")
    assert "'a' overflows F16 in 1 element, and so does 1 more tensor" in result.summary


def test_only_tensors_that_the_patch_touches_are_read(tmp_path):
    base = {"w": torch.ones(64), "x": torch.ones(64), "y": torch.ones(64)}
    case = Case(tmp_path, base, {"w": ([3], torch.ones(1))}, shards=3)
    told = []
    with open_checkpoint(case.folder) as opened, open_patch(case.path) as patch:
        for shard, header in opened.headers.items():
            if "w" not in header.entries:
                os.truncate(case.folder / shard, header.size)
        assert try_on(opened, patch, lambda done, whole: told.append((done, whole))).overflows == {}
    assert told == [(256, 256)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "patch.safetensors"]


def test_another_base_is_refused(tmp_path):
    case = Case(tmp_path, {"w": torch.ones(64)}, {"w": ([3], torch.ones(1))})
    write_model(tmp_path / "other", {"w": torch.ones(63)})
    with (
        open_checkpoint(tmp_path / "other") as base,
        open_patch(case.path) as patch,
        pytest.raises(BaseMismatch, match=r"'w' as F32 \[64\]"),
    ):
        try_on(base, patch)


# Rounding


def slow_share(base, places, values):
    """Say which share of the values rounding explains, by the definition and with torch's casts."""
    before, after, count = base.double(), base.double().clone(), 0
    after[places] += values.double()
    for place, value in zip(places, values.double().tolist(), strict=True):
        one, due = before[place : place + 1], set()
        if base.dtype in (torch.bfloat16, torch.float16):
            bits = int(base[place : place + 1].view(torch.int16))
            sign, size = bits & -0x8000, bits & 0x7FFF
            near = [size - 1, size + 1] if size else [1, 1 | -0x8000]
            numbers = torch.tensor([sign | each for each in near], dtype=torch.int16).view(base.dtype).double()
            due = {float(number - one) for number in numbers}
        else:
            due = {float(one.float().to(kind).double() - one) for kind in (torch.bfloat16, torch.float16)}
        step = torch.tensor(sorted(due), dtype=torch.float64).to(values.dtype).double().tolist()
        count += value != 0 and value in step
    return count / len(places)


@pytest.mark.parametrize("dtype", BITS, ids=CODES.get)
@pytest.mark.parametrize(("size", "count"), [(5000, 4000), (5000, 90)])
def test_the_share_that_rounding_explains_is_that_of_the_definition(dtype, size, count, tmp_path):
    random = torch.Generator().manual_seed(size + count)
    base = torch.randn(size, generator=random, dtype=torch.float64).mul(0.02).to(dtype)
    base[::7] = torch.exp2(torch.randint(-20, 3, base[::7].shape, generator=random).double()).to(dtype)
    places = torch.randperm(size, generator=random)[:count].sort().values
    wide = base.double()[places]
    kinds = torch.randint(4, (count,), generator=random)
    tuned = wide.float().bfloat16().double()
    tuned = torch.where(kinds == 1, wide.float().half().double(), tuned)
    tuned = torch.where(kinds == 2, wide * 1.3, tuned)
    step = torch.sign(torch.randn(count, generator=random)).double()
    halves = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}.get(dtype, 0.01)
    tuned = torch.where(kinds == 3, (wide * (1 + 1.01 * step * halves)).to(dtype).double(), tuned)
    values = (tuned - wide).to({torch.float64: torch.float32}.get(dtype, dtype))
    case = Case(tmp_path, {"w": base}, {"w": (places.tolist(), values)})
    with open_checkpoint(case.folder) as opened, open_patch(case.path) as patch:
        share = try_on(opened, patch).rounding
    assert share == pytest.approx(slow_share(base, places.tolist(), values), abs=1e-12)
    assert 0.1 < share < 0.9


def test_what_was_only_rounded_is_all_rounding_and_what_was_trained_is_not(tmp_path):
    random = torch.Generator().manual_seed(3)
    base = torch.randn(4000, generator=random) * 0.02
    places = list(range(4000))
    trained = base + torch.randn(4000, generator=random) * 1e-5  # less than a step of BF16
    for name, tuned, values, due in (
        ("bf16", base.bfloat16().float(), "auto", 1.0),
        ("f16", base.half().float(), "auto", 1.0),
        ("stored in bf16", base.bfloat16().float(), "BF16", 1.0),
        ("trained", trained, "auto", 0.0),
    ):
        delta = tuned - base
        values_of = torch.bfloat16 if values == "BF16" else torch.float32
        case = Case(tmp_path / name, {"w": base}, {"w": (places, delta.to(values_of))}, values)
        with open_checkpoint(case.folder) as opened, open_patch(case.path) as patch:
            assert try_on(opened, patch).rounding == pytest.approx(due, abs=0.01), name


def test_rounding_is_counted_over_all_chunks_and_tensors(tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "MIN_CHUNK_ELEMENTS", 64)
    monkeypatch.setattr(engines.CpuEngine, "step", Step(64, 64))
    base = {"a": torch.full((900,), 1.0).bfloat16(), "b": torch.full((900,), 1.0).bfloat16()}
    steps = torch.full((300,), 2.0**-7).bfloat16()
    many, few = (range(0, 900, 3), steps), ([1, 899], torch.tensor([-(2.0**-8), 2.0**-6]).bfloat16())
    case = Case(tmp_path, base, {"a": many, "b": few})
    with open_checkpoint(case.folder) as opened, open_patch(case.path) as patch:
        assert try_on(opened, patch).rounding == 301 / 302
    assert case.check_in_task()["rounding"] == 301 / 302


def test_the_base_is_measured_where_the_patch_touches_it_and_as_comparing_does(tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "MIN_CHUNK_ELEMENTS", 64)
    monkeypatch.setattr(engines.CpuEngine, "step", Step(64, 64))
    monkeypatch.setattr(base_norms, "CHUNK", 70)
    base = {
        "a": torch.linspace(-3, 3, 900).bfloat16(),
        "b": torch.linspace(0, 1, 333, dtype=torch.float64),
        "not touched": torch.full((900,), 7.0),
    }
    base["b"][5], base["b"][6] = math.nan, math.inf
    case = Case(tmp_path, base, {"a": ([1, 899], torch.tensor([1.0, 2.0]).bfloat16()), "b": ([0], torch.tensor([1.0]))})
    squares = [(base[name].double().nan_to_num(0, 0, 0) ** 2).sum() for name in ("a", "b")]
    with open_checkpoint(case.folder) as opened, open_patch(case.path) as patch:
        assert try_on(opened, patch).base_norm == pytest.approx(math.sqrt(sum(squares)))
        assert base_norms.measure_bases(opened, [patch]) == pytest.approx([math.sqrt(sum(squares))])
    assert case.check_in_task()["base_norm"] == pytest.approx(math.sqrt(sum(squares)))


# In the task


def test_the_task_lists_what_every_check_found_and_only_moves_on(tmp_path):
    base = {name: torch.ones(200, 30) for name in ("v", "w", "x")}
    case = Case(tmp_path, base, {name: (range(6000), torch.ones(6000)) for name in base}, shards=2)
    told = []
    report = case.check_in_task(told.append)
    assert [(check["name"], check["status"]) for check in report["checks"]] == [
        ("format", "pass"), ("base", "pass"), ("finite", "pass"), ("density", "pass"),
    ]  # fmt: skip
    assert report["checks"][0]["summary"] == "The file is a sound patch."
    assert case.digest in report["checks"][1]["summary"]
    assert told == sorted(told)
    assert 0 <= told[0] < 0.5 < told[-1] == 1
    assert report["nnz"] == 18000


def test_an_overflow_fails_a_check_of_the_task_and_raises_nothing(tmp_path):
    base = {"w": torch.full((4,), 65504.0).half()}
    report = Case(tmp_path, base, {"w": ([1, 3], torch.full((2,), 60000.0).half())}).check_in_task()
    found = {check["name"]: check for check in report["checks"]}
    assert found["finite"]["status"] == "fail"
    assert found["finite"]["summary"].startswith("With alpha 1 tensor 'w' overflows F16 in 2 elements;")
    assert found["format"]["status"] == found["density"]["status"] == "pass"


@pytest.mark.parametrize("damage", ["header", "short", "gone"])
def test_a_base_that_the_disk_damaged_is_not_the_patchs_fault(damage, tmp_path):
    case = Case(tmp_path, {"w": torch.ones(64)}, {"w": ([3], torch.ones(1))})
    file = case.folder / "model.safetensors"
    content = file.read_bytes()
    damaged = {"header": content[:8] + b"?" + content[9:], "short": content[:-1]}
    file.unlink() if damage == "gone" else file.write_bytes(damaged[damage])
    case_files = {"model.safetensors": str(file)}
    with pytest.raises(StorageFailed, match=r"damaged|missing"):
        tasks.check_patch(
            str(case.path), hash_file(case.path), case.digest, case.tensors, case_files, lambda done: None
        )


def test_a_patch_that_stays_finite_passes(tmp_path):
    case = Case(tmp_path, {"w": torch.ones(64)}, {"w": ([3], torch.ones(1))})
    assert case.check() == CheckResult("finite", "pass", "With alpha 1 no weight overflows.")
