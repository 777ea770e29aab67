"""The methods ties and mean, and weights by tensor: to the bit what the specification says."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.breadcrumbs.composing import staging
from registry.breadcrumbs.composing.engines import CpuEngine
from registry.breadcrumbs.composing.staging import Step
from registry.breadcrumbs.formats.recipe import scale
from tests.support.science_makers import (
    DTYPES,
    PatchedBase,
    Touch,
    compose_block,
    decode,
    raw,
    read_all,
    slow_combine,
    slow_round,
)

VALUES = st.floats(width=16, allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 6e-8, 1.0, -1.0])
WEIGHTS = st.sampled_from([1.0, 0.5, 2.0, scale("0.3"), scale("0.0000001"), scale("12345678")])


@pytest.fixture
def world(tmp_path):
    return PatchedBase(tmp_path)


@given(
    st.lists(VALUES, min_size=1, max_size=20),
    st.lists(st.tuples(WEIGHTS, st.lists(VALUES, min_size=20, max_size=20)), max_size=5),
    st.sampled_from(DTYPES),
    st.sampled_from([scale("0.3"), -1.0, 0.0, 1.0, scale("3.7")]),
    st.sampled_from(["ties", "mean"]),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_a_block_is_combined_as_in_exact_words(base, patches, dtype, alpha, method, indices):
    block = torch.tensor(base, dtype=torch.float64).to(dtype)
    votes, touches = {}, []
    for number, (by, values) in enumerate(patches):
        places = torch.arange(number % 2, len(base), 1 + number % 3)
        kept = torch.tensor(values[: len(places)], dtype=torch.float32)
        touches.append(Touch(places, kept, by))
        for place, value in zip(places.tolist(), kept.double().tolist(), strict=True):
            votes.setdefault(place, []).append((by, value))
    expected = [
        slow_round(slow_combine(value, votes.get(place, []), method, alpha), dtype)
        for place, value in enumerate(block.double().tolist())
    ]
    result, lost = compose_block(block, touches, indices, method, alpha)
    assert lost == sum(not np.isfinite(value) for value in expected)
    if not lost:
        assert raw(result) == raw(torch.tensor(expected, dtype=torch.float64).to(dtype))


def test_the_sign_with_more_mass_is_elected_and_a_zero_has_no_vote():
    def composed(method, *votes):
        touches = [Touch(torch.tensor([0]), torch.tensor([value]), by) for by, value in votes]
        return compose_block(torch.tensor([10.0]), touches, method=method)[0].item()

    assert composed("ties", (1.0, 3.0), (1.0, 1.0), (1.0, -2.0)) == 12.0  # the mean of 3 and 1
    assert composed("ties", (1.0, 3.0), (2.0, -2.0), (1.0, -2.0)) == 8.0  # a mass of 6 against 3
    assert composed("ties", (1.0, 1.0), (1.0, -1.0)) == 11.0  # of equal masses plus
    assert composed("ties", (1.0, 2.0), (1.0, 0.0)) == 12.0
    assert composed("mean", (1.0, 2.0), (1.0, 0.0)) == 11.0
    assert composed("mean", (3.0, 1.0), (1.0, -3.0)) == 10.0


@pytest.mark.parametrize("method", ["ties", "mean"])
def test_where_nobody_votes_the_base_keeps_its_bits(method):
    base = torch.tensor([-0.0, float("nan"), -0.0, float("inf")])
    voted = Touch(torch.tensor([0]), torch.tensor([0.0]), 1.0)
    result, lost = compose_block(base, [voted], method=method)
    assert lost == 0
    assert raw(result)[4:] == raw(base)[4:]
    assert raw(result)[:4] == (raw(base)[:4] if method == "ties" else bytes(4))  # -0 plus a mean of 0 is 0


@pytest.mark.parametrize("method", ["sum", "ties", "mean"])
def test_a_model_is_composed_with_weights_by_tensor(world, monkeypatch, method):
    monkeypatch.setattr(staging, "MIN_CHUNK_ELEMENTS", 128)
    monkeypatch.setattr(CpuEngine, "step", Step(2000, 256))
    where = (("float*", "0.5"), ("*", "0.25")), (("[a-c]*", "0"), ("float1?", "3")), ()
    weights = ("1", "0.75", "2")
    world.compose("out", "-0.7", weights, method=method, where=where)
    factors = [{"bfloat16": "0.25", "scalar": "0.25"}, {"bfloat16": None, "float16": "3"}, {}]
    default = ["0.5", "1", "1"]
    votes = {}
    for sha256, weight, special, usual in sorted(zip(world.paths, weights, factors, default, strict=True)):
        for name, places in decode(world.paths[sha256]).items():
            factor = special.get(name, usual)
            if factor is not None:
                by = scale(*(["-0.7"] if method == "sum" else []), weight, factor)
                for place, value in places:
                    votes.setdefault(name, {}).setdefault(place, []).append((by, value))
    found = read_all(world.folder / "out/model.safetensors")
    for name, before in world.base.items():
        expected = [
            slow_round(slow_combine(value, votes[name][place], method, scale("-0.7")), before.dtype)
            if place in votes.get(name, {})
            else value
            for place, value in enumerate(before.reshape(-1).tolist())
        ]
        assert raw(found[name]) == raw(torch.tensor(expected, dtype=before.dtype)), name


def test_order_and_threads_change_no_byte_of_a_vote(world, monkeypatch):
    for method in ("ties", "mean"):
        first = world.compose(method, weights=("1", "0.5", "2"), method=method).weights_digest
        monkeypatch.setattr(staging, "MIN_CHUNK_ELEMENTS", 64)
        monkeypatch.setattr(CpuEngine, "step", Step(64, 64))
        assert world.compose(f"{method}1", weights=("1", "0.5", "2"), method=method, threads=3).weights_digest == first
        monkeypatch.undo()


def test_a_factor_of_0_everywhere_leaves_the_base(world):
    gone = (("*", "0"),)
    assert world.compose("out", where=(gone, gone, gone)).weights_digest == world.digest
