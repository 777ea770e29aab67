"""Norms: a patch out of the ordinary is a warning with numbers."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from registry.services.catalog import norms
from tests.support.community import NAME, Community
from tests.support.makers import changed, fine_tuned, make_patch
from tests.support.reviewing import accept, approve

pytestmark = pytest.mark.heavy


def test_an_outlying_norm_is_a_warning_with_numbers() -> None:
    ordinary = [1.0, 1.1, 0.9, 1.05]
    assert norms.outlier_warning("x", 1.2, ordinary) is None
    assert norms.outlier_warning("x", 30.0, ordinary) == "x has L2 norm 30, 33.8 deviations from the median 1.025"
    assert norms.outlier_warning("x", 0.01, ordinary) is not None, "a patch that does nothing is odd, too"
    assert norms.outlier_warning("x", 0.0, ordinary) is None, "nothing has no logarithm"
    assert norms.outlier_warning("x", 30.0, ordinary[:2]) is None, "two are not enough to say what is ordinary"
    assert norms.outlier_warning("x", 30.0, [1.0, 1.0, 0.0]) is None, "and one that is zero is none of them"


def test_near_equal_norms_do_not_flag_each_other_and_one_odd_one_moves_nothing() -> None:
    assert norms.outlier_warning("x", 1.4, [1.0, 1.0, 1.0]) is None
    assert norms.outlier_warning("x", 1.6, [1.0, 1.0, 1.0]) is not None
    assert norms.outlier_warning("x", 1e6, [1.0, 1.01, 0.99, 1e6]) is not None
    wide = [math.exp(-0.5), 1.0, math.exp(0.5)]  # a normal distribution of this MAD deviates by 0.5 * 1.4826
    assert norms.outlier_warning("x", math.exp(2.9), wide) is None
    assert norms.outlier_warning("x", math.exp(3.0), wide) is not None


def test_the_worker_warns_of_a_patch_out_of_the_ordinary(crew: Community, tmp_path: Path) -> None:
    def check(number: int) -> dict[str, Any]:
        (found,) = (one for one in crew.get(f"/patches/{number}/discussion")["checks"] if one["name"] == "norms")
        return found

    def push(name: str, tuned: Path) -> dict[str, Any]:
        make_patch(crew.base, tuned, tmp_path / f"{name}.safetensors")
        return check(crew.push(tmp_path / f"{name}.safetensors")["number"])

    assert check(4)["summary"] == f"Not compared: {NAME} has 0 accepted patches, and 3 are needed."
    crew.accept(1, 2)
    assert push("early", fine_tuned(crew.base, tmp_path / "early", seed=21, scale=1.0))["status"] == "pass"
    crew.accept(3)
    ordinary = push("ordinary", fine_tuned(crew.base, tmp_path / "ordinary", seed=22))
    assert (ordinary["status"], ordinary["required"]) == ("pass", False)
    assert "ordinary among 3 accepted patches" in ordinary["summary"]
    far = push("far", fine_tuned(crew.base, tmp_path / "far", seed=23, scale=1.0))
    assert far["status"] == "warn"
    assert far["summary"].startswith("the whole patch has L2 norm ")
    assert "deviations from the median" in far["summary"]
    assert "embed.weight has L2 norm" in far["summary"]

    def only_norm(name: str, tensor: torch.Tensor) -> torch.Tensor:  # far in one small tensor alone
        if not tensor.is_floating_point():
            return tensor
        random = torch.Generator().manual_seed(24)
        return tensor + torch.randn(tensor.shape, generator=random) * (0.09 if "norm" in name else 0.01)

    one = push("one", changed(crew.base, tmp_path / "one", only_norm))
    assert one["status"] == "warn"
    assert one["summary"].startswith("layers.0.norm.weight has L2 norm")
    crew.post("bob", "/patches/7/propose")
    approve(crew, "rita", 7)
    accept(crew, 7)  # a warning is no verdict
