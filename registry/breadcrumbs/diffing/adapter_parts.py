"""Which tensors of its base a LoRA adapter changes, and how: by the names and shapes that are in its header.

    base_model.model.<module>.lora_A.weight, .lora_B.weight            a product for <module>.weight
    base_model.model.<module>.lora_embedding_A, .lora_embedding_B      the same, for an embedding
    base_model.model.<module>[.base_layer].<leaf>                      a whole tensor, <module>.<leaf>

The names are those of the model class that was trained. A checkpoint of the same model with or without its head may
lack a prefix of them, or have one more.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from registry.breadcrumbs.diffing.adapter_config import ADAPTER, CONFIG, LARGEST_RANK, MERGE, AdapterConfig
from registry.breadcrumbs.diffing.pairing import says_tied, twin
from registry.breadcrumbs.formats.checkpoint import Checkpoint, TensorSpec
from registry.breadcrumbs.formats.header import FLOATS, show
from registry.errors import CheckpointMismatch, InvalidCheckpoint

PREFIX = "base_model.model."

LONGEST_NAME = 1000
"""Most characters of a name in an adapter, so that expressions are soon done with it."""

LONGEST_PREFIX = 8
"""Most parts of a name that a base may lack or have in addition."""

_FACTOR = re.compile(r"(.+)\.lora_(?:([AB])\.weight|(embedding_[AB]))")


@dataclass(frozen=True)
class Product:
    """What LoRA adds to one weight.

    Args:
        a, b: The adapter's names of its factors.
        scale: The factor s.
        turned: Whether the weight is [in, out].
    """

    a: str
    b: str
    scale: float
    turned: bool


@dataclass(frozen=True)
class Part:
    """What an adapter makes of one tensor: the one that it starts from, what LoRA adds to that, and what comes out."""

    source: Checkpoint
    name: str
    spec: TensorSpec
    product: Product | None = None


@dataclass(frozen=True)
class _Factors:
    """The factors of one module's weight.

    Args:
        module: The module, as the adapter calls it.
        a, b: The adapter's names of them.
        rank: The r of the module.
        embedding: Whether it is an embedding, whose weight is [in, out].
        straight, turned: The weight's shape if it is [out, in], and if it is [in, out].
    """

    module: str
    a: str
    b: str
    rank: int
    embedding: bool
    straight: tuple[int, ...]
    turned: tuple[int, ...]

    @property
    def name(self) -> str:
        """The weight, as the adapter calls it."""
        return f"{self.module}.weight"


def find_parts(base: Checkpoint, file: Checkpoint, config: AdapterConfig) -> dict[str, Part]:
    """Return what an adapter makes of each tensor that it changes.

    Args:
        base: The base.
        file: The adapter's file.
        config: Its settings.

    Returns:
        The parts by the base's names, or by the adapter's where the base has no such tensor.

    Raises:
        InvalidCheckpoint: It is not plain LoRA, or its parts do not go together.
        CheckpointMismatch: Its names fit the base in several ways.
    """
    pairs, whole = _sort(file)
    factors = [_read_factors(file, module, keys, config) for module, keys in pairs.items()]
    names = _rename(base, sorted({found.name for found in factors} | whole.keys()))
    parts = {names[name]: Part(file, key, file.tensors[key]) for name, key in whole.items()}
    turned = _find_turned(factors, [base.tensors.get(names[found.name]) for found in factors], config)
    for found in factors:
        name = names[found.name]
        shape = found.turned if found.name in turned else found.straight
        product = Product(found.a, found.b, config.scale(found.module, found.rank), found.name in turned)
        parts[name] = _add(base, parts.get(name), name, shape, product)
    return parts


def _sort(file: Checkpoint) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Return the names of each module's factors, and of whole tensors by the names that these have in the model."""
    pairs: dict[str, dict[str, str]] = {}
    whole: dict[str, str] = {}
    for key in file.tensors:
        if len(key) > LONGEST_NAME:
            raise InvalidCheckpoint(f"{ADAPTER} has a name of {len(key)} characters, {show(key)}; {MERGE}.", field=key)
        name = key.removeprefix(PREFIX)
        if match := _FACTOR.fullmatch(name) if name != key else None:
            pairs.setdefault(match[1], {})[match[2] or match[3]] = key
            continue
        module, dot, leaf = name.rpartition(".")
        if name == key or any(part.startswith(("lora_", "token_adapter")) for part in name.split(".")):
            raise InvalidCheckpoint(
                f"{ADAPTER} holds {show(key)}, which is no part of a plain LoRA adapter; {MERGE}.", field=key
            )
        name = module.removesuffix(".base_layer") + dot + leaf
        if name in whole:
            raise InvalidCheckpoint(f"{ADAPTER} holds {show(name)} twice; save the adapter again.", field=key)
        whole[name] = key
    return pairs, whole


