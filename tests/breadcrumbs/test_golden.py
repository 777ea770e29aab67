"""A version 1 patch made once, and kept: its files under golden/ are never regenerated."""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch

from registry.breadcrumbs.checking.check import check_patch
from registry.breadcrumbs.composing.compose import compose
from registry.breadcrumbs.diffing.diff import diff
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.digest import digest_checkpoint
from registry.breadcrumbs.formats.layout import MaskParams
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.breadcrumbs.formats.recipe import make_recipe, scale
from tests.support.science_makers import decode, raw, read_all, slow_mask, slow_round

GOLDEN = Path(__file__).parent / "golden"
BASE = "sha256:a7d53d2a1e3c4e6f826afdbea78b2f2da69b17705c9a1273e3653078abe4a054"
PATCH = "bb10e7bf147f9d9424d8d429b22c16bf6e44a411965a0ad58e0c6498edd9b5a6"
RECIPE = "82ada67fd0e01b484aa731e9f57f6c1f561d02c4461a259fab827135772eecad"
COMPOSED = "sha256:e2798d1fe456348dd67f9acdd945b5f52d14896a5d076d29966676a5a53afaa6"


def test_the_base_still_has_its_digest():
    lines = []
    for name, tensor in sorted(read_all(GOLDEN / "base.safetensors").items()):
        code = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64", "int64": "I64"}
        dtype, shape = code[str(tensor.dtype).removeprefix("torch.")], ",".join(map(str, tensor.shape))
        lines.append(f"{name}\t{dtype}\t{shape}\t{hashlib.sha256(raw(tensor)).hexdigest()}\n")
    assert "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest() == BASE
    with open_checkpoint(GOLDEN / "base.safetensors") as base:
        assert digest_checkpoint(base) == BASE


@pytest.mark.parametrize("threads", [1, 2])
def test_todays_code_makes_the_same_bytes(tmp_path, threads):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with (
            open_checkpoint(GOLDEN / "base.safetensors") as base,
            open_checkpoint(GOLDEN / "tuned.safetensors") as tuned,
        ):
            info = diff(base, tuned, tmp_path / "patch", MaskParams("0.6", "0.05"))
    finally:
        torch.set_num_threads(before)
    assert (tmp_path / "patch").read_bytes() == (GOLDEN / "v1.safetensors").read_bytes()
    assert info.sha256 == PATCH == hashlib.sha256((GOLDEN / "v1.safetensors").read_bytes()).hexdigest()


def test_the_kept_patch_is_what_the_specification_says():
    """Worked out from the two checkpoints by sorting, and read by the safetensors library: none of our code."""
    base, tuned = (read_all(GOLDEN / f"{name}.safetensors") for name in ("base", "tuned"))
    expected = {}
    for name, b in base.items():
        if not b.is_floating_point():
            continue
        delta = (tuned[name] - b).float() if b.dtype == torch.float64 else tuned[name].float() - b.float()
        values = delta.reshape(-1).tolist()
        mask = slow_mask(values, None, "0.6", "0.05")
        dtype = torch.float32 if b.dtype == torch.float64 else b.dtype
        pairs = [(i, slow_round(value, dtype)) for i, value in enumerate(values) if mask[i]]
        if pairs:
            expected[name] = pairs
    assert decode(GOLDEN / "v1.safetensors") == expected
    assert len(expected["sparse"]) == 2 and "same" not in expected


def test_todays_code_still_reads_the_kept_patch():
    with open_checkpoint(GOLDEN / "base.safetensors") as base:
        report = check_patch(GOLDEN / "v1.safetensors", BASE, base.tensors)
    assert report.sha256 == PATCH
    assert {tensor.name: tensor.nnz for tensor in report.tensors} == {
        name: len(pairs) for name, pairs in decode(GOLDEN / "v1.safetensors").items()
    }


def test_todays_code_still_composes_the_same_weights(tmp_path):
    recipe = make_recipe(BASE, "0.3", [(PATCH, "1.5")])
    assert recipe.digest == RECIPE
    with open_checkpoint(GOLDEN / "base.safetensors") as base, open_patch(GOLDEN / "v1.safetensors") as patch:
        assert compose(base, {PATCH: patch}, recipe, tmp_path, "cpu").weights_digest == COMPOSED
    changed = read_all(GOLDEN / "base.safetensors")
    for name, pairs in decode(GOLDEN / "v1.safetensors").items():
        flat = changed[name].reshape(-1)
        for place, value in pairs:
            flat[place] = slow_round(float(flat[place].double()) + scale("0.3", "1.5") * value, flat.dtype)
    found = read_all(tmp_path / "base.safetensors")
    assert {name: raw(tensor) for name, tensor in found.items()} == {n: raw(t) for n, t in changed.items()}


def test_a_copy_elsewhere_is_the_same_patch(tmp_path):
    shutil.copy(GOLDEN / "v1.safetensors", tmp_path / "blob")
    with open_patch(tmp_path / "blob") as patch:
        assert patch.info.base == BASE
