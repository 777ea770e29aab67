"""Weight files: which files of a model folder hold its weights.

    index                        the files that it names, all of which must be there
    model.safetensors            that file; or the one .safetensors file that there is
    <stem>-<i>-of-<n>            all n of them

The first of these that a folder has. Where a description (`model_index.json` of diffusers, `modules.json` and
`router_config.json` of sentence-transformers) names subfolders, each is part of the model by the same rule. Every other
file that may hold weights is left out of what is composed, since nobody patched it: an original beside the converted
files, a variant in half precision, GGUF, ONNX, OpenVINO, an adapter beside a whole model. Pickles are never weights.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry.breadcrumbs.formats.header import CHECKPOINT_LIMITS, Limits, show
from registry.errors import InvalidCheckpoint
from registry.files.folders import (
    INDEX,
    WHOLE,
    is_index,
    is_pickle,
    is_pickled_weights,
    is_weights,
    may_hold_weights,
)

DESCRIPTION_BYTES = 1_000_000
"""Longest description of components that is read."""

NAMES_SHOWN = 10
"""Most files that a sentence names."""

SHARD = re.compile(r"(.+)-(\d{1,9})-of-(\d{1,9})(?:\.([A-Za-z_][\w-]*))?\.safetensors")
"""The name of a shard: stem, number, of how many, and a variant, which older diffusers wrote there."""

_INDEX_OF = re.compile(r"(.+)\.safetensors(?:\.([A-Za-z_][\w-]*))?\.index(?:\.([A-Za-z_][\w-]*))?\.json")
"""The name of an index: the stem of its files, and in one of two places their variant."""

_WITH_WEIGHTS = re.compile(r"Model|Autoencoder|For[A-Z]")
"""What classes of components with weights are called in a model_index.json; schedulers and tokenizers are not."""

_MODULES_WITH_WEIGHTS = ("Transformer", "Dense", "StaticEmbedding", "CNN", "LSTM", "LayerNorm")
"""Classes of sentence-transformers' modules that have weights."""

_COPY = re.compile(r"consolidated\b.*|adapter_model")
"""Stems that are the model only where there is no other."""

_VARIANT = re.compile(r"[A-Za-z_][\w-]*")
"""What a variant has after the stem of the model and a dot: `model.fp16`."""


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of a model.

    Args:
        files: The files by their paths in the folder, in name order.
        indexes: The name of the file that holds each tensor, as each index says, by the path of the index; tensors
            and files are called as in a checkpoint, `<folder>/<name>` in a component.
        left_out: Other files that may hold weights, in name order.
    """

    files: dict[str, Path]
    indexes: dict[str, dict[str, str]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def find_weights(files: Mapping[str, Path], limits: Limits = CHECKPOINT_LIMITS) -> WeightFiles:
    """Find the weight files among the files of a model folder.

    Args:
        files: The folder's files by their paths in it, wherever their bytes are.
        limits: How long an index may be: twice `header_bytes`, since it has the name of a file beside each tensor's.

    Raises:
        InvalidCheckpoint: There are no weight files; a shard is missing, or a link to nothing; the index is not sound,
            or names a file that is missing; or which files are the model is not clear.
    """
    weights: dict[str, Path] = {}
    indexes: dict[str, dict[str, str]] = {}
    folders = _folders(files)
    held = [name for name in _components(files, "") if name in folders]
    if held:
        _require_components(files, folders)
    for folder in held or [""]:
        chosen, index = _choose(folders.get(folder, {}), folder, limits)
        weights |= chosen
        indexes |= index
    if not weights:
        raise InvalidCheckpoint(how_to_convert(files))
    for path in weights:
        if not files[path].is_file():
            raise InvalidCheckpoint(f"{show(path)} is a link to nothing; complete the folder.", field=path)
    left_out = sorted(path for path in files if may_hold_weights(path) and path not in weights and path not in indexes)
    return WeightFiles({path: weights[path] for path in sorted(weights)}, indexes, tuple(left_out))


def require_whole(path: Path) -> None:
    """Refuse a weight file that is one shard of several.

    Raises:
        InvalidCheckpoint: The name says so.
    """
    shard = shard_of(path.name)
    if shard is not None and shard[2] > 1:
        raise InvalidCheckpoint(
            f"{path.name} is shard {shard[1]} of {shard[2]}, and not a whole model; give the folder that "
            "holds all of them."
        )


def shard_of(name: str) -> tuple[str, int, int] | None:
    """Return the stem of a shard's name, its number and the number of shards; None if it is not a shard."""
    shard = SHARD.fullmatch(name)
    return None if shard is None else (_with_variant(shard[1], shard[4]), int(shard[2]), int(shard[3]))


