"""Methods of adapters: what the tensors of one module are by their names and shapes, and the change that they make.

    method  tensors                                               tuned[o, i], before it is rounded
    LoRA    lora_A, lora_B [, lora_mid]                           W + s (B A)[o, i]
    LoHa    hada_w1_a, hada_w1_b, hada_w2_a, hada_w2_b            W + s (P Q)[o, i] (R S)[o, i]
            [, hada_t1, hada_t2]
    LoKr    lokr_w1, or lokr_w1_a and lokr_w1_b;                  W + s C[o // h, i // w] D[o % h, i % w]
            lokr_w2 [h, w], or lokr_w2_a, lokr_w2_b [, lokr_t2]
    IA3     ia3_l                                                 W l[o], and bias l[o]; of feedforward modules W l[i]

o is a weight's output; i is all of (input, *kernel), but for the input alone in IA3. In Tucker's form, with a core T
[r, r, *kernel], a second factor A [r, inputs] stands for sum over j of T[k, j, x] A[j, c], [r, (inputs, *kernel)].
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

from registry.breadcrumbs.diffing.adapters.config import (
    CONFIG,
    IA3,
    LOHA,
    LOKR,
    LORA,
    MAX_PRODUCT,
    MAX_RANK,
    MERGE,
    AdapterConfig,
)
from registry.breadcrumbs.formats.checkpoint import Checkpoint
from registry.breadcrumbs.formats.header import FLOATS, TensorSpec, show
from registry.errors import InvalidCheckpoint

MAGNITUDE = "magnitude_vector"

LETTERS = {
    LOHA: ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    LOKR: ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    IA3: ("ia3_l",),
}
"""What methods call their tensors; those of LoRA are A, B, embedding_A, embedding_B, mid and MAGNITUDE here."""

AGAIN = "save the adapter again"

Flaw = Callable[..., InvalidCheckpoint]


@dataclass(frozen=True)
class Matrix:
    """A matrix of an adapter: `right` as it is, or the product of `left` and `right`, or of `left`, `core` and `right`.

    Args:
        left: The adapter's name of the first factor [rows, r]; None if `right` is the matrix.
        right: The name of the second factor [r, columns].
        core: The name of the core [r, r, *kernel]; columns are (inputs, *kernel) then.
        flipped: Whether the first factor is [r, rows].
        rows, columns: The shape of the matrix.
        rank: r; 0 without a first factor.
    """

    left: str | None
    right: str
    core: str | None
    flipped: bool
    rows: int
    columns: int
    rank: int


@dataclass(frozen=True)
class Change:
    """What an adapter does to one weight.

    Args:
        method: LORA, LOHA, LOKR or IA3.
        matrices: One of LoRA, [out, in]; two of LoHa and of LoKr; for IA3 its vector, [1, n].
        scale: The factor s; 1 for IA3.
        turned: Whether the weight is [in, out].
        magnitude: The adapter's name of DoRA's magnitudes; None without DoRA.
        axis: The dimension of the weight that IA3's vector runs along.
    """

    method: str
    matrices: tuple[Matrix, ...]
    scale: float = 1.0
    turned: bool = False
    magnitude: str | None = None
    axis: int = 0


@dataclass(frozen=True)
class ModuleChange:
    """What an adapter does to the weight of one module, before the weight is known.

    Args:
        module: The module, as the adapter calls it.
        change: What it does, as if the weight were [out, in].
        straight, turned: The weight's shape if it is [out, in], and if it is [in, out]; () for IA3.
        flat: Whether the kernel is not known, so that the dimensions after the first are one in `straight`.
        embedding: Whether it is an embedding, whose weight is [in, out].
    """

    module: str
    change: Change
    straight: tuple[int, ...]
    turned: tuple[int, ...]
    flat: bool = False
    embedding: bool = False

    @property
    def name(self) -> str:
        """The weight, as the adapter calls it."""
        return f"{self.module}.weight"

    def fits(self, shape: tuple[int, ...], *, turned: bool) -> bool:
        """Say whether a weight of two dimensions may be this one, [out, in] or [in, out]."""
        if self.change.method != IA3:
            return shape == (self.turned if turned else self.straight)
        return shape[1 - self.change.axis if turned else self.change.axis] == self.change.matrices[0].columns


def method_of(keys: Mapping[str, str]) -> str:
    """Return the method of a module by what its tensors are called."""
    return next((method for method, letters in LETTERS.items() if keys.keys() & {*letters}), LORA)


def rank_of(file: Checkpoint, keys: Mapping[str, str]) -> int:
    """Return the rank of a module by its tensors' shapes; 0 if none of them has it."""
    letter = next((each for each in ("A", "hada_w1_b", "lokr_w1_b", "lokr_w2_b") if each in keys), None)
    return (*file.tensors[keys[letter]].shape, 0)[0] if letter else 0


