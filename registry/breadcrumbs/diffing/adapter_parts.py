"""Adapter parts: which tensors of its base a LoRA adapter changes, and how, from the names and shapes in its header.

    base_model.model.<module>.lora_A.weight, .lora_B.weight            a product for <module>.weight
    base_model.model.<module>.lora_embedding_A, .lora_embedding_B      the same, for an embedding
    base_model.model.<module>.lora_magnitude_vector                    DoRA's length of each output of <module>.weight
    base_model.model.<module>[.base_layer].<leaf>                      a whole tensor, <module>.<leaf>

The names are those of the model class that was trained. In a checkpoint of the same model with or without its head, a
prefix of them may be missing, or there may be one more.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from registry.breadcrumbs.diffing.adapter_config import ADAPTER, CONFIG, MAX_RANK, MERGE, AdapterConfig
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

_FACTOR = re.compile(r"(.+)\.lora_(?:([AB])(?:\.default)?\.weight|(embedding_[AB])|(magnitude_vector)(?:\.weight)?)")
_WRAPPED = re.compile(rf"^(?:_orig_mod\.|module\.)*{re.escape(PREFIX)}")  # by torch.compile or DDP as well
MAGNITUDE = "magnitude_vector"


@dataclass(frozen=True)
class Product:
    """What LoRA adds to one weight.

    Args:
        a, b: The adapter's names of its factors.
        scale: The factor s.
        turned: Whether the weight is [in, out].
        magnitude: The adapter's name of DoRA's magnitudes; None for LoRA.
    """

    a: str
    b: str
    scale: float
    turned: bool
    magnitude: str | None = None


@dataclass(frozen=True)
class Part:
    """What an adapter makes of one tensor.

    Args:
        source, name: The tensor that it starts from: the checkpoint that holds it, and its name there.
        spec: dtype and shape of the result.
        product: What LoRA adds; None for a tensor that is taken as it is.
    """

    source: Checkpoint
    name: str
    spec: TensorSpec
    product: Product | None = None


@dataclass(frozen=True)
class _Factors:
    """The factors of one module's weight.

    Args:
        module: The module, as the adapter calls it.
        a, b: The adapter's names of the factors.
        rank: The r of the module.
        embedding: Whether it is an embedding, whose weight is [in, out].
        straight, turned: The weight's shape if it is [out, in], and if it is [in, out].
        magnitude: The adapter's name of DoRA's magnitudes; None for LoRA.
    """

    module: str
    a: str
    b: str
    rank: int
    embedding: bool
    straight: tuple[int, ...]
    turned: tuple[int, ...]
    magnitude: str | None

    @property
    def name(self) -> str:
        """The weight, as the adapter calls it."""
        return f"{self.module}.weight"


def find_parts(
    base: Checkpoint, file: Checkpoint, config: AdapterConfig, pairs: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, Part]:
    """Return what an adapter makes of each tensor that it changes.

    Args:
        base: The base.
        file: The adapter's file.
        config: Its settings.
        pairs: The keys of each module's factors, by module and letter; read from PEFT's names when None.

    Returns:
        The parts by the base's names, or by the adapter's where the base has no such tensor.

    Raises:
        InvalidCheckpoint: The adapter is not plain LoRA, or its parts do not go together.
        CheckpointMismatch: Its names fit the base in several ways.
    """
    whole: Mapping[str, str] = {}
    if pairs is None:
        pairs, whole = _sort(file, config.dora)
    factors = [_read_factors(file, module, keys, config) for module, keys in pairs.items()]
    names = _rename(base, sorted({each.name for each in factors} | whole.keys()))
    parts = {names[name]: Part(file, key, file.tensors[key]) for name, key in whole.items()}
    turned = _find_turned(factors, [base.tensors.get(names[each.name]) for each in factors], config)
    for each in factors:
        name = names[each.name]
        shape = each.turned if each.name in turned else each.straight
        product = Product(each.a, each.b, config.scale(each.module, each.rank), each.name in turned, each.magnitude)
        parts[name] = _add(base, parts.get(name), name, shape, product)
    return parts


def _sort(file: Checkpoint, dora: bool) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Return the keys of each module's factors, by module and letter, and of whole tensors by their model's names."""
    pairs: dict[str, dict[str, str]] = {}
    whole: dict[str, str] = {}
    for key in file.tensors:
        if len(key) > MAX_NAME_LENGTH:
            raise InvalidCheckpoint(f"{ADAPTER} has a name of {len(key)} characters, {show(key)}; {MERGE}.", field=key)
        name = _WRAPPED.sub("", key, count=1)
        match = _FACTOR.fullmatch(name) if name != key else None
        if match and (dora or not match[4]):
            pairs.setdefault(match[1], {})[match[2] or match[3] or match[4]] = key
            continue
        module, dot, leaf = name.rpartition(".")
        if name == key or any(part.startswith(("lora_", "token_adapter")) for part in name.split(".")):
            raise InvalidCheckpoint(
                f"{ADAPTER} holds {show(key)}, which does not belong to a plain LoRA adapter; {MERGE}.", field=key
            )
        name = module.removesuffix(".base_layer") + dot + leaf
        if name in whole:
            raise InvalidCheckpoint(f"{ADAPTER} holds {show(name)} twice; save the adapter again.", field=key)
        whole[name] = key
    return pairs, whole