def _read_factors(file: Checkpoint, module: str, keys: Mapping[str, str], config: AdapterConfig) -> _Factors:
    """See that a module's factors are two, and can be multiplied."""

    def flawed(rule: str, step: str = MERGE) -> InvalidCheckpoint:
        return InvalidCheckpoint(f"The adapter's {show(module)} {rule}; {step}.", field=min(keys.values()))

    if keys.keys() not in ({"A", "B"}, {"embedding_A", "embedding_B"}):
        raise flawed("needs one lora_A and one lora_B", "save the adapter again")
    a, b = (keys[letter] for letter in sorted(keys))
    embedding = "A" not in keys
    first, second = (file.tensors[key].shape for key in (a, b))
    if not {file.tensors[key].dtype for key in (a, b)} <= FLOATS:
        raise flawed("has factors that are not floating-point")
    if min(len(first), len(second)) < 2 or 0 in first + second:
        raise flawed("has factors of which parts are missing", "gather the shards of a distributed run, then save it")
    rank, said = first[0], config.rank.of(module)
    if len(first) != len(second) or second[1] != rank or not set(second[2:]) <= {1} or (embedding and len(first) > 2):
        raise flawed(f"has factors {list(first)} and {list(second)}, which cannot be multiplied")
    if rank != said:
        raise flawed(f"has rank {rank}, and {CONFIG} says {said:g}", "use the two files of one adapter")
    if rank > LARGEST_RANK:
        raise flawed(f"has rank {rank}, more than the {LARGEST_RANK} allowed")
    return _Factors(module, a, b, rank, embedding, (second[0], *first[1:]), (*first[1:], second[0]))


def _find_turned(
    factors: Sequence[_Factors], specs: Sequence[TensorSpec | None], config: AdapterConfig
) -> frozenset[str]:
    """Return which weights are [in, out]: as their shapes say, and the settings of square ones.

    PEFT finds fan_in_fan_out out for each module, and saves what it found last. So where a shape contradicts it, what
    it says of square ones is not to be trusted.
    """
    turned = {found.name for found in factors if found.embedding}
    flat = [
        (found, spec.shape)
        for found, spec in zip(factors, specs, strict=True)
        if spec and not found.embedding and len(found.straight) == 2
    ]
    told = {
        found.name: shape == found.turned
        for found, shape in flat
        if found.straight != found.turned and shape in (found.straight, found.turned)
    }
    square = [found.name for found, _ in flat if found.straight == found.turned]
    against = [name for name, lies_turned in told.items() if lies_turned != config.transposed]
    if square and against:
        raise InvalidCheckpoint(
            f"Whether {show(square[0])} is transposed is not clear: {CONFIG} says fan_in_fan_out "
            f"{str(config.transposed).lower()}, and the shape of {show(against[0])} says otherwise; {MERGE}.",
            field=square[0],
        )
    turned |= {name for name, lies_turned in told.items() if lies_turned}
    return frozenset(turned.union(square) if config.transposed else turned)


def _add(base: Checkpoint, own: Part | None, name: str, shape: tuple[int, ...], product: Product) -> Part:
    """Return a product with the tensor that it is added to: the adapter's own, the base's, or the one tied to it."""
    if own is not None:
        if own.spec.shape != shape or own.spec.dtype not in FLOATS:
            raise InvalidCheckpoint(
                f"The adapter's {show(own.name)} is {own.spec.dtype} {list(own.spec.shape)}, and its factors make "
                f"{list(shape)}; {MERGE}.",
                field=own.name,
            )
        return Part(own.source, own.name, TensorSpec(_made(own.spec), shape), product)
    spec = TensorSpec("F32", shape)
    if name not in base.tensors and says_tied(base.config):
        name = twin(name, spec, base.tensors) or name
    return Part(base, name, TensorSpec(_made(base.tensors.get(name, spec)), shape), product)


def _made(spec: TensorSpec) -> str:
    """Return the dtype that a sum is rounded to."""
    return "F64" if spec.dtype == "F64" else "F32"


def _rename(base: Checkpoint, names: Iterable[str]) -> dict[str, str]:
    """Return the base's name for each of the adapter's.

    A checkpoint of a model without its head, and one with it, differ in a prefix like `model.` or `transformer.`. Names
    that the base has are its own; where others fit by one prefix, taken away or added, that is what they lack. What
    fits in no way keeps its name, for the comparison to tell or to leave out.

    Raises:
        CheckpointMismatch: They fit in several ways.
    """
    found = {name: name for name in names}
    strange = [name for name in found if name not in base.tensors]
    endings: dict[str, list[str]] = {}
    for name in base.tensors if strange else ():
        for ending in _endings(name):
            endings.setdefault(ending, []).append(name)
    ways = {}
    for name in strange:
        longer = {("", theirs.removesuffix(name)) for theirs in endings.get(name, ())}
        shorter = {(name.removesuffix(ending), "") for ending in _endings(name) if ending in base.tensors}
        if longer or shorter:
            ways[name] = longer | shorter
    common = set.intersection(*ways.values()) if ways else set()
    if ways and len(common) != 1:
        told = ", ".join(show(name) for name in list(ways)[:20])
        raise CheckpointMismatch(
            f"The base lacks {told}, and which of its tensors are meant is not clear; choose the base that the adapter "
            "was trained on.",
            field=next(iter(ways)),
        )
    for taken, added in common:
        found |= {name: added + name.removeprefix(taken) for name in ways}
    for name in ways:
        if found[name] in found.keys() - ways.keys():
            raise CheckpointMismatch(
                f"The adapter's {show(name)} and its {show(found[name])} are one tensor of the base; choose the base "
                "that the adapter was trained on.",
                field=name,
            )
    return found


def _endings(name: str) -> list[str]:
    """Return what remains of a name without its first parts, as many as a prefix may have."""
    parts = name.split(".", LONGEST_PREFIX)
    return [".".join(parts[at:]) for at in range(1, len(parts))]
