"""Files beside the weights: how those of two models differ, and which of them may come with a patch.

A patch carries weights alone. What else fine-tuning changed is named here: keys of configs, and files that are new or
have other bytes. What every save changes does not count, nor what training leaves behind. No pickle is opened.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from registry.errors import InvalidRequest
from registry.files.folders import (
    check_path,
    describes_weights,
    is_path,
    is_pickle,
    may_hold_weights,
    require_one_folder,
)
from registry.files.hashing import hash_file

MOST_FILES = 64
"""Files that come with a patch."""

MOST_BYTES = 50_000_000
"""Of all files that come with a patch."""

KEYED_BYTES = 4_000_000
"""Longest JSON file whose keys are compared."""

MOST_KEYS = 40
"""Keys of a file that are named; the others are counted."""

COMPANION = "companion/tensors.safetensors"
"""Where tensors that only the tuned model has lie in a folder: the one file of weights that may come with a patch."""

CARD_BYTES = 2**19
"""Of a card that is proposed, or written for a release."""

CARD, ADAPTER = "README.md", "adapter_config.json"
LEFTOVERS = (
    CARD,
    ADAPTER,
    "all_results.json",
    "eval_results.json",
    "latest",
    "predict_results.json",
    "test_results.json",
    "train_results.json",
    "trainer_log.jsonl",
    "trainer_state.json",
    "training_args.json",
    "zero_to_fp32.py",
)
"""Names of files that belong to a card, to an adapter, or to the training, and not to the model."""

_TRAINING = re.compile(
    r".*\.log|events\.out\.tfevents\..*|checkpoint-\d+|global_step\d+|runs|wandb|logs", re.IGNORECASE
)
_SAVED = frozenset({"transformers_version", "_name_or_path", "_diffusers_version", "_commit_hash"})
_DTYPE_KEYS = ("torch_dtype", "dtype")
_DTYPE_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_SHOWN = 60  # characters of a value
_DEPTH = 50  # objects and lists within each other
_MISSING = object()


@dataclass(frozen=True, slots=True)
class KeyChange:
    """A key of a JSON file, dotted if objects are nested, with its values as shortened JSON; None if it is missing."""

    key: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file beside the weights that a model has otherwise than its base.

    Args:
        path: In the folder of the model.
        change: Whether the base has such a file.
        size: In bytes.
        keys: For a config, the keys that differ, at most MOST_KEYS.
        more: How many other keys differ.
    """

    path: str
    change: Literal["new", "changed"]
    size: int
    keys: list[KeyChange]
    more: int = 0


def is_beside(path: str) -> bool:
    """Return whether a file of a tuned model may belong to what was tuned, beside the weights."""
    parts = PurePosixPath(path).parts
    return not (
        any(part.startswith(".") or _TRAINING.fullmatch(part) for part in parts)
        or parts[-1] in LEFTOVERS
        or is_pickle(path)
        or may_hold_weights(path)
    )


def is_config(path: str) -> bool:
    """Return whether a file holds settings, whose keys are worth naming, and not a vocabulary."""
    name = PurePosixPath(path).name
    return name.endswith("config.json") or name in ("special_tokens_map.json", "model_index.json")


def may_come(path: str) -> bool:
    """Return whether a file may come with a patch: whether it neither holds weights nor says which files do."""
    return is_beside(path) and is_path(path) and not describes_weights(path)


def check_files(sizes: Mapping[str, int], base: Sequence[str]) -> None:
    """Refuse files that cannot come with a patch.

    Args:
        sizes: Bytes of each file by its path.
        base: Paths of the base's files.

    Raises:
        InvalidRequest: There are too many, a path breaks a rule or collides with another, or a file may hold weights,
            say which files do, or is the card.
    """
    if len(sizes) > MOST_FILES:
        raise InvalidRequest(f"A patch comes with at most {MOST_FILES} files, not {len(sizes)}.", field="files")
    if (total := sum(sizes.values())) > MOST_BYTES:
        raise InvalidRequest(
            f"The files beside a patch have at most {MOST_BYTES} bytes together, not {total}.", field="files"
        )
    for path in sizes:
        check_path(path)
        if path == COMPANION:
            continue
        if may_hold_weights(path) or describes_weights(path) or PurePosixPath(path).name == ADAPTER:
            raise InvalidRequest(
                f"{path} would hold weights, or say which files do; a patch is all that changes those.", field=path
            )
        if path.casefold() == CARD.casefold():
            raise InvalidRequest(f"{path} is the card, which a registry writes; leave it out.", field=path)
    require_one_folder([*dict.fromkeys([*base, *sizes])])


