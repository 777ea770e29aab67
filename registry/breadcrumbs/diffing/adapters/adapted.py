"""Adapted bases: an adapter, of PEFT or another program, read as the tuned checkpoint that it makes of its base.

    tuned[o, i] = round(W[o, i] + s (B[o, 0] A[0, i] + B[o, 1] A[1, i] + ... + B[o, r - 1] A[r - 1, i]))

    A [r, in], B [out, r]     lora_A, lora_B; of a convolution A [r, in, *kernel] and B [out, r, 1, ...], i being all of
                              (in, *kernel); lora_embedding_A [r, words], lora_embedding_B [width, r]
    W [out, in]               the base's tensor, or the adapter's own where it brings one (embeddings); transposed
                              for embeddings, and for what GPT-2 calls Conv1D
    s                         see config.py; parts.py finds which tensor is which, methods.py has other methods

With DoRA, each output o (a row, or a column of a transposed weight) is then given its own length, before it is rounded:

    tuned[o] = round(m[o] / sqrt(sum of squares of (W + s B A)[o]) * (W + s B A)[o])         m: lora_magnitude_vector

All of it is float64: the products of float32, float16 or bfloat16 factors are exact, their sum is in the order written,
then come s and W. What other methods multiply once more is rounded to float64 each time. The result is rounded once, to
float32, or to float64 where W is float64; not to the base's dtype, since bfloat16 would swallow most small changes
before a patch could hold them. No step depends on the machine.

Tensors that an adapter brings whole (modules_to_save, biases) are taken as they are, and all others are the base's own.
Elements are computed when they are read, block by block, so apart from the factors no tensor is whole in memory. Where
the base ties head and embedding and an adapter changes the embedding alone, the head changes with it, as it does in
PEFT's merge_and_unload; an adapter that changes the head alone unties it, which a patch cannot do.
"""

import threading
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from registry.breadcrumbs.diffing.adapters.config import (
    ADAPTER,
    CONFIG,
    IA3,
    LOHA,
    LOKR,
    LORA,
    AdapterConfig,
    read_config,
)
from registry.breadcrumbs.diffing.adapters.formats import PEFT, Named, program_of, read_names
from registry.breadcrumbs.diffing.adapters.methods import Change, Matrix
from registry.breadcrumbs.diffing.adapters.parts import Part, find_parts
from registry.breadcrumbs.formats.arrays import count_not_finite, octets, read_floats, read_raw, to_floats
from registry.breadcrumbs.formats.blocks import blocks
from registry.breadcrumbs.formats.checkpoint import Checkpoint, open_checkpoint
from registry.breadcrumbs.formats.header import CHECKPOINT_LIMITS, DTYPES, show
from registry.breadcrumbs.kernels.adapters import add_hadamard, add_kronecker, add_product
from registry.breadcrumbs.kernels.constants import CODES, PAD
from registry.errors import InvalidCheckpoint
from registry.files.folders import INDEX, WHOLE

Factor = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]


