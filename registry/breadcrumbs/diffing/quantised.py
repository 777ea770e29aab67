"""Quantised models: which checkpoints are quantised and by what, from their config and the names of their tensors.

    config.json    "quantization_config": {"quant_method": "gptq", ...}
    tensors        <module>.qweight, beside .qzeros and .scales                           GPTQ, AWQ
                   <module>.weight.absmax, <module>.weight.quant_state..., <module>.SCB   bitsandbytes
                   <module>.weight_packed                                                 compressed-tensors

Those are packed: their matrices are integers with tables beside them, so there is nothing that a patch could change.
Models in FP8 or MXFP4 are quantised as well, and what they have in other dtypes can be patched.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from registry.breadcrumbs.formats.header import TensorSpec, show

METHODS = {"bitsandbytes": "bitsandbytes", "gptq": "GPTQ", "awq": "AWQ"}
"""Values of quant_method that pack matrices into integers, and what people call them."""

NARROW = ("F8_", "F6_", "F4")
"""What dtypes of floating-point numbers begin with to which weights are quantised."""

_PACKED = re.compile(
    r".+\.(?:(?P<gptq>qweight)|weight\.(?P<bnb>absmax|quant_state\..+)|(?P<bnb8>SCB)|(?P<ct>weight_packed))"
)
_TITLES = {"gptq": "GPTQ or AWQ", "bnb": "bitsandbytes", "bnb8": "bitsandbytes", "ct": "compressed-tensors"}


@dataclass(frozen=True)
class Quantiser:
    """What quantised a model.

    Args:
        title: What people call it.
        where: How that is known, as a sentence says it in parentheses.
        packed: Whether it packs matrices into integers.
    """

    title: str
    where: str
    packed: bool


def find_quantiser(config: object, names: Iterable[str] = ()) -> Quantiser | None:
    """Return what quantised a model; None if it is not quantised.

    Args:
        config: Its config.json.
        names: Its tensors.
    """
    settings = config.get("quantization_config") if isinstance(config, Mapping) else None
    match = next(filter(None, map(_PACKED.fullmatch, names)), None)
    if isinstance(settings, Mapping):
        method = _method(settings)
        title = METHODS.get(method) or (show(method) if method else "a method that it does not name")
        return Quantiser(title, "quantization_config in its config.json", method in METHODS or match is not None)
    if match is not None:
        return Quantiser(_TITLES[str(match.lastgroup)], f"it holds {show(match[0])}", packed=True)
    return None


def find_narrow(tensors: Mapping[str, TensorSpec]) -> Quantiser | None:
    """Return what is known of a model that nothing else says is quantised: a tensor of 8 bits or less; else None."""
    name = next((name for name, spec in tensors.items() if spec.dtype.startswith(NARROW)), None)
    if name is None:
        return None
    return Quantiser("a program that it does not name", f"its {show(name)} is {tensors[name].dtype}", packed=False)


def _method(settings: Mapping[str, Any]) -> str:
    method = settings.get("quant_method")
    if method is None and (settings.get("load_in_8bit") or settings.get("load_in_4bit")):
        return "bitsandbytes"
    return str(method) if method else ""
