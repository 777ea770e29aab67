"""The weights digest, which identifies a model by its tensors, whatever files and shards hold them.

For every tensor one line, sorted by the UTF-8 bytes of the name:

    <name> TAB <dtype> TAB <shape, comma-joined> TAB <sha256 hex of the raw little-endian bytes> LF

    weights digest = "sha256:" + hex(sha256(all lines))

Only the standard library is needed, so that a machine without numpy, numba and torch can verify a model.
"""

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from registry.breadcrumbs.formats.blocks import HASH_BYTES, blocks
from registry.breadcrumbs.formats.checkpoint import Weights, open_checkpoint
from registry.breadcrumbs.formats.header import TensorSpec, show
from registry.errors import InvalidCheckpoint
from registry.files.folders import CONFIG
from registry.files.hashing import Reader, hash_each
from registry.files.progress import Meter, Progress

KERNELS_FROM = 2**31
"""Bytes from which hashing them two tensors at a time saves more than loading the kernels takes."""

MACHINE_CODE = "registry.breadcrumbs.kernels.machine_code"
"""The module that kernels are loaded by."""


def weights_digest(lines: Iterable[tuple[str, str, Sequence[int], str]]) -> str:
    """Return the weights digest of tensors, `sha256:<hex>`.

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
    """Return the weights digest of tensors whose bytes are already hashed: `digests` are their sha256 by name."""
    return weights_digest((name, spec.dtype, spec.shape, digests[name]) for name, spec in tensors.items())


def tensor_digests(weights: Weights, progress: Progress | None = None) -> dict[str, str]:
    """Hash every tensor's raw bytes, block by block, several tensors at a time.

    Args:
        weights: The tensors, in a checkpoint or elsewhere.
        progress: Called with (bytes hashed, bytes of all tensors).

    Returns:
        sha256 hex by tensor name, in name order.

    Raises:
        InvalidCheckpoint: A file has become shorter since it was opened.
    """
    meter = Meter(sum(map(weights.bytes_of, weights.tensors)), progress)

    def read(name: str) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(min(HASH_BYTES, weights.bytes_of(name))))
        for start, stop in blocks(weights.bytes_of(name), HASH_BYTES):
            weights.fill(buffer[: stop - start], name, start)
            yield buffer[: stop - start]

    largest_first = sorted(weights.tensors, key=weights.bytes_of, reverse=True)  # no long one is left for last
    found = _hash_each(meter.total)([partial(read, name) for name in largest_first], meter.add)
    digests = dict(zip(largest_first, found, strict=True))
    return {name: digests[name] for name in weights.tensors}


def _hash_each(size: int) -> Callable[[Sequence[Reader], Callable[[int], object]], list[str]]:
    """Return what hashes streams of so many bytes soonest: the kernels, if they are loaded or worth loading."""
    if MACHINE_CODE in sys.modules or (size >= KERNELS_FROM and find_spec("numba")):
        from registry.breadcrumbs.kernels.sha256.streams import hash_each as hash_pairs

        return hash_pairs
    return hash_each


def digest_checkpoint(weights: Weights, progress: Progress | None = None) -> str:
    """Read a whole checkpoint and return its weights digest, `sha256:<hex>`; errors as of `tensor_digests`."""
    return digest_of(weights.tensors, tensor_digests(weights, progress))


def digest_files(files: Mapping[str, Path], progress: Progress | None = None) -> str:
    """Return the weights digest of the files of a model folder.

    Args:
        files: The folder's files by their names in it, wherever their bytes are. config.json is not looked at: a
            broken one changes no weight.
        progress: Called with (bytes hashed, bytes of all tensors).

    Raises:
        InvalidCheckpoint: The files are not a sound safetensors checkpoint.
    """
    with open_checkpoint({name: path for name, path in files.items() if name != CONFIG}) as checkpoint:
        return digest_checkpoint(checkpoint, progress)
