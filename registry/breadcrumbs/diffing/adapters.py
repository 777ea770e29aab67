"""Adapters: a LoRA adapter, of PEFT or another program, read as the tuned checkpoint that it makes of its base.

    tuned[o, i] = round(W[o, i] + s (B[o, 0] A[0, i] + B[o, 1] A[1, i] + ... + B[o, r - 1] A[r - 1, i]))

    A [r, in], B [out, r]     lora_A, lora_B; of a convolution A [r, in, *kernel] and B [out, r, 1, ...], i being all of
                              (in, *kernel); lora_embedding_A [r, words], lora_embedding_B [width, r]
    W [out, in]               the base's tensor, or the adapter's own where it brings one (embeddings); transposed
                              for embeddings, and for what GPT-2 calls Conv1D
    s                         see adapter_config.py; adapter_parts.py finds which tensor is which

With DoRA, each output o (a row, or a column of a transposed weight) is then given its own length, before it is rounded:

    tuned[o] = round(m[o] / sqrt(sum of squares of (W + s B A)[o]) * (W + s B A)[o])         m: lora_magnitude_vector

All of it is float64: the products of float32, float16 or bfloat16 factors are exact, their sum is in the order written,
then come s and W. The result is rounded once, to float32, or to float64 where W is float64; not to the base's dtype,
since bfloat16 would swallow most small changes before a patch could hold them. No step depends on the machine.

Tensors that an adapter brings whole (modules_to_save, biases) are taken as they are, and all others are the base's own.
Elements are computed when they are read, block by block, so apart from the factors no tensor is whole in memory. Where
the base ties head and embedding and an adapter changes the embedding alone, the head changes with it, as it does in
PEFT's merge_and_unload; an adapter that changes the head alone unties it, which a patch cannot do.
"""

import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from registry.breadcrumbs.diffing.adapter_config import ADAPTER, CONFIG, AdapterConfig, read_config
from registry.breadcrumbs.diffing.adapter_formats import PEFT, Named, program_of, read_names
from registry.breadcrumbs.diffing.adapter_parts import Part, Product, find_parts
from registry.breadcrumbs.formats.arrays import count_not_finite, octets, read_floats, read_raw
from registry.breadcrumbs.formats.blocks import blocks
from registry.breadcrumbs.formats.checkpoint import Checkpoint, open_checkpoint
from registry.breadcrumbs.formats.header import CHECKPOINT_LIMITS, DTYPES, show
from registry.breadcrumbs.kernels.adapters import add_product
from registry.breadcrumbs.kernels.compose import CODES, PAD
from registry.errors import InvalidCheckpoint
from registry.files.folders import INDEX, WHOLE

Factor = npt.NDArray[np.floating[Any]]


class Adapted:
    """A base with a LoRA adapter, open for reading; open one with `open_tuned`, and close it or use `with`.

    Attributes:
        files: The adapter's file, by its name.
        config: The adapter's settings.
        tensors: dtype and shape of every tensor, as those of the base, in name order.
        shared: The tensors that the adapter leaves as they are.
    """

    def __init__(self, base: Checkpoint, file: Checkpoint, config: AdapterConfig, named: Named | None = None) -> None:
        self.files, self.config = file.files, config
        self._base, self._file, self._local = base, file, _Local()
        try:
            self._parts = find_parts(base, file, config, named.pairs if named else None)
        except BaseException:
            self.close()
            raise
        changed = {name: part.spec for name, part in self._parts.items()}
        self.tensors = dict(sorted((dict(base.tensors) | changed).items()))
        self.shared = frozenset(base.tensors.keys() - changed.keys())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the adapter's file; the base stays open."""
        self._file.close()

    def bytes_of(self, name: str) -> int:
        """Return how many bytes a tensor has."""
        return self.tensors[name].bytes

    def dtype_of(self, name: str) -> str:
        """Return the dtype of a tensor."""
        return self.tensors[name].dtype

    def fill(self, view: memoryview, name: str, start: int) -> None:
        """Fill a view with whole elements of a tensor, from byte `start` on.

        Raises:
            InvalidCheckpoint: A factor holds NaN or Inf, or a file has become shorter since it was opened.
        """
        part = self._parts.get(name) or Part(self._base, name, self.tensors[name])
        if part.product is None:
            part.source.fill(view, part.name, start)
        elif view:
            self._compute(view, part, part.product, start)

    def _compute(self, view: memoryview, part: Part, product: Product, start: int) -> None:
        """Fill a view with elements of a tensor to which a product is added."""
        result, source = part.spec.dtype, part.source.dtype_of(part.name)
        first, size = start // DTYPES[result], len(view) // DTYPES[result]
        raw = np.empty(size * DTYPES[source] + PAD, np.uint8)
        part.source.fill(octets(raw)[:-PAD], part.name, first * DTYPES[source])
        left, right = self._factors(product)
        out = np.frombuffer(view, np.float64 if result == "F64" else np.float32)
        if product.magnitude is None:
            add_product(raw, CODES[source], first, size, left, right, product.scale, out)
            return
        sums = np.empty(size)
        add_product(raw, CODES[source], first, size, left, right, product.scale, sums)
        gains = self._gains(part, product)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is told by the comparison
            out[:] = sums * gains[_outputs(first, size, right.shape[1], product)]

    def _gains(self, part: Part, product: Product) -> npt.NDArray[np.float64]:
        """Return what each output of a DoRA weight is multiplied by, [out]: its magnitude by the length that it has."""
        if self._local.gains is None:
            assert product.magnitude is not None
            left, right = self._factors(product)
            source = part.source.dtype_of(part.name)
            lengths = np.zeros(right.shape[1] if product.turned else left.shape[0])
            for first, last in blocks(part.spec.numel):
                raw = np.empty((last - first) * DTYPES[source] + PAD, np.uint8)
                part.source.fill(octets(raw)[:-PAD], part.name, first * DTYPES[source])
                sums = np.empty(last - first)
                add_product(raw, CODES[source], first, last - first, left, right, product.scale, sums)
                outputs = _outputs(first, last - first, right.shape[1], product)
                lengths += np.bincount(outputs, sums * sums, lengths.size)  # in order, so that every machine agrees
            with np.errstate(divide="ignore", invalid="ignore"):
                self._local.gains = self._factor(product.magnitude).astype(np.float64).reshape(-1) / np.sqrt(lengths)
        return self._local.gains

    def _factors(self, product: Product) -> tuple[Factor, Factor]:
        """Return the factors of a weight, [rows, r] and [r, columns]; each thread keeps the last it asked for."""
        if self._local.product is not product:
            self._local.product = self._local.factors = self._local.gains = (
                None  # so that those of two weights are not in memory
            )
            a, b = self._factor(product.a), self._factor(product.b)
            pair = (a.T, b.T) if product.turned else (b, a)
            self._local.factors = np.ascontiguousarray(pair[0]), np.ascontiguousarray(pair[1])
            self._local.product = product
        assert self._local.factors is not None
        return self._local.factors

    def _factor(self, key: str) -> Factor:
        """Read a factor: float32 or float64 [rows, elements of a row]."""
        spec = self._file.tensors[key]
        bad = count_not_finite(read_raw(self._file, key, 0, spec.numel), spec.dtype)
        if bad:
            raise InvalidCheckpoint(
                f"Tensor {show(key)} of the adapter holds {bad} NaN or Inf; a patch needs finite weights.", field=key
            )
        return read_floats(self._file, key, 0, spec.numel).reshape(spec.shape[0], -1)


