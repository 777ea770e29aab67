"""Tiny models of transformers that run, their patches, and what they should be once a recipe is in them."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    Dinov2Config,
    LlamaConfig,
    MixtralConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from registry.breadcrumbs.composing.compose import compose
from registry.breadcrumbs.formats.checkpoint import Checkpoint, open_checkpoint
from registry.breadcrumbs.formats.patchfile import Patch, open_patch
from registry.breadcrumbs.formats.recipe import Recipe, make_recipe
from tests.support import makers

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def make_llama(folder: Path, *, tied: bool = True, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Save a Llama of some thousand weights, and return its folder."""
    return _save(LlamaConfig(**SIZES, tie_word_embeddings=tied), folder, dtype)


def make_mixtral(folder: Path) -> Path:
    """Save a mixture of experts: transformers 5 fuses their tensors when it loads them."""
    return _save(MixtralConfig(**SIZES, num_local_experts=3, num_experts_per_tok=2), folder, torch.float32)


def make_dinov2(folder: Path) -> Path:
    """Save a vision model: transformers 5 renames its tensors, and cuts some of them, when it loads them."""
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=14, patch_size=7, use_swiglu_ffn=True
    )
    return _save(config, folder, torch.float32)


def _save(config: PretrainedConfig, folder: Path, dtype: torch.dtype) -> Path:
    torch.manual_seed(0)
    kind = AutoModel if isinstance(config, Dinov2Config) else AutoModelForCausalLM
    kind.from_config(config).to(dtype).save_pretrained(folder)
    return folder


def load(folder: Path) -> PreTrainedModel:
    """Load a model as people do, in the dtype of its files."""
    kind = getattr(transformers, AutoConfig.from_pretrained(folder).architectures[0])
    return kind.from_pretrained(folder, dtype="auto")


def bits(module: torch.nn.Module) -> dict[str, bytes]:
    """Return the bytes of everything in a module."""
    state = module.state_dict()
    return {
        name: tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes() for name, tensor in state.items()
    }


@dataclass
class Family:
    """A base and patches, open.

    Args:
        folder: Of the base.
        base: The base.
        digest: Its weights digest.
        patches: By sha256, in the order in which they were made.
    """

    folder: Path
    base: Checkpoint
    digest: str
    patches: dict[str, Patch]

    def recipe(self, *weights: str, alpha: str = "1", method: str = "sum") -> Recipe:
        """Return a recipe of the first patches, each with a weight; an empty one leaves its patch out."""
        pairs = zip(self.patches, weights, strict=False)
        return make_recipe(self.digest, alpha, [(sha256, weight) for sha256, weight in pairs if weight], method)

    def composed(self, recipe: Recipe, folder: Path) -> Path:
        """Write a composition to a folder, as a release is."""
        folder.mkdir()
        for file in self.folder.glob("*.json"):
            (folder / file.name).write_bytes(file.read_bytes())
        compose(self.base, self.patches, recipe, folder, "cpu")
        return folder


@contextmanager
def open_family(
    folder: Path, base: Path, seeds: Sequence[int] = (1, 2, 3), scale: float = 0.01, **params: str
) -> Iterator[Family]:
    """Fine-tune a base several times, and open the patches."""
    with ExitStack() as stack:
        patches = {}
        for seed in seeds:
            file = folder / f"{seed}.safetensors"
            info = makers.make_patch(
                base, makers.fine_tuned(base, folder / f"tuned-{seed}", seed, scale), file, **params
            )
            patches[str(info.sha256)] = stack.enter_context(open_patch(file))
        yield Family(base, stack.enter_context(open_checkpoint(base)), info.base, patches)