def _read_factors(file: Checkpoint, module: str, keys: Mapping[str, str], config: AdapterConfig) -> _Factors:
    """Check that a module has two factors, and that they can be multiplied."""

    def flawed(rule: str, step: str = MERGE) -> InvalidCheckpoint:
        return InvalidCheckpoint(f"The adapter's {show(module)} {rule}; {step}.", field=min(keys.values()))

    magnitude = keys.get(MAGNITUDE)
    letters = sorted(keys.keys() - {MAGNITUDE})
    if letters not in (["A", "B"], ["embedding_A", "embedding_B"]):
        raise flawed("needs one lora_A and one lora_B", "save the adapter again")
    a, b = (keys[letter] for letter in letters)
    embedding = "A" not in keys
    first, second = (file.tensors[key].shape for key in (a, b))
    if not {file.tensors[key].dtype for key in (a, b)} <= FLOATS:
        raise flawed("has factors that are not floating-point")
    if min(len(first), len(second)) < 2 or 0 in first + second:
        raise flawed("has factors of which parts are missing", "gather the shards of a distributed run, then save it")
    rank, expected = first[0], config.rank.number_of(module)
    if len(first) != len(second) or second[1] != rank or not set(second[2:]) <= {1} or (embedding and len(first) > 2):
        raise flawed(f"has factors {list(first)} and {list(second)}, which cannot be multiplied")
    if rank != expected:
        raise flawed(f"has rank {rank}, and {CONFIG} says {expected:g}", "use the two files of one adapter")
    if rank > MAX_RANK:
        raise flawed(f"has rank {rank}, more than the {MAX_RANK} allowed")
    if config.dora:
        held = file.tensors[magnitude] if magnitude else TensorSpec("F32", ())
        if magnitude is None or held.numel != second[0] or held.dtype not in FLOATS:
            raise flawed(f"needs a lora_magnitude_vector of {second[0]} numbers, since it is DoRA", "save it again")
    return _Factors(module, a, b, rank, embedding, (second[0], *first[1:]), (*first[1:], second[0]), magnitude)


def _find_turned(
    factors: Sequence[_Factors], specs: Sequence[TensorSpec | None], config: AdapterConfig
) -> frozenset[str]:
    """Return which weights are [in, out]: by their shapes, and square ones by the settings.

    PEFT determines fan_in_fan_out for each module and saves that of the last one. So if a shape contradicts the
    setting, the setting cannot be trusted for square weights.
    """
    turned = {each.name for each in factors if each.embedding}
    flat = [
        (each, spec.shape)
        for each, spec in zip(factors, specs, strict=True)
        if spec and not each.embedding and len(each.straight) == 2
    ]
    by_shape = {
        each.name: shape == each.turned
        for each, shape in flat
        if each.straight != each.turned and shape in (each.straight, each.turned)
    }
    square = [each.name for each, _ in flat if each.straight == each.turned]
    against = [name for name, is_turned in by_shape.items() if is_turned != config.transposed]
    if square and against:
        raise InvalidCheckpoint(
            f"Whether {show(square[0])} is transposed is not clear: {CONFIG} says fan_in_fan_out "
            f"{str(config.transposed).lower()}, and the shape of {show(against[0])} says otherwise; {MERGE}.",
            field=square[0],
        )
    turned |= {name for name, is_turned in by_shape.items() if is_turned}
    return frozenset(turned.union(square) if config.transposed else turned)


def _add(base: Checkpoint, own: Part | None, name: str, shape: tuple[int, ...], product: Product) -> Part:
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
