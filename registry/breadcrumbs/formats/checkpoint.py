"""Checkpoints: a model's tensors in one safetensors file or many shards, opened without reading them.

weight_files.py says which files of a folder these are, digest.py identifies the model by its bytes, and arrays.py reads
tensors as numpy arrays. Opening needs none of numpy, numba and torch.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

from registry.breadcrumbs.formats.blocks import fill
from registry.breadcrumbs.formats.header import CHECKPOINT_LIMITS, Entry, Header, Limits, TensorSpec, show
from registry.breadcrumbs.formats.header_reader import read_header
from registry.breadcrumbs.formats.weight_files import find_weights, how_to_convert, read_json, require_whole
from registry.errors import InvalidCheckpoint, NotFound
from registry.files.collector import paused_collector
from registry.files.descriptors import open_to_read
from registry.files.folders import CONFIG, INDEX
from registry.files.names import EMBEDDINGS, ends, is_head

CONFIG_BYTES = 4_000_000
"""Longest config.json that is read."""

HEADERS = 4
"""How often the longest header all headers of a checkpoint may have together: 2,000 shards have 2,000 of them."""


class Weights(Protocol):
    """What a comparison reads of a fine-tuned model: a checkpoint, or an adapter on its base."""

    @property
    def tensors(self) -> Mapping[str, TensorSpec]:
        """Return dtype and shape of every tensor, in name order."""

    @property
    def shared(self) -> frozenset[str]:
        """Return which tensors are the base's own, and need not be compared."""

    def bytes_of(self, name: str) -> int:
        """Return how many bytes a tensor has."""

    def dtype_of(self, name: str) -> str:
        """Return the dtype of a tensor."""

    def fill(self, view: memoryview, name: str, start: int) -> None:
        """Fill a view with the bytes of a tensor from byte `start` on."""


class Checkpoint:
    """A model's tensors, open for reading; open one with `open_checkpoint`, and close it or use `with`.

    Attributes:
        files: The weight files, by their paths in the folder, in name order.
        indexes: Paths of the indexes that name them.
        left_out: Other files of the folder that may hold weights, and are no part of the model.
        headers: Their headers, by the same paths; tensors of a component are called `<folder>/<tensor>` there, too.
        tensors: dtype and shape of every tensor, in the order of the UTF-8 bytes of the names.
        config: The model's config.json; empty where there is none.
        shared: Empty: all tensors are the checkpoint's own.
    """

    shared: frozenset[str] = frozenset()

    def __init__(
        self,
        files: Mapping[str, Path],
        config: dict[str, Any],
        limits: Limits,
        indexes: Sequence[str] = (),
        left_out: Sequence[str] = (),
    ) -> None:
        self.files = {name: files[name] for name in sorted(files)}
        self.indexes, self.left_out = tuple(indexes), tuple(left_out)
        self.headers: dict[str, Header] = {}
        self.config = config
        self._open: dict[str, BinaryIO] = {}
        self._file_of: dict[str, str] = {}
        self._header_bytes = 0
        try:
            for name, path in self.files.items():
                self._add(name, path, limits)
        except BaseException:
            self.close()
            raise
        self.tensors: dict[str, TensorSpec] = {}
        specs: dict[tuple[str, tuple[int, ...]], TensorSpec] = {}  # one for all that are alike
        for tensor in sorted(self._file_of):
            entry = self.headers[self._file_of[tensor]].entries[tensor]
            key = entry.dtype, entry.shape
            self.tensors[tensor] = specs.get(key) or specs.setdefault(key, TensorSpec(*key))

    def _add(self, name: str, path: Path, limits: Limits) -> None:
        file = self._open[name] = open_to_read(path)
        header = read_header(file, os.fstat(file.fileno()).st_size, f"Weight file {name}", limits, InvalidCheckpoint)
        if header.metadata.get("format") in ("breadcrumb-patch", "breadcrumb-delta"):
            what = header.metadata["format"].replace("-", " ")
            raise InvalidCheckpoint(f"{name} is a {what} and not a model; move it out of the folder.")
        if folder := name.rpartition("/")[0]:
            header = _within(folder, header)
        for tensor in header.entries:
            if tensor in self._file_of:
                raise InvalidCheckpoint(
                    f"Tensor {show(tensor)} is in both {self._file_of[tensor]} and {name}; "
                    f"keep the files of one model in a folder, or add {INDEX}.",
                    field=tensor,
                )
            self._file_of[tensor] = name
        if len(self._file_of) > limits.entries:
            raise InvalidCheckpoint(f"The checkpoint has more than the {limits.entries} tensors allowed.")
        self._header_bytes += header.size
        if self._header_bytes > HEADERS * limits.header_bytes:
            allowed = HEADERS * limits.header_bytes
            raise InvalidCheckpoint(f"The headers of the checkpoint have more than the {allowed} bytes allowed.")
        self.headers[name] = header

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for file in self._open.values():
            file.close()

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(map(self.bytes_of, self.tensors))

    def bytes_of(self, name: str) -> int:
        """Return how many bytes a tensor has."""
        return self.tensors[name].bytes

    def dtype_of(self, name: str) -> str:
        """Return the dtype of a tensor."""
        return self.tensors[name].dtype

    def fill(self, view: memoryview, name: str, start: int) -> None:
        """Fill a view with the bytes of a tensor.

        Args:
            view: Writable bytes, filled whole.
            name: The tensor.
            start: The tensor's first byte to read.

        Raises:
            InvalidCheckpoint: The file has become shorter since it was opened.
        """
        file, at = self.place(name)
        fill(view, file, at + start, f"Weight file {self._file_of[name]}", InvalidCheckpoint)

    def place(self, name: str) -> tuple[int, int]:
        """Return the descriptor of the file that holds a tensor, and the byte at which the tensor starts in it."""
        shard = self._file_of[name]
        return self._open[shard].fileno(), self.headers[shard].entries[name].start

    def file(self, shard: str) -> BinaryIO:
        """Return a weight file, open for reading."""
        return self._open[shard]

    def read_header_bytes(self, shard: str) -> bytes:
        """Read a weight file's header as it stands: length bytes, JSON text and padding."""
        raw = bytearray(self.headers[shard].size)
        fill(memoryview(raw), self._open[shard].fileno(), 0, f"Weight file {shard}", InvalidCheckpoint)
        return bytes(raw)


