"""A model's tensors, opened lazily from one safetensors file or many shards, and their weights digest.

For every tensor one line, sorted by the UTF-8 bytes of the name:

    <name> TAB <dtype> TAB <shape, comma-joined> TAB <sha256 hex of the raw little-endian bytes> LF

    weights digest = "sha256:" + hex(sha256(all lines))

Bytes are read with preadv into buffers, block by block: a mapped file that shrinks would kill the process.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

import torch

from registry.breadcrumbs.formats.header import CHECKPOINT_LIMITS, DTYPES, Header, Limits, read_header, show
from registry.breadcrumbs.formats.header import TensorSpec as TensorSpec
from registry.errors import InvalidCheckpoint, InvalidInput, NotFound
from registry.files.copying import read_at
from registry.files.folders import CONFIG, INDEX, WHOLE, is_pickle
from registry.files.progress import Meter, Progress

BLOCK = 2**20
"""Elements processed at a time; a multiple of 8, so that blocks of a bitmask are whole bytes."""

HASHED = 2**20
"""Bytes hashed at a time: they stay in the processor's cache from reading to hashing."""

CONFIG_BYTES = 4_000_000

TORCH: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}


class Weights(Protocol):
    """What a comparison reads of a fine-tuned model: a checkpoint, or an adapter on its base."""

    @property
    def tensors(self) -> Mapping[str, TensorSpec]:
        """Return dtype and shape of every tensor, in name order."""

    @property
    def shared(self) -> frozenset[str]:
        """Return which tensors are the base's own, and need not be compared."""

    def bytes_of(self, name: str) -> int:
        """Bytes of a tensor."""

    def fill(self, view: memoryview, name: str, start: int) -> None:
        """Fill bytes with those of a tensor, from byte `start` of it on."""

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Read elements of a tensor: [stop - start], of its dtype."""

    def read_raw(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Read elements as their little-endian bytes: uint8 [(stop - start) * bytes per element]."""


class Checkpoint:
    """A model's tensors, open for reading; make one with `open_checkpoint`, close it or use `with`.

    Attributes:
        files: The weight files, by their name in the folder, in name order.
        headers: Their headers, by the same names.
        tensors: dtype and shape of every tensor, in the order of the UTF-8 bytes of the names.
        config: The model's config.json; empty when there is none.
        shared: Empty: whatever a checkpoint holds is its own.
    """

    shared: frozenset[str] = frozenset()

    def __init__(self, files: Mapping[str, Path], config: dict[str, Any], limits: Limits) -> None:
        self.files = {name: files[name] for name in sorted(files)}
        self.headers: dict[str, Header] = {}
        self.config = config
        self._open: dict[str, BinaryIO] = {}
        self._file_of: dict[str, str] = {}
        try:
            for name, path in self.files.items():
                self._add(name, path, limits)
        except BaseException:
            self.close()
            raise
        self.tensors = {}
        for tensor in sorted(self._file_of):
            entry = self.headers[self._file_of[tensor]].entries[tensor]
            self.tensors[tensor] = TensorSpec(entry.dtype, entry.shape)

    def _add(self, name: str, path: Path, limits: Limits) -> None:
        file = path.open("rb", buffering=0)
        self._open[name] = file
        header = read_header(file, os.fstat(file.fileno()).st_size, f"Weight file {name}", limits, InvalidCheckpoint)
        if header.metadata.get("format") == "breadcrumb-patch":
            raise InvalidCheckpoint(f"{name} is a breadcrumb patch and no model; move it out of the folder.")
        for tensor in header.entries:
            if tensor in self._file_of:
                raise InvalidCheckpoint(
                    f"Tensor {show(tensor)} is in both {self._file_of[tensor]} and {name}; "
                    f"keep the files of one model in a folder, or add {INDEX}.",
                    field=tensor,
                )
            self._file_of[tensor] = name
        if len(self._file_of) > limits.entries:
            raise InvalidCheckpoint(f"The checkpoint has more than {limits.entries} tensors.")
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
        return sum(spec.numel * DTYPES[spec.dtype] for spec in self.tensors.values())

    def bytes_of(self, name: str) -> int:
        """Bytes of a tensor."""
        return self.tensors[name].numel * DTYPES[self.tensors[name].dtype]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Read elements of a tensor, in row-major order, into fresh memory.

        Args:
            name: The tensor.
            start: First element.
            stop: One past the last element; the end when None.

        Returns:
            [stop - start], of the tensor's dtype.

        Raises:
            InvalidCheckpoint: The file has shrunk since it was opened.
        """
        spec = self.tensors[name]
        stop = spec.numel if stop is None else min(stop, spec.numel)
        return self.read_raw(name, min(start, stop), stop).view(TORCH[spec.dtype])

    def read_raw(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Read elements as their little-endian bytes: uint8 [(stop - start) * bytes per element]."""
        shard = self._file_of[name]
        entry = self.headers[shard].entries[name]
        width = DTYPES[entry.dtype]
        return read_bytes(
            self._open[shard],
            entry.start + start * width,
            (stop - start) * width,
            f"Weight file {shard}",
            InvalidCheckpoint,
        )

    def fill(self, view: memoryview, name: str, start: int) -> None:
        """Fill bytes with those of a tensor, from byte `start` of it on; errors as of `read`."""
        file, at = self.place(name)
        fill(view, file, at + start, f"Weight file {self._file_of[name]}", InvalidCheckpoint)

    def place(self, name: str) -> tuple[int, int]:
        """Return the descriptor of the file that holds a tensor, and the byte at which it starts."""
        shard = self._file_of[name]
        return self._open[shard].fileno(), self.headers[shard].entries[name].start

    def file(self, shard: str) -> BinaryIO:
        """Return a weight file, open for reading."""
        return self._open[shard]

    def read_header_bytes(self, shard: str) -> bytes:
        """Read a weight file's header as it stands: length bytes, JSON text and padding."""
        size = self.headers[shard].size
        raw = read_bytes(self._open[shard], 0, size, f"Weight file {shard}", InvalidCheckpoint)
        return raw.numpy().tobytes()