class _Local(threading.local):
    """The factors that a thread asked for last."""

    product: Product | None = None
    factors: tuple[Factor, Factor] | None = None
    gains: npt.NDArray[np.float64] | None = None


def _outputs(first: int, size: int, columns: int, product: Product) -> npt.NDArray[np.int64]:
    """Return the output that each of some elements of a weight belongs to."""
    places = np.arange(first, first + size)
    return places % columns if product.turned else places // columns


def is_adapter(path: Path) -> bool:
    """Say whether a file or folder is an adapter, as PEFT saves one."""
    return path.name == ADAPTER if path.is_file() else (path / CONFIG).is_file()


def open_tuned(path: Path, base: Checkpoint) -> Checkpoint | Adapted:
    """Open a fine-tuned checkpoint, or an adapter on its base, reading no tensors but scales.

    Args:
        path: A safetensors file, a folder in the Hugging Face layout, or an adapter's folder or file.
        base: The base; it must stay open while an adapter is read.

    Returns:
        What `diff` reads; close it.

    Raises:
        InvalidCheckpoint: The path is neither, or an adapter of a kind that is not read here.
        CheckpointMismatch: Names of the adapter fit the base in several ways.
        NotFound: The path does not exist.
    """
    if not is_adapter(path):
        return _open_other(path, base)
    folder = path.parent if path.is_file() else path
    if path.is_dir() and ((folder / WHOLE).is_file() or (folder / INDEX).is_file()):
        raise InvalidCheckpoint(
            f"{folder.name} holds both an adapter and a whole model; give its {ADAPTER}, or move the adapter out of it."
        )
    config = read_config(folder)
    weights = path if path.is_file() else folder / ADAPTER
    others = sorted(folder.glob("*.safetensors"))
    if not weights.is_file() and len(others) == 1:
        weights = others[0]
    if not weights.is_file():
        raise InvalidCheckpoint(
            f"The adapter has no {ADAPTER}, and pickle files like adapter_model.bin are never opened; load it with "
            "PEFT, save it again with save_pretrained, and use that folder."
        )
    return Adapted(base, Checkpoint({weights.name: weights}, {}, CHECKPOINT_LIMITS), config)


def _open_other(path: Path, base: Checkpoint) -> Checkpoint | Adapted:
    """Open a checkpoint, or a LoRA file of another program than PEFT."""
    opened = open_checkpoint(path)
    program = program_of(next(iter(opened.headers.values()))) if len(opened.headers) == 1 else None
    if program is None:
        return opened
    try:
        if program == PEFT and path.is_file() and (path.parent / CONFIG).is_file():
            return Adapted(base, opened, read_config(path.parent))
        named = read_names(opened, base, program, path.name)
        return Adapted(base, opened, named.settings(opened), named)
    except BaseException:
        opened.close()
        raise
