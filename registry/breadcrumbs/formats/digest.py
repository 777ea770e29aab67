"""The weights digest, which identifies a model by its tensors, whatever files and shards hold them.

For every tensor one line, sorted by the UTF-8 bytes of the name:

    <name> TAB <dtype> TAB <shape, comma-joined> TAB <sha256 hex of the raw little-endian bytes> LF

    weights digest = "sha256:" + hex(sha256(all lines))

Only the standard library is used, so that a machine without numpy, numba and torch can verify a model.
"""

import hashlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from registry.breadcrumbs.formats.blocks import HASH_BYTES, blocks
from registry.breadcrumbs.formats.checkpoint import Weights, open_checkpoint
from registry.breadcrumbs.formats.header import TensorSpec, show
from registry.errors import InvalidCheckpoint
from registry.files.folders import CONFIG
from registry.files.progress import Meter, Progress
from registry.files.threads import call_each


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
    """Hash every tensor's raw bytes, block by block, as many tensors at a time as there are processors.

    Args:
        weights: The tensors, in a checkpoint or elsewhere.
        progress: Called with (bytes hashed, bytes of all tensors).

    Returns:
        sha256 hex by tensor name, in name order.

    Raises:
        InvalidCheckpoint: A file has become shorter since it was opened.
    """
    meter, local = Meter(sum(map(weights.bytes_of, weights.tensors)), progress), threading.local()

    def hash_tensor(name: str) -> str:
        buffer = local.__dict__.setdefault("buffer", memoryview(bytearray(HASH_BYTES)))
        digest = hashlib.sha256()
        for start, stop in blocks(weights.bytes_of(name), HASH_BYTES):
            view = buffer[: stop - start]
            weights.fill(view, name, start)
            digest.update(view)
            meter.add(len(view))
        return digest.hexdigest()

    largest_first = sorted(weights.tensors, key=weights.bytes_of, reverse=True)  # no long one is left for last
    digests = call_each(hash_tensor, largest_first)
    return {name: digests[name] for name in weights.tensors}


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
