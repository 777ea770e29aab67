import random

import pytest

from registry.server.pages.comparing.layers import OUTSIDE, grid, place


@pytest.mark.parametrize(
    ("name", "layer", "projection"),
    [
        ("model.layers.3.mlp.up_proj.weight", "layers 3", "mlp.up_proj"),
        ("transformer.h.0.attn.c_attn.weight", "h 0", "attn.c_attn"),
        ("transformer.h.0.attn.c_attn.bias", "h 0", "attn.c_attn.bias"),
        ("model.encoder.layers.11.fc1.weight", "encoder.layers 11", "fc1"),
        ("bert.encoder.layer.2.output.dense.weight", "bert.encoder.layer 2", "output.dense"),
        ("layer1.0.conv1.weight", "layer1 0", "conv1"),
        ("model.layers.0.block_sparse_moe.experts.7.w1.weight", "layers 0", "block_sparse_moe.experts.*.w1"),
        ("encoder.block.0.layer.1.DenseReluDense.wi.weight", "encoder.block 0", "layer.1.DenseReluDense.wi"),
        ("0.weight", "0", "weight"),
        ("model.0.weight", "model 0", "weight"),
        ("lm_head.weight", "", "lm_head.weight"),
        ("head.0", "", "head.0"),
        ("layers.1234567.w", "", "layers.1234567.w"),
        ("layers.٣.w", "", "layers.٣.w"),
        ("", "", ""),
        ("...", "", "..."),
    ],
)
def test_a_tensors_name_tells_its_layer_and_projection(name: str, layer: str, projection: str) -> None:
    assert place(name) == (layer, projection)


def test_layers_are_in_the_order_of_their_numbers_whatever_the_order_of_names() -> None:
    values = {f"model.layers.{layer}.{part}.weight": float(layer) for layer in range(12) for part in ("q", "up")}
    values |= {"lm_head.weight": 3.0, "model.layers.0.bias": 0.5}
    expected = grid(values)
    rows, columns, cells = expected
    assert rows == [f"layers {layer}" for layer in range(12)] + [OUTSIDE]
    assert columns == ["bias", "q", "up", "lm_head.weight"]
    assert cells[0] == [0.5, 0.0, 0.0, None] and cells[11] == [None, 11.0, 11.0, None]
    assert cells[12] == [None, None, None, 3.0]
    names = list(values)
    random.Random(0).shuffle(names)
    assert grid({name: values[name] for name in names}) == expected


def test_energies_of_experts_are_added_up() -> None:
    values = {f"model.layers.0.mlp.experts.{expert}.w1.weight": 0.25 for expert in range(8)}
    assert grid(values) == (["layers 0"], ["mlp.experts.*.w1"], [[2.0]])
    one, other = {"0.experts.1.w": 1e16, "0.experts.2.w": 1.0}, {"0.experts.3.w": -1e16}
    assert grid(one | other) == grid(other | one)  # to the bit


def test_stacks_of_layers_are_kept_apart_even_if_only_what_is_around_them_differs() -> None:
    both = {"model.encoder.layers.0.fc1.weight": 1.0, "model.decoder.layers.0.fc1.weight": 2.0}
    assert grid(both) == (["decoder.layers 0", "encoder.layers 0"], ["fc1"], [[2.0], [1.0]])
    alike = {"model.layers.0.fc1.weight": 1.0, "transformer.layers.0.fc1.weight": 2.0}
    assert grid(alike) == (["model.layers 0", "transformer.layers 0"], ["fc1"], [[1.0], [2.0]])


def test_nothing_is_a_grid_of_nothing_and_hostile_names_take_no_time() -> None:
    assert grid({}) == ([], [], [])
    hostile = ["." * 65536, "9" * 65536, "1." * 32768, "experts.1." * 6500, "a." * 32768 + "1.w"]
    rows, columns, cells = grid(dict.fromkeys(hostile, 1.0))
    assert sum(value for row in cells for value in row if value is not None) == len(hostile)
    assert len(cells) == len(rows) and {len(row) for row in cells} == {len(columns)}