def find_missing(n: int, shards: Mapping[int, str]) -> Iterator[str]:
    """Yield the names of the shards that are missing of n, which are counted from 0 if there is one of that number.

    A name may claim any number of others, so take no more of them than are needed.

    Args:
        n: How many there should be.
        shards: The names of those that are there, one at least, by their numbers.
    """
    first = 0 if 0 in shards else 1
    example = next(iter(shards.values()))
    shard = SHARD.fullmatch(example)
    assert shard is not None
    start, end = shard.span(2)
    for number in range(first, first + n):
        if number not in shards:
            yield f"{example[:start]}{number:0{len(shard[2])}}{example[end:]}"


def how_to_convert(names: Iterable[str]) -> str:
    """Return the message for files without weights: what to do with the pickles among them, if there are any."""
    pickles = sorted(name for name in names if is_pickle(name))
    if pickles:
        return (
            f"The weights in {show(pickles[0])} are not safetensors, and pickle files are never opened; "
            "load the model and save it again with save_pretrained, and use that folder."
        )
    inner = sorted(name for name in names if is_weights(name))
    if inner:
        return (
            f"There are weights in {show(inner[0])}, but none at the top of the folder, and no model_index.json or "
            "modules.json that names its subfolders; give the folder that holds the model."
        )
    return "There are no .safetensors files; a checkpoint is a .safetensors file or a folder of them."


def tell_left_out(paths: Sequence[str], what: str = "the model") -> str:
    """Return the sentence about files beside the weights of a model that may hold weights, too."""
    named = ", ".join(show(path) for path in paths[:NAMES_SHOWN])
    more = f" and {len(paths) - NAMES_SHOWN} more" if len(paths) > NAMES_SHOWN else ""
    return f"Not weights of {what}, and in no model composed of it: {named}{more}."


def read_json(path: Path, name: str, max_bytes: int, *, unique: bool = True) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: The file.
        name: What messages call it.
        max_bytes: How long it may be.
        unique: Whether no key may occur twice in an object; else the last counts, as programs that load models have it.

    Raises:
        InvalidCheckpoint: The file is missing or longer, or is not such an object.
    """
    table = _parse(path, name, max_bytes, unique=unique)
    if not isinstance(table, dict):
        raise InvalidCheckpoint(f"{name} is not a JSON object; save it again.", field=name)
    return table


def _parse(path: Path, name: str, max_bytes: int, *, unique: bool = True) -> Any:
    if not path.is_file():
        raise InvalidCheckpoint(f"{name} is a link to nothing; complete the folder.", field=name)
    with path.open("rb") as file:
        raw = file.read(max_bytes + 1)
    if len(raw) > max_bytes:
        raise InvalidCheckpoint(f"{name} is longer than the {max_bytes} bytes allowed.", field=name)
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_unique if unique else None)
    except (ValueError, RecursionError) as problem:
        raise InvalidCheckpoint(f"{name} is not sound JSON: {str(problem)[:200]}; save it again.", field=name) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return table


# Components


def _folders(files: Mapping[str, Path]) -> dict[str, dict[str, Path]]:
    """Return the files of each folder that has weights, readable or pickled, or an index, by their names in it."""
    folders: dict[str, dict[str, Path]] = {}
    for path, file in files.items():
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, {})[name] = file
    return {
        folder: names
        for folder, names in folders.items()
        if any(is_weights(name) or is_pickled_weights(name) or is_index(name) for name in names)
    }


def _components(files: Mapping[str, Path], folder: str) -> Iterator[str]:
    """Yield the folders that a folder's descriptions name, and those that these name in turn."""
    described = False
    for inner in sorted(_named(files, folder)):
        described = True
        if inner == folder:
            yield folder
        else:
            yield from _components(files, inner)
    if not described:
        yield folder