def read_module(file: Checkpoint, module: str, keys: Mapping[str, str], config: AdapterConfig) -> ModuleChange:
    """Return what an adapter does to the weight of a module.

    Args:
        file: The adapter's file.
        module: The module, as the adapter calls it.
        keys: The names of its tensors by what the method calls them.
        config: The adapter's settings.

    Raises:
        InvalidCheckpoint: Tensors are missing, do not go together, or contradict the settings.
    """

    def flawed(rule: str, step: str = MERGE) -> InvalidCheckpoint:
        return InvalidCheckpoint(f"The adapter's {show(module)} {rule}; {step}.", field=min(keys.values()))

    held = [file.tensors[key] for key in keys.values()]
    if not {spec.dtype for spec in held} <= FLOATS:
        raise flawed("has factors that are not floating-point")
    return _READERS[method_of(keys)](file, module, keys, config, flawed)


def _read_lora(
    file: Checkpoint, module: str, keys: Mapping[str, str], config: AdapterConfig, flawed: Flaw
) -> ModuleChange:
    magnitude, core = keys.get(MAGNITUDE), keys.get("mid")
    letters = sorted(keys.keys() - {MAGNITUDE, "mid"})
    if letters not in (["A", "B"], ["embedding_A", "embedding_B"]):
        raise flawed("needs one lora_A and one lora_B", AGAIN)
    a, b = (keys[letter] for letter in letters)
    embedding = "A" not in keys
    first, second = (file.tensors[key].shape for key in (a, b))
    if min(len(first), len(second)) < 2 or 0 in first + second:
        raise flawed("has factors of which parts are missing", "gather the shards of a distributed run, then save it")
    rank, expected = first[0], config.rank.number_of(module)
    if len(first) != len(second) or second[1] != rank or not set(second[2:]) <= {1} or (embedding and len(first) > 2):
        raise flawed(f"has factors {list(first)} and {list(second)}, which cannot be multiplied")
    if rank != expected:
        raise flawed(f"has rank {rank}, and {CONFIG} says {expected:g}", "use the two files of one adapter")
    if rank > MAX_RANK:
        raise flawed(f"has rank {rank}, more than the {MAX_RANK} allowed")
    if config.dora:
        lengths = file.tensors[magnitude] if magnitude else TensorSpec("F32", ())
        if magnitude is None or lengths.numel != second[0]:
            raise flawed(f"needs a lora_magnitude_vector of {second[0]} numbers, since it is DoRA", "save it again")
    inner = first[1:]
    if core is not None:
        if not set(first[2:]) <= {1}:
            raise flawed(f"has a core and a factor {list(first)}, which cannot be multiplied")
        inner = (first[1], *_kernel(file, core, rank, flawed))
    matrix = Matrix(b, a, core, False, second[0], prod(inner), rank)
    change = Change(LORA, (matrix,), config.scale(module, rank), magnitude=magnitude)
    return ModuleChange(module, change, (second[0], *inner), (*inner, second[0]), embedding=embedding)


def _read_loha(
    file: Checkpoint, module: str, keys: Mapping[str, str], config: AdapterConfig, flawed: Flaw
) -> ModuleChange:
    letters = LETTERS[LOHA] if "hada_t1" in keys else LETTERS[LOHA][:4]
    if keys.keys() != {*letters}:
        raise flawed(f"needs {', '.join(letters)}", AGAIN)
    matrices = tuple(
        _read_product(file, keys[f"hada_w{number}_a"], keys[f"hada_w{number}_b"], keys.get(f"hada_t{number}"), flawed)
        for number in (1, 2)
    )
    first, second = matrices
    if (first.rows, first.columns) != (second.rows, second.columns):
        raise flawed("has two products of different shapes", AGAIN)
    rank, expected = first.rank, config.rank.number_of(module)
    if rank != expected or second.rank != rank:
        raise flawed(f"has ranks {rank} and {second.rank}, and the adapter {expected:g}", AGAIN)
    shape = first.rows, first.columns
    return ModuleChange(module, Change(LOHA, matrices, config.scale(module, rank)), shape, shape[::-1], flat=True)


