"""Adapters that PEFT itself makes and saves: what is read of them is what its merge_and_unload makes of the base."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from tests.support.adapter_makers import open_adapted
from tests.support.science_makers import read_tensor, write_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the two libraries, about each other
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")

SIZES = {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 1}
LLAMA = SIZES | {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
                 "num_key_value_heads": 1}  # fmt: skip
GPT2 = SIZES | {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 8}
ATTENTION = ["q_proj", "v_proj"]


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    """PEFT warns of much that is meant here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Convolutions(torch.nn.Module):
    """Convolutions in one and two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Conv1d(3, 5, 4)
        self.plane = torch.nn.Conv2d(3, 6, (2, 3))
        self.point = torch.nn.Conv2d(6, 4, 1)
        self.square = torch.nn.Conv2d(6, 6, 2)
        self.grouped = torch.nn.Conv2d(6, 6, 2, groups=3)


def make(kind: str) -> torch.nn.Module:
    torch.manual_seed(1)
    if kind == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA, tie_word_embeddings=False))
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)) if kind == "gpt2" else Convolutions()


def train(model: Any) -> None:
    """Change all that is trained."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) / 10)


CASES = {
    "plain": ("llama", {"target_modules": [*ATTENTION, "up_proj"], "r": 3, "lora_alpha": 16}),
    "rslora": ("llama", {"target_modules": ATTENTION, "r": 4, "use_rslora": True}),
    "patterns": ("llama", {"target_modules": ATTENTION, "alpha_pattern": {r"^model.layers.0\..*": 32},
                           "rank_pattern": {"q_proj": 2, r"layers\.1\.self_attn.v_proj": 5}}),
    "whole modules": ("llama", {"target_modules": ATTENTION, "modules_to_save": ["lm_head", "norm"]}),
    "embeddings": ("llama", {"target_modules": ["embed_tokens", "lm_head", "q_proj"], "r": 2}),
    "all linear": ("llama", {"target_modules": "all-linear", "init_lora_weights": "orthogonal", "r": 4}),
    "transposed": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "bias": "all"}),
    "transposed, unsaid": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "bias": "lora_only"}),
    "dora": ("llama", {"target_modules": [*ATTENTION, "up_proj", "embed_tokens"], "r": 3, "use_dora": True}),
    "dora, transposed": ("gpt2", {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True, "use_dora": True}),
    "dora, convolutions": ("convolutions", {"target_modules": ["line", "plane"], "r": 2, "use_dora": True}),
    "convolutions": ("convolutions", {"target_modules": ["line", "plane", "point"], "r": 2}),
    "loha": ("llama", {"method": "LoHa", "target_modules": [*ATTENTION, "up_proj"], "r": 3, "alpha": 5,
                       "rank_pattern": {"v_proj": 2}, "modules_to_save": ["lm_head"]}),
    "loha, convolutions": ("convolutions", {"method": "LoHa", "target_modules": ["line", "plane", "point"], "r": 2}),
    "loha, cores": ("convolutions", {"method": "LoHa", "target_modules": ["line", "plane", "point", "grouped"], "r": 3,
                                     "use_effective_conv2d": True}),
    "lokr": ("llama", {"method": "LoKr", "target_modules": [*ATTENTION, "up_proj"], "r": 1, "alpha": 3}),
    "lokr, two products": ("llama", {"method": "LoKr", "target_modules": [*ATTENTION, "up_proj"], "r": 1,
                                     "decompose_both": True, "decompose_factor": 4}),
    "lokr, whole": ("llama", {"method": "LoKr", "target_modules": ["q_proj", "up_proj"], "r": 64, "alpha": 16}),
    "lokr, convolutions": ("convolutions", {"method": "LoKr", "target_modules": ["line", "plane", "point"], "r": 1}),
    "lokr, cores": ("convolutions", {"method": "LoKr", "target_modules": ["line", "plane", "grouped"], "r": 1,
                                     "use_effective_conv2d": True}),
    "ia3": ("llama", {"method": "IA3", "target_modules": ["v_proj", "down_proj"], "feedforward_modules": ["down_proj"],
                      "modules_to_save": ["norm"]}),
    "ia3, expression": ("llama", {"method": "IA3", "target_modules": r".*\.(q_proj|down_proj)",
                                  "feedforward_modules": r".*\.down_proj"}),
    "ia3, transposed": ("gpt2", {"method": "IA3", "target_modules": ["c_attn", "attn.c_proj", "mlp.c_proj"],
                                 "feedforward_modules": ["mlp.c_proj"]}),
    "ia3, convolutions": ("convolutions", {"method": "IA3", "target_modules": ["plane", "point", "square", "grouped"],
                                           "feedforward_modules": ["point"]}),
    "ia3, inputs of convolutions": ("convolutions", {"method": "IA3", "target_modules": ["plane", "square", "grouped"],
                                                     "feedforward_modules": ["plane", "square", "grouped"]}),
}  # fmt: skip


@pytest.mark.parametrize("case", list(CASES))
def test_weights_are_those_that_peft_merges(tmp_path: Path, case: str) -> None:
    kind, settings = CASES[case]
    model = make(kind)
    config = getattr(model, "config", None)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if config is not None and config.tie_word_embeddings:
        del before["lm_head.weight"]
    base = write_model(tmp_path / "base", before, config=config.to_dict() if config is not None else None)
    method = {"method": "Lora"} | settings
    trained = peft.get_peft_model(model, getattr(peft, f"{method.pop('method')}Config")(**method))
    train(trained)
    trained.save_pretrained(tmp_path / "adapter")
    merged = peft.PeftModel.from_pretrained(make(kind), tmp_path / "adapter").merge_and_unload().state_dict()
    with open_checkpoint(base) as opened, open_adapted(tmp_path / "adapter", opened) as adapted:
        assert adapted.tensors.keys() == before.keys()
        assert adapted.shared == {name for name in before if torch.equal(before[name], merged[name])} - same(adapted)
        for name, tensor in before.items():
            assert adapted.tensors[name].shape == tuple(tensor.shape)
            torch.testing.assert_close(read_tensor(adapted, name), merged[name].flatten(), rtol=1e-6, atol=1e-6)


def same(adapted: Any) -> set[str]:
    """Biases are saved whole, whether they were trained or not."""
    return {name for name in adapted.tensors if name.endswith("bias")} - adapted.shared


@pytest.mark.parametrize("prefix", ["", "outer.model."])
def test_a_base_without_a_head_or_inside_another_is_the_same_base(tmp_path: Path, prefix: str) -> None:
    model = make("llama")
    weights = {prefix + name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    trained = peft.get_peft_model(model, peft.LoraConfig(target_modules=ATTENTION, init_lora_weights=False))
    trained.save_pretrained(tmp_path / "adapter")
    merged = trained.merge_and_unload().model.state_dict()
    base = write_model(tmp_path / "base", weights)
    with open_checkpoint(base) as opened, open_adapted(tmp_path / "adapter", opened) as adapted:
        assert len(adapted.tensors) - len(adapted.shared) == 4
        for name, tensor in merged.items():
            torch.testing.assert_close(read_tensor(adapted, prefix + name), tensor.flatten(), rtol=1e-6, atol=1e-6)
