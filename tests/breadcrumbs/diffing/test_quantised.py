"""Quantised models and adapters are known by their config, or by what their tensors are called."""

from typing import Any

import pytest

from registry.breadcrumbs.diffing.bases import is_adapter, refuse_unfit
from registry.breadcrumbs.diffing.quantised import find_quantiser
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
            refuse_unfit(config, names, "The base")
    else:
        refuse_unfit(config, names, "The base")


@pytest.mark.parametrize("config", [None, {}, [], {"quantization_config": None}, {"quantization_config": ["gptq"]}])
def test_other_models_are_not(config: Any) -> None:
    names = ["qweight", "h.scales", "norm.weight", "SCB", "a.absmax", "quant_state.weight", "a.qweight.bias"]
    assert find_quantiser(config, names) is None
    refuse_unfit(config, names, "The base")


@pytest.mark.parametrize(
    "names",
    [
        ["base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight", "base_model.model.score.weight"],
        ["base_model.model.h.0.q.lora_embedding_A", "base_model.model.h.0.q.lora_magnitude_vector"],
        ["base_model.model.h.0.q.ia3_l"],
        ["lora_unet_h_0_q.lora_down.weight", "lora_unet_h_0_q.lora_up.weight", "lora_unet_h_0_q.alpha"],
        ["lycoris_h_0_q.hada_w1_a", "lycoris_h_0_q.lokr_w2"],
        ["unet.h.0.q.lora_A.weight", "unet.h.0.q.lora.down.weight", "unet.to_q_lora.up.weight"],
        ["model.layers.0.q.lora_a", "model.layers.0.q.lora_b"],
    ],
)  # fmt: skip
def test_an_adapter_is_no_base(names: list[str]) -> None:
    assert is_adapter(names)
    with pytest.raises(InvalidCheckpoint, match=r"^The base is an adapter.*`crumb push ADAPTER NS/NAME -m TITLE`"):
        refuse_unfit({}, names, "The base")


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["base_model.model.h.0.q.weight"],
        ["h.0.q.base_layer.weight", "h.0.q.lora_A.vision.weight", "h.0.q.lora_B.vision.weight"],  # Phi-4-multimodal
        ["blocks.0.att.w_lora.lora.0.weight", "blocks.0.att.r_proj.weight"],  # RWKV-7
        ["flora.weight", "exploration.weight", "h.alpha"],
    ],
)
def test_a_whole_model_is_no_adapter(names: list[str]) -> None:
    assert not is_adapter(names)
    refuse_unfit({}, names, "The base")
