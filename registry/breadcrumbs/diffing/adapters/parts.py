"""Adapter parts: which tensors of its base an adapter changes, and how, from the names and shapes in its header.

    base_model.model.<module>.lora_A.weight, .lora_B.weight            a product for <module>.weight
    base_model.model.<module>.lora_embedding_A, .lora_embedding_B      the same, for an embedding
    base_model.model.<module>.lora_magnitude_vector                    DoRA's length of each output of <module>.weight
    base_model.model.<module>.hada_w1_a ..., .lokr_w1 ..., .ia3_l      what methods.py says, for <module>.weight
    base_model.model.<module>[.base_layer].<leaf>                      a whole tensor, <module>.<leaf>

The names are those of the model class that was trained. In a checkpoint of the same model with or without its head, a
prefix of them may be missing, or there may be one more.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from registry.breadcrumbs.diffing.adapters.config import ADAPTER, CONFIG, IA3, LORA, MERGE, AdapterConfig
from registry.breadcrumbs.diffing.adapters.methods import LETTERS, MAGNITUDE, Change, ModuleChange, read_module
from registry.breadcrumbs.diffing.faults import NAMES_SHOWN
from registry.breadcrumbs.diffing.ties import is_tied, twin
from registry.breadcrumbs.formats.checkpoint import Checkpoint
from registry.breadcrumbs.formats.header import FLOATS, TensorSpec, show
from registry.errors import CheckpointMismatch, InvalidCheckpoint

PREFIX = "base_model.model."

MAX_NAME_LENGTH = 1000
"""Most characters of a name in an adapter, which bounds the time that expressions take on it."""

MAX_PREFIX_PARTS = 8
"""Most parts of a name by which the base's may be shorter or longer."""

_FACTORS = {
    LORA: re.compile(r"(.+)\.lora_(?:([AB])(?:\.default)?\.weight|(embedding_[AB])|(magnitude_vector)(?:\.weight)?)"),
    **{method: re.compile(rf"(.+)\.({'|'.join(each)})(?:\.default)?") for method, each in LETTERS.items()},
}
"""The names of a method's tensors: the module, and a letter in one of the groups after it."""

_OF_ADAPTERS = ("lora_", "hada_", "lokr_", "ia3_", "token_adapter")
_WRAPPED = re.compile(rf"^(?:_orig_mod\.|module\.)*{re.escape(PREFIX)}")  # by torch.compile or DDP as well


@dataclass(frozen=True)
class Part:
    """What an adapter makes of one tensor.

    Args:
        source, name: The tensor that it starts from: the checkpoint that holds it, and its name there.
        spec: dtype and shape of the result.
        change: What the adapter does to it; None for a tensor that is taken as it is.
    """

    source: Checkpoint
    name: str
    spec: TensorSpec
    change: Change | None = None


def find_parts(
    base: Checkpoint, file: Checkpoint, config: AdapterConfig, pairs: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, Part]:
    """Return what an adapter makes of each tensor that it changes.

    Args:
        base: The base.
        file: The adapter's file.
        config: Its settings.
        pairs: The keys of each module's tensors, by module and letter; read from PEFT's names when None.

    Returns:
        The parts by the base's names, or by the adapter's where the base has no such tensor.

    Raises:
        InvalidCheckpoint: The adapter holds what is not read here, or its parts do not go together.
        CheckpointMismatch: Its names fit the base in several ways.
    """
    whole: Mapping[str, str] = {}
    if pairs is None:
        pairs, whole = _sort(file, config)
    modules = [read_module(file, module, keys, config) for module, keys in pairs.items()]
    names = _rename(base, sorted({each.name for each in modules} | whole.keys()))
    parts = {names[name]: Part(file, key, file.tensors[key]) for name, key in whole.items()}
    turned = _find_turned(modules, [base.tensors.get(names[each.name]) for each in modules], config)
    for each in modules:
        name = names[each.name]
        if each.change.method == IA3:
            _scale(base, parts, name, each, each.name in turned)
            continue
        shape = each.turned if each.name in turned else each.straight
        held = base.tensors.get(name)
        if each.flat and held is not None and (*held.shape[:1], prod(held.shape[1:])) == shape:
            shape = held.shape
        parts[name] = _add(base, parts.get(name), name, shape, replace(each.change, turned=each.name in turned))
    return parts


