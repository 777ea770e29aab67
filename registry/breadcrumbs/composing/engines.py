"""Engines, which compose staged chunks: what every engine does, and the CPU's.

    arena as it was read --> kernels.compose_chunk --> out

gpu/engine.py has the GPU's engine. Both give the same bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from registry.breadcrumbs.composing.lanes import Phases
from registry.breadcrumbs.composing.staging import CHUNK_BYTES, MAX_CHUNK_ELEMENTS, Arena, Chunk, Placed, Stager, Step
from registry.breadcrumbs.formats.header import show
from registry.breadcrumbs.formats.patchfile import Patch
from registry.breadcrumbs.formats.recipe import Recipe, scale
from registry.breadcrumbs.kernels.compose import compose_chunk
from registry.breadcrumbs.kernels.constants import CODES, METHODS, SUM
from registry.errors import NotFinite

Touches = Sequence[tuple[Patch, float]]
"""The patches that touch a tensor, ascending by sha256, each with its scale there."""


@dataclass(frozen=True)
class Rule:
    """How engines combine the patches of a chunk: the kernels' code of the method, and alpha as a float32."""

    method: int = SUM
    alpha: float = 1.0

    @classmethod
    def of(cls, recipe: Recipe) -> "Rule":
        """Return the rule of a recipe."""
        return cls(METHODS[recipe.method], scale(recipe.alpha))


@dataclass
class Buffers:
    """The memory that a chunk needs: for what is read, and for what comes out."""

    arena: Arena
    out: Arena


class Staying(Protocol):
    """What earlier compositions left of a base on a GPU.

    Attributes:
        digests: The sha256 of each tensor that is there, by name.
    """

    digests: dict[str, str]

    def holds(self, name: str) -> bool:
        """Say whether a tensor is there."""


class Engine(Protocol):
    """Composes chunks that are staged.

    Attributes:
        step: How long chunks are.
        resident: The base's tensors that earlier compositions left on the GPU; None where nothing stays.
    """

    step: Step
    resident: Staying | None

    def depth(self, workers: int) -> int:
        """Return how many chunks the engine works on at a time, where `workers` processors are free."""

    def buffers(self) -> Buffers:
        """Return buffers for one chunk."""

    def stager(self, base: Placed, name: str, touching: Touches) -> Stager:
        """Return what stages the chunks of a tensor that patches touch, as this engine wants them."""

    def read(self, chunk: Chunk, arena: Arena) -> None:
        """Read the rest of a chunk into the arena, less what the engine takes elsewhere; errors as of `read_rest`."""

    def compose(self, chunk: Chunk, buffers: Buffers) -> int:
        """Compose a chunk into `buffers.out`; return how many results are not finite where the base was."""

    def write_there(self, base: Placed, touching: Mapping[str, Touches], outs: Mapping[str, Any]) -> dict[str, int]:
        """Compose tensors into memory on the GPU as far as possible; arguments as of `GpuEngine.write_there`."""

    def settle(self, digests: Mapping[str, str]) -> None:
        """Keep for later compositions what was copied to the GPU; of the base, tensors with these digests."""


class CpuEngine:
    """Composes on the CPU, one chunk in each thread."""

    step = Step(CHUNK_BYTES, MAX_CHUNK_ELEMENTS)
    resident: Staying | None = None

    def __init__(self, phases: Phases, rule: Rule) -> None:
        self.phases, self.rule = phases, rule

    def depth(self, workers: int) -> int:
        """Return how many chunks are composed at a time."""
        return workers

    def buffers(self) -> Buffers:
        """Return buffers whose memory is touched when it is needed."""
        return Buffers(Arena(2 * CHUNK_BYTES), Arena(CHUNK_BYTES))

    def stager(self, base: Placed, name: str, touching: Touches) -> Stager:
        """Return what stages the chunks of a tensor that patches touch."""
        return Stager(base, name, touching, self.step)

    def read(self, chunk: Chunk, arena: Arena) -> None:
        """Read the rest of a chunk into the arena."""
        chunk.read_rest(arena)

    def write_there(self, base: Placed, touching: Mapping[str, Touches], outs: Mapping[str, Any]) -> dict[str, int]:
        """Do nothing: there is no GPU."""
        return {}

    def settle(self, digests: Mapping[str, str]) -> None:
        """Do nothing: nothing stays."""

    def compose(self, chunk: Chunk, buffers: Buffers) -> int:
        """Compose a chunk into `buffers.out`; return how many results are not finite where the base was."""
        arena, out, code = buffers.arena.bytes, buffers.out.bytes, CODES[chunk.spec.dtype]
        ask = arena, chunk.base_at, code, chunk.size, chunk.first, chunk.table, chunk.scales, out
        with self.phases.of("kernel"):
            return int(compose_chunk(*ask, self.rule.method, self.rule.alpha))


def compose_staged(engine: Engine, chunk: Chunk, buffers: Buffers, phases: Phases) -> None:
    """Read the rest of a chunk whose masks are staged, and compose it into `buffers.out`, which has room for it.

    Raises:
        NotFinite: A result overflows where the base was finite.
        InvalidInput: A file has become shorter since it was opened.
    """
    with phases.of("read"):
        engine.read(chunk, buffers.arena)
    if lost := engine.compose(chunk, buffers):
        raise overflow(chunk.tensor, chunk.spec.dtype, lost)


def overflow(tensor: str, dtype: str, lost: int) -> NotFinite:
    """Return the error about a tensor in which results are not finite where the base was."""
    return NotFinite(
        f"Tensor {show(tensor)} overflows {dtype} in {lost} or more elements; choose a smaller alpha.", field=tensor
    )
