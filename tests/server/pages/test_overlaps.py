"""What pages tell of patches that meet is what the API says, of a layer as of a tensor."""

import pytest

from registry import schemas
from registry.breadcrumbs.comparing.sums import Sums, total
from registry.server.pages.comparing import overlaps
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


@pytest.mark.parametrize("name", list(overlaps.MEASURES))
def test_a_measure_is_what_the_api_says_of_a_tensor_and_of_several(name: str) -> None:
    measure, shown = overlaps.MEASURES[name], {tensor: overlap(found) for tensor, found in TENSORS.items()}
    for found in shown.values():
        assert measure.of(found) == pytest.approx(of_the_api(found)[name])
    rows, columns, cells = overlaps.by_layer(measure, shown)
    assert (rows, len(columns)) == (["layers 0", "layers 1", "outside layers"], 3)
    both = overlap(total([TENSORS["layers.1.experts.0.up.weight"], TENSORS["layers.1.experts.1.up.weight"]]))
    row = cells[1]
    assert row[columns.index("experts.*.up")] == pytest.approx(of_the_api(both)[name])
    assert row[columns.index("embed.weight")] is None
    assert measure.of(schemas.Overlap.model_validate({**NOTHING, "iou": None})) is None


def test_tensors_are_listed_by_what_is_lost_on_them_and_those_without_a_loss_are_not() -> None:
    worst = overlaps.worst_tensors({tensor: overlap(found) for tensor, found in TENSORS.items()})
    assert [(name, round(part, 3)) for name, _, part in worst] == [
        ("layers.1.experts.1.up.weight", 0.6),
        ("layers.1.mlp.up.weight", 0.267),
        ("layers.0.mlp.up.weight", 0.133),
    ]


def test_values_of_tensors_are_stacked_by_layer() -> None:
    values = {"layers.0.a": [1, 2], "layers.0.b": [3, 4], "layers.1.a": [5, 6], "head": [7, 8]}
    assert overlaps.stacks(values, 2) == [("layers 0", [4, 6]), ("layers 1", [5, 6]), ("outside layers", [7, 8])]
    assert overlaps.stacks({}, 2) == overlaps.stacks(values, 0) == []
    assert (overlaps.most_touched([5, 3, 0, 1, 0]), overlaps.most_touched([])) == (3, 0)
