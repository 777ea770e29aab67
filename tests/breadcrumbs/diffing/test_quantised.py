"""Quantised models are known by their config, or by what their tensors are called."""

from typing import Any

import pytest

from registry.breadcrumbs.diffing.quantised import find_quantiser, refuse_packed
from registry.errors import InvalidCheckpoint

GPTQ = ["model.layers.0.q.qweight", "model.layers.0.q.qzeros", "model.layers.0.q.scales", "model.layers.0.q.g_idx"]


@pytest.mark.parametrize(
    ("config", "names", "title", "packed"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, [], "GPTQ", True),
        ({"quantization_config": {"quant_method": "awq"}}, GPTQ[:3], "AWQ", True),
        ({"quantization_config": {"load_in_4bit": True}}, [], "bitsandbytes", True),
        ({"quantization_config": {"quant_method": "fp8"}}, ["a.weight", "a.weight_scale_inv"], "'fp8'", False),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, ["a.weight"], "'compressed-tensors'", False),
        ({"quantization_config": {}}, [], "a method that it does not name", False),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, ["a.weight_packed"], "'compressed-tensors'",
         True),
        ({}, GPTQ, "GPTQ or AWQ", True),
        ({}, ["a.weight", "a.weight.absmax"], "bitsandbytes", True),
        ({}, ["a.weight", "a.weight.quant_state.bitsandbytes__nf4"], "bitsandbytes", True),
        ({}, ["a.weight", "a.SCB"], "bitsandbytes", True),
        (None, ["a.weight_packed"], "compressed-tensors", True),
    ],
)  # fmt: skip
def test_what_quantised_a_model_is_named(config: Any, names: list[str], title: str, packed: bool) -> None:
    found = find_quantiser(config, names)
    assert found is not None and (found.title, found.packed) == (title, packed)
    if packed:
        with pytest.raises(InvalidCheckpoint, match=rf"^The base is quantised by {title} \(.*\): its matrices"):
            refuse_packed(config, names, "The base")
    else:
        refuse_packed(config, names, "The base")


@pytest.mark.parametrize("config", [None, {}, [], {"quantization_config": None}, {"quantization_config": ["gptq"]}])
def test_other_models_are_not(config: Any) -> None:
    names = ["qweight", "h.scales", "norm.weight", "SCB", "a.absmax", "quant_state.weight", "a.qweight.bias"]
    assert find_quantiser(config, names) is None
    refuse_packed(config, names, "The base")
