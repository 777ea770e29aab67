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

from client.live.elements import FlatTensor, Place, Strided, place_of
from registry.breadcrumbs.formats.header import show
from registry.errors import InvalidRequest

Tensors = dict[str, torch.Tensor]
WHOLE = "all of it is needed in one process: load it whole; or save it whole, and push what is saved with `crumb push`."
MOST = 2**31 - 1
"""Most elements to number at once, in four bytes each and as much for what is made of them."""


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
    check_whole(module)
    module = unwrap(module)
    state = _state(module)
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


def whereabouts(module: torch.nn.Module) -> dict[str, tuple[object, ...]]:
    """Return where each tensor of a module's state is in memory: other after it was moved, replaced or converted.

    Raises:
        InvalidRequest: A tensor is not in this process's memory, or only a part of it is.
    """
    return {
        name: (tensor.dtype, tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride())
        for name, tensor in _state(unwrap(module)).items()
    }


def _state(module: torch.nn.Module) -> Tensors:
    return {
        name: _located(module, name, tensor)
        for name, tensor in module.state_dict().items()
        if isinstance(tensor, torch.Tensor)
    }


def unwrap(module: torch.nn.Module) -> torch.nn.Module:
    """Return the module inside of those that torch.compile and data parallelism put around it."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and type(module).__name__ in ("DistributedDataParallel", "DataParallel"):
            inner = module.module
        if not isinstance(inner, torch.nn.Module):
            return module
        module = inner


def check_whole(module: torch.nn.Module) -> None:
    """Check that no library has cut up a module among processes, so that its state would be copies or parts.

    Raises:
        InvalidRequest: FSDP or DeepSpeed has.
    """
    if any(type(part).__name__ == "FullyShardedDataParallel" for part in module.modules()):
        raise InvalidRequest(f"The model is cut up by FSDP, and {WHOLE}", field="model")
    if any(hasattr(parameter, "ds_id") for parameter in module.parameters()):
        raise InvalidRequest(f"The model is cut up by DeepSpeed (ZeRO-3), and {WHOLE}", field="model")


def has_adapter(module: torch.nn.Module) -> bool:
    """Say whether saving a module writes an adapter: of PEFT's own model, or of one of transformers that has one."""
    peft = sys.modules.get("peft")
    wrapped = peft is not None and isinstance(module, peft.PeftModel)
    return wrapped or bool(getattr(module, "_hf_peft_config_loaded", False))


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

    Raises:
        InvalidRequest: They are made of too many elements, or of a tensor that is not contiguous.
    """
    if (count := sum(tensor.numel() for tensor in state.values())) > MOST:
        raise InvalidRequest(
            f"Saving the model makes new tensors out of {count:,} elements, and at most {MOST:,} can be followed; save "
            "it, and work with the files.",
            field="model",
        )
    sources, numbers, first = [], {}, 0
    for name, tensor in state.items():
        if not tensor.is_contiguous():
            raise InvalidRequest(
                f"{show(name)} is not contiguous, and saving the model makes new tensors out of it; make it so with "
                ".contiguous().",
                field="model",
            )
        sources.append(FlatTensor(tensor.view(-1), first))
        numbers[name] = torch.arange(first, first + tensor.numel(), dtype=torch.int32).view(tensor.shape)
        first += tensor.numel()
    found = _undo_conversion(module, numbers)
    return {name: place_of(sources, found.pop(name)) for name in names}


def _located(module: torch.nn.Module, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of a module's state where its bits are, though accelerate may have moved them off the device."""
    if hasattr(tensor, "full_tensor"):
        raise InvalidRequest(f"Only a part of {show(name)} is in this process (a DTensor), and {WHOLE}", field="model")
    if not tensor.is_meta:
        found = tensor.detach()
        if type(found) is not torch.Tensor:
            raise InvalidRequest(
                f"{show(name)} is a {type(found).__name__}, which does not hold the bits of a checkpoint; load the "
                "model without quantising it.",
                field="model",
            )
        return found
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