def _named(files: Mapping[str, Path], folder: str) -> set[str]:
    names: set[str] = set()
    if (path := _join(folder, "model_index.json")) in files:
        table = read_json(files[path], path, DESCRIPTION_BYTES)
        names |= {key for key, kind in table.items() if isinstance(kind, list) and any(kind)}
    if (path := _join(folder, "modules.json")) in files:
        modules = _parse(files[path], path, DESCRIPTION_BYTES)
        if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
            raise InvalidCheckpoint(f"{path} is not a list of modules; save the model again.", field=path)
        names |= {str(module.get("path") or "").strip("/") for module in modules}
    if (path := _join(folder, "router_config.json")) in files:
        types = read_json(files[path], path, DESCRIPTION_BYTES).get("types")
        names |= set(types) if isinstance(types, dict) else set()
    return {_join(folder, name) if name not in ("", ".") else folder for name in names}


def _require_components(files: Mapping[str, Path], folders: Collection[str]) -> None:
    """Refuse a model without the weights of a component that has some, by the class that a description names.

    Raises:
        InvalidCheckpoint: The message names the component.
    """
    for path, folder in _described(files):
        if folder not in folders:
            raise InvalidCheckpoint(
                f"{path} names {show(folder)}, and there are no weights in it; complete the folder, with the files "
                "themselves (links to folders are not followed).",
                field=folder,
            )


