"""Small LoRA adapters as PEFT writes them, and what they make of a weight, written down slowly."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from registry.breadcrumbs.diffing.adapters.adapted import Adapted, open_tuned
from registry.breadcrumbs.formats.checkpoint import Checkpoint

PREFIX = "base_model.model."
CONFIG = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 3,
    "lora_dropout": 0.1,
    "use_dora": False,
    "peft_version": "0.21.2",
}


def write_adapter(folder: Path, tensors: Mapping[str, torch.Tensor], **config: object) -> Path:
    """Write an adapter's folder; tensors are named as in the model that was trained."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    named = {PREFIX + name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


def factors(module: str, out: int, into: int, rank: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """Make the two factors of a module, small and not zero."""
    made = torch.Generator().manual_seed(seed)
    return {
        f"{module}.lora_A.weight": torch.randn(rank, into, generator=made) / 10,
        f"{module}.lora_B.weight": torch.randn(out, rank, generator=made) / 10,
    }


def open_adapted(folder: Path, base: Checkpoint) -> Adapted:
    """Open what must be an adapter."""
    opened = open_tuned(folder, base)
    assert isinstance(opened, Adapted)
    return opened


def add_slowly(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """Return weight [out, n] + scale * b [out, r] @ a [r, n], by float64 sums in the order of the rank."""
    total = np.zeros(weight.shape)
    for number in range(a.shape[0]):
        total = total + np.multiply.outer(b[:, number].double().numpy(), a[number].double().numpy())
    summed = torch.from_numpy(weight.double().numpy() + scale * total)
    return summed if weight.dtype == torch.float64 else summed.float()


def scale_of(alpha: float, rank: int, stabilised: bool = False) -> float:
    """Return the factor of a product."""
    return alpha / math.sqrt(rank) if stabilised else alpha / rank
