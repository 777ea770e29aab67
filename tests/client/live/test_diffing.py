"""Patches of models that run: the bytes that `crumb diff` makes of the saved folder."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from client import diff
from client.live import diff_of
from registry.errors import CheckpointMismatch, InvalidPatch
from tests.support import makers
from tests.support.live_makers import load, make_dinov2, make_llama, make_mixtral


def train(module: torch.nn.Module, seed: int = 5) -> torch.nn.Module:
    """Change every floating-point parameter a little, as an optimiser does."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.parameters():
            tensor += (torch.randn(tensor.shape, generator=random) * 0.01).to(tensor.dtype)
    return module


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_the_patch_is_that_of_the_saved_folder(tmp_path: Path, tied: bool, dtype: torch.dtype) -> None:
    base = make_llama(tmp_path / "base", tied=tied, dtype=dtype)
    module = train(load(base))
    made = diff_of(module, base, tmp_path / "live.safetensors", quiet=True, drop_bottom="0.5")
    module.save_pretrained(tmp_path / "tuned")
    due = diff(base, tmp_path / "tuned", tmp_path / "saved.safetensors", drop_bottom="0.5")
    assert made.file.read_bytes() == due.file.read_bytes()
    assert (made.sha256, made.nnz, made.base, made.relative_change) == (
        due.sha256,
        due.nnz,
        due.base,
        due.relative_change,
    )


@pytest.mark.parametrize("make", [make_mixtral, make_dinov2])
def test_what_is_fused_or_cut_is_compared_as_the_checkpoint_has_it(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    base = make(tmp_path / "base")
    module = train(load(base))
    made = diff_of(module, base, tmp_path / "live.safetensors", quiet=True)
    module.save_pretrained(tmp_path / "tuned")
    assert made.file.read_bytes() == diff(base, tmp_path / "tuned", tmp_path / "saved.safetensors").file.read_bytes()


def test_a_module_in_more_precision_and_in_wrappers_is_compared(tmp_path: Path) -> None:
    base = make_llama(tmp_path / "base")
    module = train(load(base).float())
    made = diff_of(torch.nn.DataParallel(module), base, tmp_path / "live.safetensors", quiet=True)
    module.save_pretrained(tmp_path / "tuned")
    assert made.file.read_bytes() == diff(base, tmp_path / "tuned", tmp_path / "saved.safetensors").file.read_bytes()


def test_a_module_of_nobodys_is_compared_by_its_own_names(tmp_path: Path) -> None:
    base = makers.make_checkpoint(tmp_path / "base")
    tuned = makers.fine_tuned(base, tmp_path / "tuned")
    holder = torch.nn.Module()
    for name, tensor in makers.read_weights(tuned).items():
        *path, leaf = name.split(".")
        inner = holder
        for part in path:
            if not hasattr(inner, part):
                inner.add_module(part, torch.nn.Module())
            inner = getattr(inner, part)
        inner.register_buffer(leaf, tensor)
    made = diff_of(holder, base, tmp_path / "live.safetensors", quiet=True)
    assert made.file.read_bytes() == diff(base, tuned, tmp_path / "saved.safetensors").file.read_bytes()


def test_an_adapter_is_merged_as_its_saved_folder_is(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two libraries, about each other
        import peft

        base = make_llama(tmp_path / "base")
        settings = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        trained = peft.get_peft_model(load(base), settings)
        made = diff_of(trained, base, tmp_path / "live.safetensors", quiet=True)
        trained.save_pretrained(tmp_path / "adapter")
        due = diff(base, tmp_path / "adapter", tmp_path / "saved.safetensors")
    assert made.file.read_bytes() == due.file.read_bytes()
    assert made.tensors == 4 and made.adapter == due.adapter == "LoRA"


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    base = make_llama(tmp_path / "base")
    with pytest.raises(InvalidPatch, match="Nothing changed"):
        diff_of(load(base), base, tmp_path / "live.safetensors", quiet=True)
    with pytest.raises(CheckpointMismatch, match="another architecture"):
        diff_of(torch.nn.Linear(2, 2), base, tmp_path / "live.safetensors", quiet=True)
    module = train(load(base))
    with torch.no_grad():
        module.model.norm.weight[0] = float("nan")
    with pytest.raises(ValueError, match="holds 1 NaN or Inf"):
        diff_of(module, base, tmp_path / "live.safetensors", quiet=True)
    assert not (tmp_path / "live.safetensors").exists()