def fill(view: memoryview, file: int, at: int, what: str, error: type[InvalidInput]) -> None:
    """Fill bytes with those of a file, given by its descriptor, from byte `at` on.

    Raises:
        InvalidInput: As `error`, when the file ends before.
    """
    try:
        read_at(file, view, at)
    except EOFError:
        raise error(f"{what} became shorter while it was read; fetch it again.") from None


def read_bytes(file: BinaryIO, at: int, length: int, what: str, error: type[InvalidInput]) -> torch.Tensor:
    """Read `length` bytes at byte `at` into a fresh uint8 tensor; errors as of `fill`."""
    raw = torch.empty(length, dtype=torch.uint8)
    fill(octets(raw), file.fileno(), at, what, error)
    return raw


def octets(tensor: torch.Tensor) -> memoryview:
    """Return a view of a tensor's bytes, [numel * bytes per element]; the tensor is [n] on the CPU."""
    if not tensor.numel():  # such a tensor may have a stride that no view accepts
        return memoryview(b"")
    return memoryview(tensor.view(torch.uint8).numpy().data)


def blocks(count: int, step: int = BLOCK) -> Iterator[tuple[int, int]]:
    """Cut `count` elements into (start, stop) blocks."""
    for start in range(0, count, step):
        yield start, min(start + step, count)


def open_checkpoint(source: Path | Mapping[str, Path], limits: Limits = CHECKPOINT_LIMITS) -> Checkpoint:
    """Open a checkpoint without reading its tensors.

    Args:
        source: A safetensors file; or a folder in the Hugging Face layout; or the files of such a folder, each
            by its name there, wherever they really are.
        limits: What each header may cost.

    Returns:
        The checkpoint; close it.

    Raises:
        InvalidCheckpoint: It is no sound safetensors checkpoint.
        NotFound: Nothing is there.
    """
    if isinstance(source, Path):
        if source.is_file():
            if source.suffix != ".safetensors":
                raise InvalidCheckpoint(f"{source.name} is not a .safetensors file. {_convert([source.name])}")
            return Checkpoint({source.name: source}, {}, limits)
        if not source.is_dir():
            raise NotFound(f"There is no checkpoint at {source}.")
        source = {path.name: path for path in source.iterdir() if path.is_file()}
    config = read_json(source[CONFIG], CONFIG, CONFIG_BYTES) if CONFIG in source else {}
    if INDEX not in source:
        found = {name: path for name, path in source.items() if name.endswith(".safetensors") and "/" not in name}
        if not found:
            raise InvalidCheckpoint(_convert(source))
        return Checkpoint(found, config, limits)
    weight_map = _read_index(source[INDEX], limits)
    shards = sorted(set(weight_map.values()))
    if WHOLE in source and WHOLE not in shards:
        raise InvalidCheckpoint(
            f"There is {WHOLE} beside an {INDEX} of other files, and programs disagree about which to load; "
            "remove the one that is not the model.",
            field=WHOLE,
        )
    for shard in shards:
        if shard not in source:
            raise InvalidCheckpoint(f"{INDEX} names {show(shard)}, and there is no such file; complete the folder.")
    checkpoint = Checkpoint({shard: source[shard] for shard in shards}, config, limits)
    held = {tensor: shard for shard, header in checkpoint.headers.items() for tensor in header.entries}
    if held != weight_map:
        checkpoint.close()
        wrong = sorted(name for name in held.keys() | weight_map.keys() if held.get(name) != weight_map.get(name))[0]
        raise InvalidCheckpoint(
            f"{INDEX} places tensor {show(wrong)} in {weight_map.get(wrong, 'no file')}, and the shards have it in "
            f"{held.get(wrong, 'no file')}; save the model again.",
            field=wrong,
        )
    return checkpoint