def compare(before: Mapping[str, Path], after: Mapping[str, Path], dtypes: Set[str] = frozenset()) -> list[FileChange]:
    """Return how the files beside the weights of a tuned model differ from those of its base.

    Files that only the base has do not count: a training seldom saves all of them.

    Args:
        before: Files of the base by their paths in the folder.
        after: Files of the tuned model, likewise.
        dtypes: Dtypes of the tuned weights, as in safetensors; a config that says no more than these is no change.

    Raises:
        OSError: A file cannot be read.
    """
    changes = []
    for path in sorted(filter(is_beside, after)):
        size = after[path].stat().st_size
        if path not in before:
            changes.append(FileChange(path, "new", size, []))
            continue
        if before[path].stat().st_size == size and hash_file(before[path]) == hash_file(after[path]):
            continue
        old, new = (_read_json(side[path]) if path.endswith(".json") else None for side in (before, after))
        keys = []
        if old is not None and new is not None:
            keys = [*_walk("", _settle(old[0], new[0], dtypes), _settle(new[0], old[0], dtypes, tuned=True))]
            if not keys:
                continue
        keys = keys if is_config(path) else []
        changes.append(FileChange(path, "changed", size, keys[:MOST_KEYS], max(len(keys) - MOST_KEYS, 0)))
    return changes


def key_changes(before: Path, after: Path) -> tuple[list[KeyChange], int] | None:
    """Return all keys in which two JSON files differ, at most MOST_KEYS, and how many more.

    Nothing is passed over: it is for somebody who decides whether to take a stranger's file.

    Returns:
        None if one of them is too long, or is not a JSON object.

    Raises:
        OSError: A file cannot be read.
    """
    sides = [_read_json(path, KEYED_BYTES) for path in (before, after)]
    if not all(side is not None and isinstance(side[0], dict) for side in sides):
        return None
    keys = [*_walk("", sides[0][0], sides[1][0])]  # type: ignore[index]
    return keys[:MOST_KEYS], max(len(keys) - MOST_KEYS, 0)


def is_json(path: Path) -> bool:
    """Return whether a file of at most MOST_BYTES is JSON.

    Raises:
        OSError: The file cannot be read.
    """
    return _read_json(path) is not None


def _read_json(path: Path, most: int = MOST_BYTES) -> tuple[Any] | None:
    """Return what a JSON file holds; None if it is too long or too deep, or not JSON."""
    with path.open("rb") as file:
        raw = file.read(most + 1)
    if len(raw) > most:
        return None
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    level = [value]
    for _ in range(_DEPTH):
        inner = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
        if not level:
            return (value,)
    return None


def _settle(value: Any, other: Any, dtypes: Set[str], *, tuned: bool = False) -> Any:
    """Return a value without the keys that every save changes, and without a dtype that is only that of the weights.

    A key that is null on one side and missing on the other is no difference, either: versions of a library differ so.
    """
    if not isinstance(value, dict):
        return value
    counterpart = other if isinstance(other, dict) else {}
    kept = {key: item for key, item in value.items() if key not in _SAVED and (key in counterpart or item is not None)}
    old, new = (_dtype(counterpart), _dtype(value)) if tuned else (_dtype(value), _dtype(counterpart))
    if new is None or new == old or new in {_DTYPE_NAMES.get(code) for code in dtypes}:
        kept = {key: item for key, item in kept.items() if key not in _DTYPE_KEYS}
    return {key: _settle(item, counterpart.get(key), dtypes, tuned=tuned) for key, item in kept.items()}


def _dtype(config: dict[str, Any]) -> str | None:
    """Return the dtype that a config names, under whichever of its two keys."""
    named = next((config[key] for key in _DTYPE_KEYS if config.get(key) is not None), None)
    return named.removeprefix("torch.") if isinstance(named, str) else None


def _walk(prefix: str, before: Any, after: Any) -> Iterator[KeyChange]:
    """Yield the keys in which two values differ, in the order of their names."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        if _differ(before, after):
            yield KeyChange(
                shorten(prefix or "(all)"), *(None if it is _MISSING else _show(it) for it in (before, after))
            )
        return
    for key in sorted({*before, *after}):
        name = f"{prefix[:_SHOWN]}.{key[:_SHOWN]}" if prefix else key[: 2 * _SHOWN]
        yield from _walk(name, before.get(key, _MISSING), after.get(key, _MISSING))


def _differ(before: Any, after: Any) -> bool:
    return before is _MISSING or after is _MISSING or json.dumps(before) != json.dumps(after)  # true is not 1


def _show(value: Any) -> str:
    return shorten(json.dumps(value, ensure_ascii=False))


def shorten(text: str, most: int = _SHOWN) -> str:
    """Return a stranger's text on one line of so many characters, without what no terminal, page or database takes."""
    plain = "".join(char if char.isprintable() else " " for char in text[:most])
    return plain if len(text) <= most else f"{plain[:-1]}…"
