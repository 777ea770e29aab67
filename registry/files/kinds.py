"""Kinds: what a path is that holds no safetensors weights, and the command that makes a checkpoint of it."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from shlex import quote

from registry.files.folders import CONFIG, DESCRIPTIONS, is_pickle

CONFIG_BYTES = 4_000_000
"""Longest config.json that is read."""

_STEP = re.compile(r"checkpoint-(\d{1,12})")
_STATE = re.compile(r"training_args|optimizer|scheduler|scaler|rng_state.*")
_CLASS = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,80}")

EXPORTS = {
    ".onnx": "ONNX",
    ".tflite": "TensorFlow Lite",
    ".engine": "TensorRT",
    ".mlpackage": "Core ML",
    ".pb": "TensorFlow",
    ".keras": "Keras",
    ".nemo": "NeMo",
}
"""Suffixes of formats that are made of a model, and what people call them."""

SHARDS = "shards of a distributed checkpoint (FSDP or DCP), which are merged into a model first"
A_GGUF = (
    "a GGUF file, made for inference and most often quantised; use the .safetensors model that it was converted from"
)
A_ZERO = "a checkpoint of DeepSpeed ZeRO, whose shards are merged into a model first"
"""What is said of files of a kind, by whatever they are named."""


def name_kind(path: Path) -> str | None:
    """Name what a path is, if it is not a safetensors checkpoint or an adapter.

    Args:
        path: A file or folder.

    Returns:
        A sentence that says what it is and what to use in its place; None if it may be a checkpoint, or is not known.
    """
    if path.is_file():
        return None if path.suffix == ".safetensors" else _name_files(path.parent, [path], path)
    if not path.is_dir():
        return None
    entries = sorted(path.iterdir())
    files = [entry for entry in entries if not entry.is_dir()]
    if any(file.suffix == ".safetensors" for file in files):
        return None
    return _name_files(path, files, path) or _name_folders(path, [entry for entry in entries if entry.is_dir()])


def name_listed(paths: Iterable[str], what: str) -> str | None:
    """Name what a model is by the paths of its files, if none of them holds safetensors weights.

    Args:
        paths: The files.
        what: What the sentence calls the model.

    Returns:
        A sentence that says what it is and what to use in its place; None if it may be a checkpoint, or is not known.
    """
    names = sorted(paths)
    suffixes = {PurePosixPath(name).suffix.lower(): name for name in reversed(names)}
    if ".safetensors" in suffixes:
        return None
    if ".distcp" in suffixes:
        return f"{what} holds {SHARDS}."
    if ".gguf" in suffixes:
        return f"{what} holds {suffixes['.gguf']!r}, {A_GGUF}."
    if any(PurePosixPath(name).name == "zero_to_fp32.py" for name in names):
        return f"{what} is {A_ZERO}."
    for suffix, name in EXPORTS.items():
        if suffix in suffixes:
            return f"{what} is {an_export(name)}."
    return None


def an_export(name: str) -> str:
    """Return what an export to some format is, and what to use in its place."""
    return f"an export to {name}; use the .safetensors model that it was made from"


def _name_files(folder: Path, files: Sequence[Path], path: Path) -> str | None:
    """Name what files of a folder are; `path` is what the person gave."""
    suffixes = {file.suffix.lower() for file in files}
    out = f"{path.with_suffix('') if path.is_file() else path}-safetensors"
    into = quote(out)
    if ".distcp" in suffixes:
        return f"{path} holds {SHARDS}: `accelerate merge-weights {quote(str(folder))} {into}`."
    gguf = next((file for file in files if file.suffix.lower() == ".gguf" or _starts(file, b"GGUF")), None)
    if gguf is not None:
        line = f"M.from_pretrained({str(folder)!r}, gguf_file={gguf.name!r}).save_pretrained({out!r})"
        return (
            f"{gguf} is {A_GGUF}. If it is not quantised, it can be converted back: "
            f"{_python('AutoModelForCausalLM', line)}."
        )
    if "zero_to_fp32.py" in {file.name for file in files}:
        script = quote(str(folder / "zero_to_fp32.py"))
        return f"{path} is {A_ZERO}: `python {script} {quote(str(folder))} {into} --safe_serialization`."
    pickles = [file for file in files if is_pickle(file.name) and not _STATE.fullmatch(file.stem)]
    if pickles and (found := _class_of(folder)):
        line = f"M.from_pretrained({str(folder)!r}).save_pretrained({str(folder) + '-safetensors'!r})"
        return (
            f"The weights in {pickles[0].name!r} are not safetensors, and pickle files are never opened here; load the "
            f"model and save it again with save_pretrained, and use that folder: {_python(found, line)}."
        )
    for suffix, name in EXPORTS.items():
        if suffix in suffixes:
            return f"{path} is {an_export(name)}."
    return None


def _name_folders(path: Path, folders: Sequence[Path]) -> str | None:
    """Name what a folder is by the folders in it, where it has no weights of its own."""
    steps = sorted((int(match[1]), entry) for entry in folders if (match := _STEP.fullmatch(entry.name)))
    if steps:
        last = steps[-1][1]
        return name_kind(last) or (
            f"{path} is a training run without weights of its own; its last checkpoint is `{quote(str(last))}`."
        )
    sharded = [entry for entry in folders if any(entry.glob("*.distcp"))]
    if sharded:
        return name_kind(sharded[0])
    snapshots = path / "snapshots"
    if snapshots in folders and (held := sorted(snapshots.iterdir(), key=lambda entry: entry.stat().st_mtime)):
        return f"{path} is a model's place in the cache of the Hub; its newest snapshot is `{quote(str(held[-1]))}`."
    inner = [entry for entry in folders if any(entry.glob("*.safetensors"))]
    described = any((path / name).is_file() for name in DESCRIPTIONS)
    if inner and not described:
        listed = " or ".join(f"`{quote(str(entry))}`" for entry in inner[:3])
        return f"{path} has no weights of its own; a folder in it has: {listed}."
    return None


def _python(found: str, line: str) -> str:
    """Return the command, in backticks, that runs a line with a class of transformers called M."""
    return f"`python -c {quote(f'from transformers import {found} as M; {line}')}`"


def _starts(file: Path, magic: bytes) -> bool:
    if file.suffix or not file.is_file():  # only what has no name of a format is opened
        return False
    with file.open("rb") as opened:
        return opened.read(len(magic)) == magic


def _class_of(folder: Path) -> str | None:
    """Return the class of transformers that a folder's config.json names."""
    config = folder / CONFIG
    if not config.is_file() or config.stat().st_size > CONFIG_BYTES:
        return None
    try:
        named = json.loads(config.read_bytes())["architectures"][0]
    except (ValueError, RecursionError, LookupError, TypeError):
        return None
    return named if isinstance(named, str) and _CLASS.fullmatch(named) else None
