"""A sound patch of a small model, for tests that spoil it."""

from pathlib import Path

import torch

from registry.breadcrumbs.diffing.diff import diff
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.header import TensorSpec
from registry.breadcrumbs.formats.layout import MaskParams
from tests.support.science_makers import take_apart, write_model

BASE = {
    "a": torch.zeros(5, 3),
    "b": torch.zeros(200).bfloat16(),
    "c": torch.zeros(4, dtype=torch.int64),
    "d": torch.zeros(16, dtype=torch.float64),
}
TUNED = {
    "a": torch.arange(15.0).reshape(5, 3) % 4,
    "b": torch.cat([torch.zeros(50), torch.ones(3), torch.zeros(147)]).bfloat16(),
    "c": BASE["c"],
    "d": torch.ones(16, dtype=torch.float64),
}
SPECS = {
    "a": TensorSpec("F32", (5, 3)),
    "b": TensorSpec("BF16", (200,)),
    "c": TensorSpec("I64", (4,)),
    "d": TensorSpec("F64", (16,)),
}


def make_sound(folder: Path) -> bytes:
    """Return the patch's bytes."""
    write_model(folder / "base", BASE)
    write_model(folder / "tuned", TUNED)
    with open_checkpoint(folder / "base") as b, open_checkpoint(folder / "tuned") as t:
        diff(b, t, folder / "patch", MaskParams("0", "0"))
        assert b.tensors == SPECS
    return (folder / "patch").read_bytes()


def digest(content: bytes) -> str:
    """Return the base that a patch is for."""
    return str(take_apart(content)[0]["base"])