def _convert(names: Iterable[str]) -> str:
    pickles = sorted(name for name in names if is_pickle(name))
    if pickles:
        return (
            f"The weights in {show(pickles[0])} are not safetensors, and pickle files are never opened; "
            "load the model and save it again with save_pretrained, and use that folder."
        )
    return "There are no .safetensors files; a checkpoint is a .safetensors file or a folder of them."


def read_json(path: Path, name: str, longest: int) -> dict[str, Any]:
    """Read a JSON object of at most `longest` bytes, in which no key occurs twice.

    Raises:
        InvalidCheckpoint: It is longer, or no such object; `name` is how the message calls it.
    """
    with path.open("rb") as file:
        raw = file.read(longest + 1)
    if len(raw) > longest:
        raise InvalidCheckpoint(f"{name} is longer than the {longest} bytes allowed.", field=name)
    try:
        found = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as problem:
        raise InvalidCheckpoint(f"{name} is not sound JSON: {str(problem)[:200]}.", field=name) from None
    if not isinstance(found, dict):
        raise InvalidCheckpoint(f"{name} is not a JSON object.", field=name)
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return table


def _read_index(path: Path, limits: Limits) -> dict[str, str]:
    weight_map = read_json(path, INDEX, limits.header_bytes).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InvalidCheckpoint(f"{INDEX} has no weight_map; save the model again.", field=INDEX)
    for tensor, shard in weight_map.items():
        sound = isinstance(shard, str) and shard.endswith(".safetensors") and not set(shard) & set("/\\:\0")
        if not sound or shard.startswith("."):
            raise InvalidCheckpoint(
                f"{INDEX} places tensor {show(tensor)} in {show(str(shard))}, which is not a .safetensors file "
                "beside it.",
                field=tensor,
            )
    return weight_map


def tensor_digests(checkpoint: Checkpoint, progress: Progress | None = None) -> dict[str, str]:
    """Hash every tensor's raw bytes, streaming, as many tensors at a time as there are processors.

    Returns:
        sha256 hex by tensor name, in name order.
    """
    meter, buffers = Meter(checkpoint.size, progress), threading.local()

    def digest(name: str) -> str:
        buffer = buffers.__dict__.setdefault("view", memoryview(bytearray(HASHED)))
        width = DTYPES[checkpoint.tensors[name].dtype]
        found = hashlib.sha256()
        for start, stop in blocks(checkpoint.tensors[name].numel, HASHED // width):
            view = buffer[: (stop - start) * width]
            checkpoint.fill(view, name, start * width)
            found.update(view)
            meter.add(len(view))
        return found.hexdigest()

    largest = sorted(checkpoint.tensors, key=checkpoint.bytes_of, reverse=True)  # so that none is left for the end
    with ThreadPoolExecutor(processors()) as pool:
        digests = dict(zip(largest, pool.map(digest, largest), strict=True))
    return {name: digests[name] for name in checkpoint.tensors}


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def weights_digest(lines: Iterable[tuple[str, str, Sequence[int], str]]) -> str:
    """Return the weights digest of tensors.

    Args:
        lines: (name, dtype, shape, sha256 hex of the raw bytes) of each tensor, in any order.

    Raises:
        InvalidCheckpoint: A name holds TAB or LF, which would let two models share one digest.
    """
    digest = hashlib.sha256()
    for name, dtype, shape, sha256 in sorted(lines, key=lambda line: line[0].encode("utf-8")):
        if "\t" in name or "\n" in name:
            raise InvalidCheckpoint(f"Tensor name {show(name)} holds TAB or LF; rename it.", field=name)
        digest.update(f"{name}\t{dtype}\t{','.join(map(str, shape))}\t{sha256}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def digest_of(tensors: Mapping[str, TensorSpec], digests: Mapping[str, str]) -> str:
    """Return the weights digest of tensors whose bytes are already hashed."""
    return weights_digest((name, spec.dtype, spec.shape, digests[name]) for name, spec in tensors.items())


def digest_checkpoint(checkpoint: Checkpoint, progress: Progress | None = None) -> str:
    """Read a whole checkpoint and return its weights digest, `sha256:<hex>`."""
    return digest_of(checkpoint.tensors, tensor_digests(checkpoint, progress))
