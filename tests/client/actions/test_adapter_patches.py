"""`crumb diff` takes a LoRA adapter for the model after; all else is as with a fine-tuned model."""

import json
import warnings
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from tests.support import makers
from tests.support.adapter_makers import add_slowly, factors, write_adapter
from tests.support.visitors import Crumb

MODULE = "layers.0.attention"
WEIGHT = f"{MODULE}.weight"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return makers.make_checkpoint(tmp_path / "base")


@pytest.fixture
def pair() -> dict[str, torch.Tensor]:
    return factors(MODULE, 48, 16)


def test_a_patch_of_an_adapter_is_applied_as_any_other(
    crumb: Crumb, base: Path, pair: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    write_adapter(tmp_path / "adapter", pair, base_model_name_or_path="org/\x1b[31mbase")
    everything = ("--drop-bottom", "0", "--drop-top", "0")
    made = json.loads(crumb("diff", "base", "adapter", "-o", "patch.safetensors", "--json", *everything))
    assert (made["tensors"], made["nnz"]) == (1, 48 * 16)
    assert made["adapter"] == {"method": "LoRA", "base_model": "org/\x1b[31mbase"}
    crumb("apply", "base", "patch.safetensors", "-o", "merged", "--alpha", "1")
    before, after = (makers.read_weights(tmp_path / name) for name in ("base", "merged"))
    expected = add_slowly(before[WEIGHT], pair[f"{MODULE}.lora_A.weight"], pair[f"{MODULE}.lora_B.weight"], 1.5)
    torch.testing.assert_close(after.pop(WEIGHT), expected, rtol=1e-6, atol=1e-6)
    assert all(torch.equal(after[name], before[name]) for name in after)

    text = crumb("diff", "base", "adapter/adapter_model.safetensors", "-o", "again.safetensors", *everything)
    assert "adapter  LoRA, trained on org/ [31mbase\n" in text
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "patch.safetensors").read_bytes()


def test_of_a_model_no_adapter_is_told(crumb: Crumb, base: Path, tmp_path: Path) -> None:
    makers.fine_tuned(base, tmp_path / "tuned", 1)
    assert json.loads(crumb("diff", "base", "tuned", "-o", "a", "--json"))["adapter"] is None
    assert "adapter" not in crumb("diff", "base", "tuned", "-o", "b")


def test_an_adapter_may_be_on_the_hub(
    crumb: Crumb, base: Path, pair: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "hub" / "models--org--adapter"
    write_adapter(repo / "snapshots" / commit, pair)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    original = huggingface_hub.snapshot_download

    def download(name: str, **how: Any) -> str:
        return original(name, cache_dir=tmp_path / "hub", **how)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    crumb("diff", "base", "org/adapter", "-o", "patch.safetensors", "-q", HF_HUB_OFFLINE="1")
    assert WEIGHT in crumb("show", "patch.safetensors")


@pytest.mark.parametrize(("named", "doubted"), [("org/base", False), ("Org/Base", False), ("org/other", True)])
def test_an_adapter_for_another_model_of_the_hub_is_doubted(
    crumb: Crumb, base: Path, pair: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch, named: str, doubted: bool
) -> None:
    write_adapter(base.parent / "adapter", pair, base_model_name_or_path=named)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **how: str(base))
    crumb("diff", "org/base", "adapter", "-o", "patch.safetensors")
    assert ("was trained on org/other, and the base is org/base" in crumb.errors) == doubted
    crumb("diff", "base", "adapter", "-o", "patch.safetensors")
    assert "was trained on" not in crumb.errors


def test_what_is_no_plain_adapter_is_one_sentence(
    crumb: Crumb, base: Path, pair: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    write_adapter(tmp_path / "adapter", pair, use_qalora=True)
    crumb("diff", "base", "adapter", "-o", "patch.safetensors", code=1)
    assert "QALoRA" in crumb.errors
    assert "merge_and_unload" in crumb.errors
    assert crumb.errors.count("\n") == 1
    assert not (tmp_path / "patch.safetensors").exists()


@pytest.mark.parametrize(
    ("out", "told"), [("adapter/patch", "inside the model"), ("linked", "weights that are compared here")]
)
def test_an_adapter_is_not_written_into(
    crumb: Crumb, base: Path, pair: dict[str, torch.Tensor], tmp_path: Path, out: str, told: str
) -> None:
    weights = write_adapter(tmp_path / "adapter", pair) / "adapter_model.safetensors"
    content = weights.read_bytes()
    (tmp_path / "linked").hardlink_to(weights)
    crumb("diff", "base", "adapter", "-o", out, code=1)
    assert told in crumb.errors
    assert weights.read_bytes() == content


def test_an_adapter_that_peft_saved_becomes_a_patch(crumb: Crumb, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two libraries, about each other
        peft = pytest.importorskip("peft")
        transformers = pytest.importorskip("transformers")
        config = transformers.LlamaConfig(vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                                          num_attention_heads=2, tie_word_embeddings=True)  # fmt: skip
        model = transformers.LlamaForCausalLM(config)
        model.save_pretrained(tmp_path / "base")
        model = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base")
        settings = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        trained = peft.get_peft_model(model, settings)
        trained.save_pretrained(tmp_path / "adapter")
        trained.merge_and_unload().save_pretrained(tmp_path / "expected")
    options = ("--drop-bottom", "0", "--drop-top", "0", "--json")
    made = json.loads(crumb("diff", "base", "adapter", "-o", "patch.safetensors", *options))
    assert made["tensors"] == 4
    assert made["adapter"] == {"method": "LoRA", "base_model": str(tmp_path / "base")}
    crumb("apply", "base", "patch.safetensors", "-o", "merged", "--alpha", "1")
    expected, merged = (makers.read_weights(tmp_path / name) for name in ("expected", "merged"))
    assert merged.keys() == expected.keys()
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-6)
