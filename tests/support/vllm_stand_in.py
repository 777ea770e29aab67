"""An engine in place of vLLM's, which needs a GPU: modules of the same names, as far as ours import them.

Its loader stages each checkpoint tensor whole with NaN where nothing changes, and a model of its own keeps two tensors
of the checkpoint in one, as vLLM keeps q, k and v. So what is sent in checkpoint coordinates ends in other places.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch


class WeightTransferEngine:
    """The methods of vLLM's worker that are not an engine's own."""

    init_info_cls: type
    update_info_cls: type

    def __init__(self, config: Any, vllm_config: Any, device: torch.device, model: torch.nn.Module) -> None:
        self.config, self.vllm_config, self.device, self.model = config, vllm_config, device, model

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.update_info_cls(**update_info))  # type: ignore[attr-defined]


@dataclass
class Info:
    pass


@dataclass
class SparseWeightPatch:
    name: str
    indices: torch.Tensor
    values: torch.Tensor
    full_shape: tuple[int, ...]


class CheckpointWeightPatch(NamedTuple):
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    values: torch.Tensor
    indices: torch.Tensor | None = None


def load_checkpoint_weight_patches(
    model: Any, patches: Iterable[CheckpointWeightPatch], *, validate_unique_indices: bool = True
) -> None:
    staged = []
    for patch in patches:
        assert patch.values.dtype == patch.dtype and patch.indices is not None and not patch.values.isnan().any()
        whole = torch.full(patch.shape, torch.nan, dtype=patch.dtype)
        whole.view(-1)[patch.indices.long()] = patch.values
        staged.append((patch.name, whole))
    model.load_weights(staged)


class ServedModel(torch.nn.Module):
    """A model as an engine holds it: pairs of a checkpoint's tensors of one width are joined in one parameter."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.places: dict[str, torch.Tensor] = {}
        names = sorted(tensors)
        while names:
            first = names.pop(0)
            mate = next((name for name in names if _joins(tensors[first], tensors[name])), None)
            both = [first] + ([] if mate is None else [mate])
            names = [name for name in names if name != mate]
            joined = torch.cat([tensors[name] for name in both]) if mate else tensors[first].clone()
            at = 0
            for name in both:
                rows = tensors[name].shape[0] if mate else 0
                self.places[name] = joined[at : at + rows] if mate else joined
                at += rows

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, staged in weights:
            place = self.places[name]
            place.copy_(torch.where(staged.isnan(), place, staged))

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self.places.items()


def _joins(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dim() == other.dim() == 2 and one.shape[1] == other.shape[1] and one.dtype == other.dtype


def install(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, str]]:
    """Put the modules in place; return the engines that are registered, by their names."""
    registered: dict[str, tuple[str, str]] = {}

    class WeightTransferEngineFactory:
        _registry = registered

        @classmethod
        def register_engine(cls, name: str, module: str, class_name: str) -> None:
            assert name not in registered
            registered[name] = module, class_name

    modules: dict[str, dict[str, Any]] = {
        "vllm": {},
        "vllm.distributed": {},
        "vllm.distributed.weight_transfer": {"WeightTransferEngineFactory": WeightTransferEngineFactory},
        "vllm.distributed.weight_transfer.base": {
            "WeightTransferEngine": WeightTransferEngine,
            "WeightTransferInitInfo": Info,
            "WeightTransferUpdateInfo": Info,
        },
        "vllm.distributed.weight_transfer.sparse_nccl_engine": {"SparseWeightPatch": SparseWeightPatch},
        "vllm.model_executor": {},
        "vllm.model_executor.model_loader": {},
        "vllm.model_executor.model_loader.checkpoint_weight_patch": {
            "CheckpointWeightPatch": CheckpointWeightPatch,
            "load_checkpoint_weight_patches": load_checkpoint_weight_patches,
        },
    }
    for name, contents in modules.items():
        module = ModuleType(name)
        for key, value in contents.items():
            setattr(module, key, value)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "client.live.serving.vllm_engine", raising=False)
    return registered
