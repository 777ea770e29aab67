"""Weight files: which files of a model folder hold its weights.

With `model.safetensors.index.json` they are the files that it names, all of which must be there; without one they are
every `*.safetensors` file at the top of the folder. A `model.safetensors` that the index does not name is refused,
since programs disagree about which of the two to load. Pickle formats are never weights.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.breadcrumbs.formats.header import CHECKPOINT_LIMITS, Limits, show
from registry.errors import InvalidCheckpoint
from registry.files.folders import INDEX, WHOLE, is_pickle, is_weights


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of a model.

    Args:
        files: The files by their names in the folder, in name order.
        index: The name of the file that holds each tensor, as the index says; None without an index.
    """

    files: dict[str, Path]
    index: dict[str, str] | None


def find_weights(files: Mapping[str, Path], limits: Limits = CHECKPOINT_LIMITS) -> WeightFiles:
    """Find the weight files among the files of a model folder.

    Args:
        files: The folder's files by their paths in it, wherever their bytes are.
        limits: How long the index may be, as `header_bytes`.

    Raises:
        InvalidCheckpoint: There are no weight files, or the index is not sound or names a file that is missing.
    """
    if INDEX not in files:
        weights = {name: files[name] for name in sorted(files) if is_weights(name)}
        if not weights:
            raise InvalidCheckpoint(how_to_convert(files))
        return WeightFiles(weights, None)
    index = _read_index(files[INDEX], limits)
    names = sorted(set(index.values()))
    if WHOLE in files and WHOLE not in names:
        raise InvalidCheckpoint(
            f"There is {WHOLE} beside an {INDEX} of other files, and programs disagree about which to load; "
            "remove the one that is not the model.",
            field=WHOLE,
        )
    for name in names:
        if name not in files:
            raise InvalidCheckpoint(f"{INDEX} names {show(name)}, and there is no such file; complete the folder.")
    return WeightFiles({name: files[name] for name in names}, index)


def how_to_convert(names: Iterable[str]) -> str:
    """Return the message for files without weights: what to do with the pickles among them, if there are any."""
    pickles = sorted(name for name in names if is_pickle(name))
    if pickles:
        return (
            f"The weights in {show(pickles[0])} are not safetensors, and pickle files are never opened; "
            "load the model and save it again with save_pretrained, and use that folder."
        )
    return "There are no .safetensors files; a checkpoint is a .safetensors file or a folder of them."


def read_json(path: Path, name: str, max_bytes: int) -> dict[str, Any]:
    """Read a JSON object in which no key occurs twice.

    Args:
        path: The file.
        name: What messages call it.
        max_bytes: How long it may be.

    Raises:
        InvalidCheckpoint: The file is longer, or is not such an object.
    """
    with path.open("rb") as file:
        raw = file.read(max_bytes + 1)
    if len(raw) > max_bytes:
        raise InvalidCheckpoint(f"{name} is longer than the {max_bytes} bytes allowed.", field=name)
    try:
        table = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as problem:
        raise InvalidCheckpoint(f"{name} is not sound JSON: {str(problem)[:200]}.", field=name) from None
    if not isinstance(table, dict):
        raise InvalidCheckpoint(f"{name} is not a JSON object.", field=name)
    return table


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return table


def _read_index(path: Path, limits: Limits) -> dict[str, str]:
    weight_map = read_json(path, INDEX, limits.header_bytes).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InvalidCheckpoint(f"{INDEX} has no weight_map; save the model again.", field=INDEX)
    for tensor, name in weight_map.items():
        sound = isinstance(name, str) and is_weights(name) and not set(name) & set("\\:\0")
        if not sound or name.startswith("."):
            raise InvalidCheckpoint(
                f"{INDEX} places tensor {show(tensor)} in {show(str(name))}, which is not a .safetensors file "
                "beside it.",
                field=tensor,
            )
    return weight_map
