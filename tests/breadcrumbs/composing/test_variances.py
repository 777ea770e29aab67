import numpy as np
import pytest
import torch

from registry.breadcrumbs.composing.compose import compose
from registry.breadcrumbs.composing.variances import NegativeVariances, tell_negative
from registry.breadcrumbs.diffing.diff import diff
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.layout import MaskParams
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.breadcrumbs.formats.recipe import make_recipe
from tests.support.science_makers import write_model

WHOLE = MaskParams("0", "0")


def composed(folder, before, after, alpha):
    """Compose base + alpha * (after - before), and return how many variances became negative, by tensor."""
    write_model(folder / "base", before)
    write_model(folder / "tuned", after)
    with open_checkpoint(folder / "base") as base, open_checkpoint(folder / "tuned") as tuned:
        info = diff(base, tuned, folder / "patch", WHOLE)
        (folder / "out").mkdir()
        with open_patch(folder / "patch") as patch:
            recipe = make_recipe(info.base, alpha, [(info.sha256, "1")])
            return compose(base, {info.sha256: patch}, recipe, folder / "out", "cpu").negative


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_variances_that_become_negative_are_counted_and_no_other_weights(tmp_path, dtype):
    before = {"bn.running_var": torch.tensor([1.0, 2.0, -1.0, 0.5, 4.0]).to(dtype), "bn.weight": torch.ones(3)}
    after = {"bn.running_var": torch.tensor([0.25, 1.9, -2.0, 0.5, 1.0]).to(dtype), "bn.weight": torch.zeros(3)}
    assert composed(tmp_path, before, after, "2") == {"bn.running_var": 2}  # 1 - 1.5 and 4 - 6; -1 was negative before


def test_zero_is_not_negative_and_without_a_loss_nothing_is_said(tmp_path):
    before, after = {"bn.running_var": torch.ones(4)}, {"bn.running_var": torch.zeros(4)}
    assert composed(tmp_path, before, after, "1") == {}
    assert tell_negative({}) == []


def test_the_warning_names_tensors_and_counts():
    assert tell_negative({"b.running_var": 1}) == [
        "1 variance is negative that was not in the base: 'b.running_var' (1). The model computes NaN there; choose a "
        "smaller alpha, or make the patch without them: `crumb diff --exclude '*running_var'`."
    ]
    (sentence,) = tell_negative({f"{number}.running_var": 2 for number in range(8)})
    assert sentence.startswith("16 variances are negative that were not in the base: '0.running_var' (2), ")
    assert "'4.running_var' (2) and 3 more tensors." in sentence


def test_several_chunks_of_a_tensor_are_counted_together():
    found = NegativeVariances()
    before, after = (np.array(values, np.float32).view(np.uint8).data for values in ([1, 1], [-1, 1]))
    for _ in range(2):
        found.look("a.running_var", "F32", before, after)
    assert found.counts == {"a.running_var": 2}
