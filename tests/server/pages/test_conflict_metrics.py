"""The conflict metrics of pages are those of the API, for a layer as for a tensor."""

import pytest

from registry import schemas
from registry.breadcrumbs.comparing.sums import Sums, total
from registry.server.pages.comparing.conflict_metrics import METRICS, by_layer
from registry.server.pages.comparing.conflict_summary import most_touched, stacks, summarise, worst_tensors
from registry.server.views.conflicts import overlap

NOTHING = dict.fromkeys(schemas.Overlap.model_fields, 0)


def sums(scale: int, opposed: int) -> Sums:
    """Return sums of a pair in a tensor of 100 * scale weights."""
    return Sums(
        numel=100 * scale,
        first=30 * scale,
        second=20 * scale,
        overlap=8 * scale,
        opposed=opposed,
        expected=6.0 * scale,
        opposed_mass=0.5 * opposed,
        overlap_mass=5.0 * scale,
        dot=2.0 - opposed,
        first_squares=9.0 * scale,
        second_squares=4.0,
        first_overlap_squares=3.0,
        second_overlap_squares=2.0,
        first_l1=12.0 * scale,
        second_l1=8.0 * scale,
        abs_sum=20.0 * scale - opposed,
    )


TENSORS = {
    "layers.0.mlp.up.weight": sums(1, 2),
    "layers.1.mlp.up.weight": sums(1, 4),
    "layers.1.experts.0.up.weight": sums(2, 0),
    "layers.1.experts.1.up.weight": sums(3, 9),
    "embed.weight": sums(1, 0),
}


def of_the_api(found: schemas.Overlap) -> dict[str, float | None]:
    """Return what the API says of a pair, in the units of the pages."""
    parts = {"sign": found.sign_conflict, "cancellation": found.cancellation}
    return {
        **{name: None if value is None else 100 * value for name, value in parts.items()},
        "overlap": found.lift,
        "cosine": found.cosine,
    }


@pytest.mark.parametrize("name", list(METRICS))
def test_a_metric_is_what_the_api_says_of_a_tensor_and_of_several(name: str) -> None:
    metric, shown = METRICS[name], {tensor: overlap(found) for tensor, found in TENSORS.items()}
    for found in shown.values():
        assert metric.value(found) == pytest.approx(of_the_api(found)[name])
    rows, columns, cells = by_layer(metric, shown)
    assert (rows, len(columns)) == (["layers 0", "layers 1", "outside layers"], 3)
    both = overlap(total([TENSORS["layers.1.experts.0.up.weight"], TENSORS["layers.1.experts.1.up.weight"]]))
    row = cells[1]
    assert row[columns.index("experts.*.up")] == pytest.approx(of_the_api(both)[name])
    assert row[columns.index("embed.weight")] is None
    assert metric.value(schemas.Overlap.model_validate({**NOTHING, "iou": None})) is None


def test_tensors_are_listed_by_what_is_lost_on_them_and_those_without_a_loss_are_not() -> None:
    worst = worst_tensors({tensor: overlap(found) for tensor, found in TENSORS.items()})
    assert [(name, round(part, 3)) for name, _, part in worst] == [
        ("layers.1.experts.1.up.weight", 0.6),
        ("layers.1.mlp.up.weight", 0.267),
        ("layers.0.mlp.up.weight", 0.133),
    ]


def test_values_of_tensors_are_stacked_by_layer() -> None:
    values = {"layers.0.a": [1, 2], "layers.0.b": [3, 4], "layers.1.a": [5, 6], "head": [7, 8]}
    assert stacks(values, 2) == [("layers 0", [4, 6]), ("layers 1", [5, 6]), ("outside layers", [7, 8])]
    assert stacks({}, 2) == stacks(values, 0) == []
    assert (most_touched([5, 3, 0, 1, 0]), most_touched([])) == (3, 0)


def pair(first: int, second: int, opposed: int) -> schemas.ConflictPair:
    """Return a pair of patches with so many opposed weights."""
    names = [
        schemas.PatchName(number=number, revision=1, title="", author="bob", state="draft")
        for number in (first, second)
    ]
    return schemas.ConflictPair(first=names[0], second=names[1], whole=overlap(sums(1, opposed)))


def test_a_summary_has_the_matrix_of_opposed_signs_and_the_pairs_that_lose_most() -> None:
    pairs = [pair(1, 2, 4), pair(1, 3, 8), pair(2, 3, 0)]
    patches = [pairs[0].first, pairs[0].second, pairs[1].second]
    known = schemas.Conflicts(patches=patches, pairs=pairs, missing=0, census=None, tensors=None, energy={})
    summary = summarise(known)
    assert summary.labels == ["#1", "#2", "#3"] and summary.refs == ["1.1", "2.1", "3.1"]
    assert summary.opposed == [[None, 50, 100], [50, None, 0], [100, 0, None]]
    assert [(each.first.number, each.second.number) for each in summary.worst] == [(1, 3), (1, 2)]
    assert (summary.known, summary.missing) == (3, 0)