def _sort(file: Checkpoint, config: AdapterConfig) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Return the keys of each module's factors, by module and letter, and of whole tensors by their model's names."""
    pairs: dict[str, dict[str, str]] = {}
    whole: dict[str, str] = {}
    for key in file.tensors:
        if len(key) > MAX_NAME_LENGTH:
            raise InvalidCheckpoint(f"{ADAPTER} has a name of {len(key)} characters, {show(key)}; {MERGE}.", field=key)
        name = _WRAPPED.sub("", key, count=1)
        match = _FACTORS[config.method].fullmatch(name) if name != key else None
        if match and (config.dora or MAGNITUDE not in match.groups()):
            pairs.setdefault(match[1], {})[next(filter(None, match.groups()[1:]))] = key
            continue
        module, dot, leaf = name.rpartition(".")
        if name == key or any(part.startswith(_OF_ADAPTERS) for part in name.split(".")):
            raise InvalidCheckpoint(
                f"{ADAPTER} holds {show(key)}, which does not belong to a plain {config.title} adapter; {MERGE}.",
                field=key,
            )
        name = module.removesuffix(".base_layer") + dot + leaf
        if name in whole:
            raise InvalidCheckpoint(f"{ADAPTER} holds {show(name)} twice; save the adapter again.", field=key)
        whole[name] = key
    return pairs, whole


def _find_turned(
    modules: Sequence[ModuleChange], specs: Sequence[TensorSpec | None], config: AdapterConfig
) -> frozenset[str]:
    """Return which weights are [in, out]: by their shapes, and square ones by the settings.

    PEFT determines fan_in_fan_out for each module and saves that of the last one. So if a shape contradicts the
    setting, the setting cannot be trusted for square weights.
    """
    turned = {each.name for each in modules if each.embedding}
    flat = [
        (each, spec.shape)
        for each, spec in zip(modules, specs, strict=True)
        if spec and len(spec.shape) == 2 and not each.embedding and not each.flat
    ]
    ways = {each.name: [each.fits(shape, turned=way) for way in (False, True)] for each, shape in flat}
    by_shape = {name: is_turned for name, (is_straight, is_turned) in ways.items() if is_straight != is_turned}
    square = [name for name, way in ways.items() if all(way)]
    against = [name for name, is_turned in by_shape.items() if is_turned != config.transposed]
    if square and against:
        raise InvalidCheckpoint(
            f"Whether {show(square[0])} is transposed is not clear: {CONFIG} says fan_in_fan_out "
            f"{str(config.transposed).lower()}, and the shape of {show(against[0])} says otherwise; {MERGE}.",
            field=square[0],
        )
    turned |= {name for name, is_turned in by_shape.items() if is_turned}
    return frozenset(turned.union(square) if config.transposed else turned)


def _scale(base: Checkpoint, parts: dict[str, Part], name: str, module: ModuleChange, turned: bool) -> None:
    """Put the parts that scale a weight and its bias, as IA3 does.

    Raises:
        InvalidCheckpoint: The vector does not fit them.
        CheckpointMismatch: The base has no such weight.
    """
    numbers, inputs = module.change.matrices[0].columns, module.change.axis == 1
    bias = f"{name.removesuffix('weight')}bias"
    for scaled, axis in ((name, 1 - module.change.axis if turned else module.change.axis), (bias, 0)):
        spec = parts[scaled].spec if scaled in parts else base.tensors.get(scaled)
        if scaled == bias and (inputs or spec is None):
            continue
        if spec is None:
            raise CheckpointMismatch(
                f"The adapter scales {show(name)}, which the base does not have; choose the base that it was trained "
                "on.",
                field=name,
            )
        held = (*spec.shape, 0, 0)[axis]
        grouped = (
            inputs and len(spec.shape) > 2 and held and not numbers % held and not spec.shape[0] % (numbers // held)
        )
        if (held != numbers and not grouped) or spec.dtype not in FLOATS:
            raise InvalidCheckpoint(
                f"The adapter scales {show(scaled)} by {numbers} numbers, and it is {spec.dtype} {list(spec.shape)}; "
                f"{MERGE}.",
                field=scaled,
            )
        own = parts.get(scaled) or Part(base, scaled, spec)
        result = TensorSpec(_sum_dtype(spec), spec.shape)
        parts[scaled] = Part(own.source, own.name, result, replace(module.change, turned=turned, axis=axis))


def _add(base: Checkpoint, own: Part | None, name: str, shape: tuple[int, ...], product: Change) -> Part:
    """Return the part that adds a product to a tensor: the adapter's own, the base's, or the one tied to it."""
    if own is not None:
        if own.spec.shape != shape or own.spec.dtype not in FLOATS:
            raise InvalidCheckpoint(
                f"The adapter's {show(own.name)} is {own.spec.dtype} {list(own.spec.shape)}, and its factors make "
                f"{list(shape)}; {MERGE}.",
                field=own.name,
            )
        return Part(own.source, own.name, TensorSpec(_sum_dtype(own.spec), shape), product)
    spec = TensorSpec("F32", shape)
    if name not in base.tensors and is_tied(base):
        name = twin(name, spec, base.tensors) or name
    return Part(base, name, TensorSpec(_sum_dtype(base.tensors.get(name, spec)), shape), product)


def _sum_dtype(spec: TensorSpec) -> str:
    """Return the dtype that a sum is rounded to."""
    return "F64" if spec.dtype == "F64" else "F32"


def _rename(base: Checkpoint, names: Iterable[str]) -> dict[str, str]:
    """Return the base's name for each of the adapter's.

    Checkpoints of a model with and without its head differ in a prefix like `model.` or `transformer.`. Names that the
    base has stay. If one prefix, taken away or added, makes the others fit, they are renamed by it. A name that fits in
    no way stays, for the comparison to report or to leave out.

    Raises:
        CheckpointMismatch: The names fit in several ways.
    """
    renamed = {name: name for name in names}
    unknown = [name for name in renamed if name not in base.tensors]
    endings: dict[str, list[str]] = {}
    for name in base.tensors if unknown else ():
        for ending in _endings(name):
            endings.setdefault(ending, []).append(name)
    ways = {}
    for name in unknown:
        longer = {("", theirs.removesuffix(name)) for theirs in endings.get(name, ())}
        shorter = {(name.removesuffix(ending), "") for ending in _endings(name) if ending in base.tensors}
        if longer or shorter:
            ways[name] = longer | shorter
    common = set.intersection(*ways.values()) if ways else set()
    if ways and len(common) != 1:
        missing = ", ".join(show(name) for name in list(ways)[:NAMES_SHOWN])
        raise CheckpointMismatch(
            f"The base has no {missing}, and which of its tensors are meant is not clear; choose the base that the "
            "adapter was trained on.",
            field=next(iter(ways)),
        )
    for taken, added in common:
        renamed |= {name: added + name.removeprefix(taken) for name in ways}
    for name in ways:
        if renamed[name] in renamed.keys() - ways.keys():
            raise CheckpointMismatch(
                f"The adapter's {show(name)} and its {show(renamed[name])} are one tensor of the base; choose the base "
                "that the adapter was trained on.",
                field=name,
            )
    return renamed


def _endings(name: str) -> list[str]:
    """Return what remains of a name without its first parts, for every number of parts that a prefix may have."""
    parts = name.split(".", MAX_PREFIX_PARTS)
    return [".".join(parts[at:]) for at in range(1, len(parts))]