def _described(files: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """Yield the folders at the top that hold weights by a description's classes, each after the description's path."""
    if (path := "model_index.json") in files:
        for name, kind in read_json(files[path], path, DESCRIPTION_BYTES).items():
            if isinstance(kind, list) and kind and _WITH_WEIGHTS.search(str(kind[-1])):
                yield path, name
    if (path := "modules.json") in files:
        for module in _parse(files[path], path, DESCRIPTION_BYTES):
            if str(module.get("type")).rpartition(".")[2] in _MODULES_WITH_WEIGHTS:
                yield path, str(module.get("path") or "").strip("/")


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


# One folder


@dataclass
class _Stem:
    """What a folder has under one stem: `model.safetensors`, its index, or shards `model-00001-of-00002`."""

    index: str | None = None
    whole: str | None = None
    shards: dict[int, dict[int, str]] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Return the names of its weight files."""
        return [name for group in self.shards.values() for name in group.values()] + (
            [self.whole] if self.whole else []
        )


def _choose(
    names: Mapping[str, Path], folder: str, limits: Limits
) -> tuple[dict[str, Path], dict[str, dict[str, str]]]:
    """Return the weight files of one folder by their paths, and its index, if it has one."""
    stems = _stems(names)
    if not stems:
        pickled = [_join(folder, name) for name in names if is_pickled_weights(name)]
        if pickled:
            raise InvalidCheckpoint(how_to_convert(pickled), field=pickled[0])
        return {}, {}
    stem = _the_model(stems, folder)
    chosen = stems[stem]
    if chosen.index is not None:
        path = _join(folder, chosen.index)
        index = _read_index(names[chosen.index], path, limits)
        held = sorted(set(index.values()))
        if chosen.whole is not None and chosen.whole not in held:
            raise InvalidCheckpoint(
                f"There is {_join(folder, chosen.whole)} beside an {chosen.index} of other files, and programs "
                "disagree about which to load; remove the one that is not the model.",
                field=chosen.whole,
            )
        for name in held:
            if name not in names:
                raise InvalidCheckpoint(f"{path} names {show(name)}, and there is no such file; complete the folder.")
        full = {_join(folder, tensor): _join(folder, name) for tensor, name in index.items()}
        return {_join(folder, name): names[name] for name in held}, {path: full}
    held = [chosen.whole] if chosen.whole is not None else _all_shards(stem, chosen.shards, folder)
    return {_join(folder, name): names[name] for name in held}, {}


def _stems(names: Mapping[str, Path]) -> dict[str, _Stem]:
    stems: dict[str, _Stem] = {}
    for name in sorted(names):
        if (index := _INDEX_OF.fullmatch(name)) is not None:
            stems.setdefault(_with_variant(index[1], index[2] or index[3]), _Stem()).index = name
        elif (shard := shard_of(name)) is not None:
            stems.setdefault(shard[0], _Stem()).shards.setdefault(shard[2], {})[shard[1]] = name
        elif is_weights(name):
            stems.setdefault(name.removesuffix(".safetensors"), _Stem()).whole = name
    return stems


def _the_model(stems: Mapping[str, _Stem], folder: str) -> str:
    """Return the stem of the files that are the model."""
    if WHOLE.removesuffix(".safetensors") in stems:
        return WHOLE.removesuffix(".safetensors")
    plain = {*stems, *(name.removesuffix(".safetensors") for stem in stems.values() for name in stem.names())}
    rest = [name for name in stems if not _is_variant(name, plain)]
    rest = [name for name in rest if not _COPY.fullmatch(name)] or rest
    indexed = [name for name in rest if stems[name].index is not None]
    if len(indexed or rest) > 1:
        several = sorted(file for name in indexed or rest for file in stems[name].names())
        files = ", ".join(show(_join(folder, file)) for file in several[:NAMES_SHOWN])
        raise InvalidCheckpoint(
            f"Which of the .safetensors files is the model is not clear: {files} are not shards of one, and there is "
            f"no {INDEX}; leave one in the folder, or give its path."
        )
    return (indexed or rest)[0]


def _with_variant(stem: str, variant: str | None) -> str:
    return f"{stem}.{variant}" if variant else stem


def _is_variant(stem: str, others: Collection[str]) -> bool:
    before, dot, variant = stem.rpartition(".")
    return bool(dot) and before in others and _VARIANT.fullmatch(variant) is not None


def _all_shards(stem: str, by_count: Mapping[int, Mapping[int, str]], folder: str) -> list[str]:
    """Return the shards of a model, having checked that all are there."""
    if len(by_count) > 1:
        counts = " and ".join(str(n) for n in sorted(by_count))
        raise InvalidCheckpoint(
            f"There are shards of {show(_join(folder, stem))} of {counts} files; remove those that are not the model."
        )
    n, shards = next(iter(by_count.items()))
    name = next(find_missing(n, shards), None)
    if name is not None:
        raise InvalidCheckpoint(
            f"{show(_join(folder, name))} is missing: {len(shards)} of {n} shards are there; complete the folder.",
            field=name,
        )
    return list(shards.values())


def _read_index(path: Path, name: str, limits: Limits) -> dict[str, str]:
    weight_map = read_json(path, name, 2 * limits.header_bytes).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InvalidCheckpoint(f"{name} has no weight_map; save the model again.", field=name)
    for tensor, file in weight_map.items():
        sound = isinstance(file, str) and is_weights(file) and not set(file) & set("/\\:\0")
        if not sound or file.startswith("."):
            raise InvalidCheckpoint(
                f"{name} places tensor {show(tensor)} in {show(str(file))}, which is not a .safetensors file "
                "beside it.",
                field=tensor,
            )
    return weight_map