class Adapted:
    """A base with an adapter, open for reading; open one with `open_tuned`, and close it or use `with`.

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
        if part.change is None:
            part.source.fill(view, part.name, start)
        elif view:
            self._compute(view, part, part.change, start)

    def _compute(self, view: memoryview, part: Part, change: Change, start: int) -> None:
        """Fill a view with elements of a tensor that the adapter changes."""
        result, source = part.spec.dtype, part.source.dtype_of(part.name)
        first, size = start // DTYPES[result], len(view) // DTYPES[result]
        raw = np.empty(size * DTYPES[source] + PAD, np.uint8)
        part.source.fill(octets(raw)[:-PAD], part.name, first * DTYPES[source])
        out = np.frombuffer(view, np.float64 if result == "F64" else np.float32)
        factors = self._factors(change)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is told by the comparison
            if change.method == IA3:
                places = _scaled_by(first, size, part.spec.shape, change)
                out[:] = to_floats(raw[:-PAD], source) * factors[0].reshape(-1)[places]
            else:
                sums = np.empty(size)
                KERNELS.get(change.method, add_product)(raw, CODES[source], first, size, *factors, change.scale, sums)
                gains = 1.0 if change.magnitude is None else self._gains(part, change)[_outputs(first, size, change)]
                out[:] = sums * gains

    def _gains(self, part: Part, change: Change) -> Doubles:
        """Return what each output of a DoRA weight is multiplied by, [out]: its magnitude by the length that it has."""
        if self._local.gains is None:
            assert change.magnitude is not None
            left, right = self._factors(change)
            source = part.source.dtype_of(part.name)
            lengths = np.zeros(change.matrices[0].rows)
            for first, last in blocks(part.spec.numel):
                raw = np.empty((last - first) * DTYPES[source] + PAD, np.uint8)
                part.source.fill(octets(raw)[:-PAD], part.name, first * DTYPES[source])
                sums = np.empty(last - first)
                add_product(raw, CODES[source], first, last - first, left, right, change.scale, sums)
                outputs = _outputs(first, last - first, change)
                lengths += np.bincount(outputs, sums * sums, lengths.size)  # in order, so that every machine agrees
            with np.errstate(divide="ignore", invalid="ignore"):
                self._local.gains = self._read(change.magnitude).astype(np.float64).reshape(-1) / np.sqrt(lengths)
        return self._local.gains

    def _factors(self, change: Change) -> tuple[Factor, ...]:
        """Return what the kernel of a change takes, in float64; each thread keeps the last it asked for.

        Those are two factors of LoRA and four of LoHa, [rows, r] and [r, columns]; two matrices of LoKr; IA3's vector.
        """
        if self._local.change is not change:
            self._local.change = self._local.factors = self._local.gains = (
                None  # so that those of two weights are not in memory
            )
            held = [self._pair(each) for each in change.matrices]
            factors = (
                [_multiply(*each) for each in held] if change.method == LOKR else [one for each in held for one in each]
            )
            if change.method == LORA and change.turned:
                factors = [factor.T for factor in reversed(factors)]
            self._local.factors = tuple(np.ascontiguousarray(factor, np.float64) for factor in factors)
            self._local.change = change
        assert self._local.factors is not None
        return self._local.factors

    def _pair(self, matrix: Matrix) -> tuple[Factor, ...]:
        """Return the two factors of a matrix, [rows, r] and [r, columns], or the matrix if it is no product."""
        right = self._read(matrix.right)
        if matrix.left is None:
            return (right,)
        left = self._read(matrix.left)
        if matrix.core is not None:
            right = _add_core(self._read(matrix.core).reshape(matrix.rank, matrix.rank, -1), right)
        return left.T if matrix.flipped else left, right

    def _read(self, key: str) -> Factor:
        """Read a tensor of the adapter: float32 or float64 [rows, elements of a row]."""
        spec = self._file.tensors[key]
        bad = count_not_finite(read_raw(self._file, key, 0, spec.numel), spec.dtype)
        if bad:
            raise InvalidCheckpoint(
                f"Tensor {show(key)} of the adapter holds {bad} NaN or Inf; a patch needs finite weights.", field=key
            )
        return read_floats(self._file, key, 0, spec.numel).reshape(spec.shape[0], -1)


class _Local(threading.local):
    """The factors that a thread asked for last."""

    change: Change | None = None
    factors: tuple[Factor, ...] | None = None
    gains: Doubles | None = None


KERNELS = {LOHA: add_hadamard, LOKR: add_kronecker}
"""What adds a change to a weight, where it is not a product."""


def _multiply(left: Factor, right: Factor | None = None) -> Factor:
    """Return left [rows, r] @ right [r, columns], float64, added in the order of the rank so that all machines agree.

    Without `right` it is `left` as it is.
    """
    if right is None:
        return left
    product = np.zeros((left.shape[0], right.shape[1]))
    for column, row in zip(left.T.astype(np.float64), right.astype(np.float64), strict=True):
        product += np.multiply.outer(column, row)
    return product


def _add_core(core: Factor, right: Factor) -> Doubles:
    """Return the second factor that a core [r, r, x] makes of one [r, c]: the sum over j of core[k, j, x] right[j, c].

    Returns:
        float64 [r, c * x], added in the order of j.
    """
    product = np.zeros((core.shape[0], right.shape[1], core.shape[2]))
    for number in range(core.shape[1]):
        product += core[:, number, None, :].astype(np.float64) * right[number].astype(np.float64)[None, :, None]
    return product.reshape(core.shape[0], -1)


def _outputs(first: int, size: int, change: Change) -> npt.NDArray[np.int64]:
    """Return the output that each of some elements of a weight belongs to."""
    places, matrix = np.arange(first, first + size), change.matrices[0]
    return places % matrix.rows if change.turned else places // matrix.columns


def _scaled_by(first: int, size: int, shape: tuple[int, ...], change: Change) -> npt.NDArray[np.int64]:
    """Return which number of IA3's vector each of some elements of a tensor is multiplied by."""
    places, axis = np.arange(first, first + size), change.axis
    numbers, held = change.matrices[0].columns, shape[axis]
    group = prod(shape) // (numbers // held)  # of a grouped convolution; all of another tensor
    return places // group * held + places // prod(shape[axis + 1 :]) % held


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
