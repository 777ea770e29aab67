import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from registry.breadcrumbs.checking.check import check_patch
from registry.breadcrumbs.checking.claims import check_density
from registry.breadcrumbs.diffing.diff import diff
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.digest import digest_checkpoint
from registry.breadcrumbs.formats.layout import MaskParams
from tests.support.science_makers import build, slow_mask, take_apart, write_model


def report_of(folder, base, tuned, params, claims=None):
    """Check the patch between two models, which may claim something else than it was made with."""
    write_model(folder / "base", base)
    write_model(folder / "tuned", tuned)
    path = folder / "patch.safetensors"
    with open_checkpoint(folder / "base") as before, open_checkpoint(folder / "tuned") as after:
        diff(before, after, path, params)
        metadata, entries = take_apart(path.read_bytes())
        path.write_bytes(build(metadata | (claims or {}), entries))
        return check_patch(path, digest_checkpoint(before), before.tensors)


def verdict(folder, base, tuned, params, claims=None):
    report = report_of(folder, base, tuned, params, claims)
    return check_density(report.params, report.tensors)


def moved(base, share=1.0):
    random = torch.Generator().manual_seed(5)
    return {
        name: tensor
        + (1 + torch.rand(tensor.shape, generator=random)) * (torch.rand(tensor.shape, generator=random) < share)
        for name, tensor in base.items()
    }


decimals = st.integers(0, 99).map(lambda number: f"{number / 100}")


@given(
    shape=st.lists(st.integers(1, 12), max_size=3),
    bottom=decimals,
    top=decimals,
    granularity=st.sampled_from(["tensor", "row"]),
    share=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_an_honest_patch_never_fails_and_one_where_all_changed_keeps_just_what_it_may(
    shape, bottom, top, granularity, share, tmp_path_factory
):
    if float(bottom) + float(top) >= 1:
        bottom, top = "0.4", "0.3"
    base = {"w": torch.zeros(shape), "one": torch.zeros(())}
    params = MaskParams(bottom, top, granularity)
    tuned = moved({"w": base["w"]}, share) | {"one": torch.ones(())}
    report = report_of(tmp_path_factory.mktemp("honest"), base, tuned, params)
    found = check_density(params, report.tensors)
    kept = sum(tensor.nnz for tensor in report.tensors)
    row = (shape or [1])[-1] if granularity == "row" else None
    by_sorting = 1 + sum(slow_mask([1.0] * math.prod(shape), row, bottom, top))
    assert found.name == "density"
    assert found.status in ("pass", "warn")
    if share == 1.0:
        assert kept == by_sorting
        assert found.status == "pass"
        assert f"{kept} of the {kept} values" in found.summary


@pytest.mark.parametrize(
    "claims",
    [{"drop_bottom": "0.61"}, {"drop_top": "0.11"}, {"drop_bottom": "0.99", "drop_top": "0"}],
)
@pytest.mark.parametrize("granularity", ["tensor", "row"])
def test_a_mask_that_claims_to_drop_more_than_it_does_fails(granularity, claims, tmp_path):
    base = {"a": torch.zeros(20, 100), "b": torch.zeros(100), "one": torch.zeros(1)}
    params = MaskParams("0.6", "0.1", granularity)
    assert verdict(tmp_path / "honest", base, moved(base), params).status == "pass"
    found = verdict(tmp_path / "lying", base, moved(base), params, claims)
    assert found.status == "fail"
    assert "2 of 3 tensors have more values" in found.summary
    assert found.summary.endswith("make the patch again with `crumb diff`.")


def test_one_value_too_many_fails(tmp_path):
    base = {"w": torch.zeros(100)}
    assert verdict(tmp_path / "as-made", base, moved(base), MaskParams("0.5", "0")).status == "pass"
    found = verdict(tmp_path / "claimed", base, moved(base), MaskParams("0.5", "0"), {"drop_bottom": "0.51"})
    assert found.status == "fail"
    assert "1 of 1 tensors has more values than drop_bottom 0.51 and drop_top 0 by tensor can keep" in found.summary
    assert "'w' with 50 where 49 is the most" in found.summary


def test_the_tensor_that_is_furthest_off_is_named(tmp_path):
    base = {"v": torch.zeros(10), "w": torch.zeros(100), "x": torch.zeros(10)}
    found = verdict(tmp_path / "over", base, moved(base), MaskParams("0.5", "0"), {"drop_bottom": "0.91"})
    assert "above all 'w' with 50 where 9 is the most" in found.summary
    tuned = {name: tensor.clone() for name, tensor in base.items()}
    for name, changed in (("v", 2), ("w", 10), ("x", 2)):
        tuned[name][:changed] = 1.0
    found = verdict(tmp_path / "under", base, tuned, MaskParams("0.5", "0"))
    assert "3 of 3 tensors have less" in found.summary
    assert "above all 'w' with 10 of 50" in found.summary


def test_what_rows_may_keep_is_counted_by_rows(tmp_path):
    base = {"w": torch.zeros(10, 3)}  # floor(0.5 * 3) drops one of each row; floor(0.5 * 30) half of all
    found = verdict(tmp_path / "rows", base, moved(base), MaskParams("0.5", "0", "row"))
    assert (found.status, "20 of the 20 values" in found.summary) == ("pass", True)
    found = verdict(tmp_path / "tensor", base, moved(base), MaskParams("0.5", "0", "row"), {"granularity": "tensor"})
    assert found.status == "fail"
    assert "'w' with 20 where 15 is the most" in found.summary


def test_fewer_than_half_of_what_may_be_kept_is_for_people_to_judge(tmp_path):
    base = {"still": torch.zeros(40), "w": torch.zeros(100)}
    tuned = {name: tensor.clone() for name, tensor in base.items()}
    tuned["still"][:9], tuned["w"][:25] = 1.0, 1.0
    found = verdict(tmp_path / "under", base, tuned, MaskParams("0.5", "0"))
    assert found.status == "warn"
    assert "1 of 2 tensors has less than half of the values" in found.summary
    assert "'still' with 9 of 20" in found.summary
    tuned["still"][:10] = 1.0
    found = verdict(tmp_path / "half", base, tuned, MaskParams("0.5", "0"))
    assert found.status == "pass"
    assert "35 of the 70 values" in found.summary
