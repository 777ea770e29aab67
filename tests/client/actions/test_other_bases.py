"""A patch for another base is refused by the digests of the two bases, whatever else does not fit."""

import json
from pathlib import Path

import numpy as np
import torch

from tests.support.science_makers import write_model
from tests.support.visitors import Crumb


def test_a_patch_for_a_base_of_more_tensors_is_refused_by_the_digests(crumb: Crumb, tmp_path: Path) -> None:
    made = np.random.default_rng(0)
    many = {f"w{number}": torch.from_numpy(made.standard_normal(9)) for number in range(40)}
    write_model(tmp_path / "other", many)
    write_model(tmp_path / "changed", {name: tensor + 0.1 for name, tensor in many.items()})
    write_model(tmp_path / "base", {"w": torch.ones(4)})
    digest = json.loads(crumb("diff", "other", "changed", "-o", "p.safetensors", "--json"))["base"]
    crumb("apply", "base", "p.safetensors", "-o", "m", code=1)
    assert f"made for base {digest}, and this is sha256:" in crumb.errors
    crumb("apply", "other", "p.safetensors", "-o", "m")