def _within(folder: str, header: Header) -> Header:
    """Return the header of a component's file, whose tensors are called `<folder>/<tensor>`."""
    entries = (
        Entry(f"{folder}/{entry.name}", entry.dtype, entry.shape, entry.start, entry.stop)
        for entry in header.entries.values()
    )
    return Header({entry.name: entry for entry in entries}, header.metadata, header.size)


def list_files(folder: Path) -> dict[str, Path]:
    """Return the files of a model folder by their paths in it, in name order, hidden ones left out.

    Links to nothing are among them, so that whoever looks for their files can name them.
    """
    files = {}
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith("."):
                file = Path(where, name)
                files[file.relative_to(folder).as_posix()] = file
    return {path: files[path] for path in sorted(files)}


@paused_collector()
def open_checkpoint(source: Path | Mapping[str, Path], limits: Limits = CHECKPOINT_LIMITS) -> Checkpoint:
    """Open a checkpoint without reading its tensors.

    Args:
        source: A safetensors file; or a folder in the Hugging Face layout; or the files of such a folder by their
            names in it, wherever their bytes are.
        limits: What each header may cost.

    Returns:
        The checkpoint; close it.

    Raises:
        InvalidCheckpoint: The source is not a sound safetensors checkpoint.
        NotFound: The source does not exist.
        TooManyFiles: It has more files than the process may open.
    """
    if isinstance(source, Path):
        if source.is_file():
            if source.suffix != ".safetensors":
                raise InvalidCheckpoint(f"{source.name} is not a .safetensors file. {how_to_convert([source.name])}")
            require_whole(source)
            return Checkpoint({source.name: source}, {}, limits)
        if not source.is_dir():
            raise NotFound(f"There is no checkpoint at {source}.")
        source = list_files(source)
    config = read_json(source[CONFIG], CONFIG, CONFIG_BYTES, unique=False) if CONFIG in source else {}
    weights = find_weights(source, limits)
    checkpoint = Checkpoint(weights.files, config, limits, list(weights.indexes), weights.left_out)
    for path, index in weights.indexes.items():
        held = {tensor: file for file in set(index.values()) for tensor in checkpoint.headers[file].entries}
        wrong = min(_misplaced(index, held, config), default=None)
        if wrong is not None:
            checkpoint.close()
            raise InvalidCheckpoint(
                f"{path} places tensor {show(wrong)} in {index.get(wrong, 'no file')}, and the shards have it in "
                f"{held.get(wrong, 'no file')}; save the model again.",
                field=wrong,
            )
    return checkpoint


@paused_collector()
def open_files(files: Mapping[str, Path], limits: Limits = CHECKPOINT_LIMITS) -> Checkpoint:
    """Open some weight files of a model, whatever others it has.

    Args:
        files: The files by their paths in the model's folder.
        limits: What each header may cost.

    Returns:
        The tensors of these files; close it.

    Raises:
        InvalidCheckpoint: A file is not a sound safetensors file.
    """
    return Checkpoint(files, {}, limits)


def _misplaced(index: Mapping[str, str], held: Mapping[str, str], config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the tensors of which an index says another file than holds them.

    A tied output head that no file holds is not among them: some versions of transformers wrote its name nevertheless,
    and none looks for it there.
    """
    said = [part["tie_word_embeddings"] for part in (config, *config.values()) if _says_tied(part)]
    may_lack_head = (any(said) or not said) and any(ends(name, EMBEDDINGS) for name in held)
    for name in held.keys() | index.keys():
        if held.get(name) != index.get(name) and not (may_lack_head and name not in held and is_head(name)):
            yield name


def _says_tied(part: object) -> bool:
    return isinstance(part, dict) and isinstance(part.get("tie_word_embeddings"), bool)
