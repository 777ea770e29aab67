"""Names: where each tensor of a checkpoint is in a module, by the names that saving the module would give.

    plain module     its state_dict
    transformers     its state_dict, less tied names, with the renaming and the operations undone by which it was
                     loaded: what save_pretrained writes

transformers 5 fuses tensors when it loads them (the experts of a mixture, say) and cuts them up when it saves. Cut
lazily, most are views of the fused tensor, and can be written there. Where they are not, places are found by sending
numbers along the same way.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from client.live.elements import FlatTensor, Place, Scattered, Strided
from registry.breadcrumbs.formats.header import show
from registry.errors import InvalidRequest

Tensors = dict[str, torch.Tensor]


class _Lazily(TorchFunctionMode):
    """Leaves out copies, so that what is cut from a tensor stays a view of it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.contiguous, torch.Tensor.clone):
            return args[0]
        return func(*args, **(kwargs or {}))


def find_places(module: torch.nn.Module) -> dict[str, Place]:
    """Return where each tensor that saving a module would write is in it, by name.

    Raises:
        InvalidRequest: A tensor is not in this process's memory, or only a part of it is; or it shares its memory with
            another without being tied to it.
    """
    module = unwrap(module)
    state: Tensors = {
        name: _located(module, name, tensor)
        for name, tensor in module.state_dict().items()
        if isinstance(tensor, torch.Tensor)
    }
    if not _is_of_transformers(module):
        return {name: Strided(tensor) for name, tensor in state.items()}
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    for name in module._keys_to_ignore_on_save or ():  # type: ignore[union-attr]
        state.pop(str(name), None)
    with _Lazily():
        try:
            held = remove_tied_weights_from_state_dict(dict(state), module)
        except RuntimeError as why:
            raise InvalidRequest(
                "The model has one memory for tensors that its class does not tie, and cannot be saved either; give "
                f"each its own. {why}",
                field="model",
            ) from why
        saved = _undo_conversion(module, held)
    owned = {_memory(tensor) for tensor in held.values()}
    places: dict[str, Place] = {
        name: Strided(tensor) for name, tensor in saved.items() if not tensor.numel() or _memory(tensor) in owned
    }
    copied = [name for name in saved if name not in places]
    if copied:
        shown = {_memory(place.tensor) for place in places.values() if isinstance(place, Strided)}
        places |= _scatter(module, {name: it for name, it in held.items() if _memory(it) not in shown}, copied)
    return places


def unwrap(module: torch.nn.Module) -> torch.nn.Module:
    """Return the module inside of those that torch.compile and data parallelism put around it."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and type(module).__name__ in ("DistributedDataParallel", "DataParallel"):
            inner = module.module
        if not isinstance(inner, torch.nn.Module):
            return module
        module = inner


def _is_of_transformers(module: torch.nn.Module) -> bool:
    transformers = sys.modules.get("transformers.modeling_utils")
    return transformers is not None and isinstance(module, transformers.PreTrainedModel)


def _undo_conversion(module: torch.nn.Module, state: Tensors) -> Tensors:
    from transformers.core_model_loading import revert_weight_conversion

    found: Tensors = revert_weight_conversion(module, dict(state))
    return found


def _memory(tensor: torch.Tensor) -> tuple[str, int]:
    """Return what views of one memory have in common."""
    return str(tensor.device), tensor.untyped_storage().data_ptr()


def _scatter(module: torch.nn.Module, state: Mapping[str, torch.Tensor], names: Sequence[str]) -> dict[str, Place]:
    """Find where the elements of tensors are that are no views, by undoing the conversion of numbers.

    Args:
        module: The module.
        state: The tensors of which they are made.
        names: Their names.
    """
    kind = torch.int64 if sum(tensor.numel() for tensor in state.values()) >= 2**31 else torch.int32
    sources, numbers, first = [], {}, 0
    for name, tensor in state.items():
        sources.append(FlatTensor(tensor.view(-1), first))
        numbers[name] = torch.arange(first, first + tensor.numel(), dtype=kind).view(tensor.shape)
        first += tensor.numel()
    found = _undo_conversion(module, numbers)
    return {name: Scattered(sources, found[name]) for name in names}


def _located(module: torch.nn.Module, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of a module's state where its bits are, though accelerate may have moved them off the device."""
    if hasattr(tensor, "full_tensor"):
        raise InvalidRequest(
            f"Only a part of {show(name)} is in this process (a DTensor), and a change needs all of it; gather the "
            "model first.",
            field="model",
        )
    if not tensor.is_meta:
        return tensor.detach()
    owner, _, leaf = name.rpartition(".")
    hook = getattr(module.get_submodule(owner), "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        weights = getattr(one, "weights_map", None)
        kept = getattr(weights, "dataset", weights)
        held = kept if isinstance(kept, dict) else getattr(kept, "state_dict", {})
        key = f"{getattr(weights, 'prefix', '')}{leaf}"
        if key in held:
            return held[key].detach()  # type: ignore[no-any-return]
    raise InvalidRequest(
        f"{show(name)} is not in memory (it is on the meta device, or accelerate keeps it on disk); load the model "
        "with enough memory for all of it.",
        field="model",
    )
