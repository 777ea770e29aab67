"""Builds small real things: checkpoints in the Hugging Face layout, fine-tuned ones, patches between them."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from registry.breadcrumbs.composing.compose import compose
from registry.breadcrumbs.diffing.diff import diff
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.layout import MaskParams, PatchInfo
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.breadcrumbs.formats.recipe import make_recipe

WIDTH = 16
WORDS = 40
SHAPES: dict[str, tuple[int, ...]] = {
    "embed.weight": (WORDS, WIDTH),
    "layers.0.attention.weight": (3 * WIDTH, WIDTH),
    "layers.0.norm.weight": (WIDTH,),
    "layers.1.conv.weight": (8, 3, 3, 3),
    "layers.1.empty": (0, WIDTH),
    "layers.1.norm.bias": (WIDTH,),
    "scale": (),
}
HEAD = "lm_head.weight"
EMBED = "embed.weight"


def make_checkpoint(
    folder: Path,
    seed: int = 0,
    dtypes: Sequence[torch.dtype] = (torch.float32,),
    shards: int = 1,
    tied: bool = False,
    shapes: Mapping[str, tuple[int, ...]] = SHAPES,
) -> Path:
    """Write a model of a few thousand weights, with config, tokenizer and card, and return its folder.

    Args:
        folder: Where; made when it is not there.
        seed: Of the weights.
        dtypes: Taken in turn by the tensors.
        shards: Weight files to split over; with more than one there is an index.
        tied: The output matrix is the input matrix, left out of the files as Hugging Face does.
        shapes: The floating-point tensors by name; an integer buffer and the head come on top.
    """
    random = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(shape, generator=random).mul(0.02).to(dtypes[place % len(dtypes)])
        for place, (name, shape) in enumerate(shapes.items())
    }
    tensors["positions"] = torch.arange(WORDS)
    if not tied and EMBED in tensors:
        tensors[HEAD] = torch.randn(tensors[EMBED].shape, generator=random).mul(0.02).to(tensors[EMBED].dtype)
    write_weights(folder, tensors, shards)
    config = {"architectures": ["TinyForCausalLM"], "model_type": "tiny", "tie_word_embeddings": tied}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0, "b": 1}}}))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# A tiny model\n\nFor tests.\n")
    return folder


def fine_tuned(base: Path, folder: Path, seed: int = 1, scale: float = 0.01, share: float = 1.0) -> Path:
    """Write a model that differs from a base as after fine-tuning, in one file, and return its folder.

    Args:
        base: The folder of the base.
        folder: Where; made when it is not there.
        seed: Of the difference.
        scale: Standard deviation of the difference.
        share: Part of the weights that move at all.
    """
    random = torch.Generator().manual_seed(seed)

    def move(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor
        step = torch.randn(tensor.shape, generator=random) * scale
        moved = torch.rand(tensor.shape, generator=random) < share
        return (tensor.double() + step.double() * moved).to(tensor.dtype)

    return changed(base, folder, move)


def changed(base: Path, folder: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Path:
    """Write a model whose tensors are `change(name, tensor)` of a base's, everything else as it was."""
    write_weights(folder, {name: change(name, tensor) for name, tensor in read_weights(base).items()})
    for other in base.iterdir():
        if other.suffix != ".safetensors" and not other.name.endswith(".index.json"):
            (folder / other.name).write_bytes(other.read_bytes())
    return folder


def make_patch(base: Path, tuned: Path, out: Path, **params: Any) -> PatchInfo:
    """Write the patch from a base to a tuned model; `params` are those of MaskParams."""
    with open_checkpoint(base) as before, open_checkpoint(tuned) as after:
        return diff(before, after, out, MaskParams(**params))


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of a folder with the safetensors library, by name."""
    found = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    return dict(sorted(found.items()))


def write_weights(folder: Path, tensors: Mapping[str, torch.Tensor], shards: int = 1) -> None:
    """Write tensors as one weight file, or as several with their index, with the safetensors library."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(tensors)
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        return
    step = math.ceil(len(names) / shards)
    where: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[shard * step : (shard + 1) * step]}
        save_file(part, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def local_digest(tmp_path: Path, recipe: dict[str, Any]) -> str | None:
    """Compose a recipe of `base` and `patch.safetensors` in a folder at once, here; return its weights digest."""
    sha256 = recipe["patches"][0]["sha256"]
    with open_checkpoint(tmp_path / "base") as base, open_patch(tmp_path / "patch.safetensors") as patch:
        made = make_recipe(recipe["base"], "0.3", [(sha256, "1")])
        return compose(base, {sha256: patch}, made, None, "cpu").weights_digest