def _read_lokr(
    file: Checkpoint, module: str, keys: Mapping[str, str], config: AdapterConfig, flawed: Flaw
) -> ModuleChange:
    matrices, rank = [], int(config.rank.number_of(module))
    if rank < 1:
        raise flawed(f"has rank {rank}", AGAIN)
    for number, core in ((1, None), (2, keys.get("lokr_t2"))):
        whole, left, right = (keys.get(f"lokr_w{number}{end}") for end in ("", "_a", "_b"))
        if whole is not None and left is right is core is None:
            shape = file.tensors[whole].shape
            if len(shape) < 2 or 0 in shape:
                raise flawed(f"has a factor {list(shape)} of which parts are missing", AGAIN)
            matrices.append(Matrix(None, whole, None, False, shape[0], prod(shape[1:]), 0))
        elif whole is None and left is not None and right is not None:
            matrices.append(_read_product(file, left, right, core, flawed))
            if matrices[-1].rank != rank:
                raise flawed(f"has rank {matrices[-1].rank}, and the adapter {rank}", AGAIN)
            if matrices[-1].rows * matrices[-1].columns > MAX_PRODUCT:
                raise flawed("has a factor too large to be multiplied")
        else:
            raise flawed(f"needs lokr_w{number}, or lokr_w{number}_a and lokr_w{number}_b", AGAIN)
    first, second = matrices
    shape = first.rows * second.rows, first.columns * second.columns
    change = Change(LOKR, (first, second), config.scale(module, rank))
    return ModuleChange(module, change, shape, shape[::-1], flat=True)


def _read_product(file: Checkpoint, left: str, right: str, core: str | None, flawed: Flaw) -> Matrix:
    """Return the product of two factors, [rows, r] and [r, columns], or [r, rows] and [r, inputs] with a core."""
    first, second = (file.tensors[key].shape for key in (left, right))
    if len(first) != 2 or len(second) != 2 or 0 in first + second or first[core is None] != second[0]:
        raise flawed(f"has factors {list(first)} and {list(second)}, which cannot be multiplied")
    rank = second[0]
    if rank > MAX_RANK:
        raise flawed(f"has rank {rank}, more than the {MAX_RANK} allowed")
    kernel = _kernel(file, core, rank, flawed) if core is not None else ()
    return Matrix(left, right, core, core is not None, first[core is not None], second[1] * prod(kernel), rank)


def _kernel(file: Checkpoint, core: str, rank: int, flawed: Flaw) -> tuple[int, ...]:
    """Return the kernel of a core [r, r, *kernel]."""
    shape = file.tensors[core].shape
    if len(shape) < 3 or shape[:2] != (rank, rank) or 0 in shape:
        raise flawed(f"has a core {list(shape)}, which does not fit its rank {rank}", AGAIN)
    return shape[2:]


def _read_ia3(
    file: Checkpoint, module: str, keys: Mapping[str, str], config: AdapterConfig, flawed: Flaw
) -> ModuleChange:
    key = keys["ia3_l"]
    spec, inputs = file.tensors[key], config.scales_inputs(module)
    expected = (1, spec.numel) if inputs or len(spec.shape) > 2 else (spec.numel, 1)
    if spec.shape[:2] != expected or 0 in spec.shape:
        raise flawed(
            f"has a vector {list(spec.shape)}, which does not fit the feedforward_modules of {CONFIG}",
            "use the two files of one adapter",
        )
    vector = Matrix(None, key, None, False, 1, spec.numel, 0)
    return ModuleChange(module, Change(IA3, (vector,), axis=int(inputs)), (), ())


_READERS = {LORA: _read_lora, LOHA: _read_loha, LOKR: _read_lokr, IA3: _read_ia3}
