"""Engines, which compose staged chunks: what every engine does, and the CPU's.

    arena as it was read --> kernels.compose_chunk --> out

gpu/engine.py has the GPU's engine. Both give the same bytes.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from registry.breadcrumbs.composing.lanes import Phases
from registry.breadcrumbs.composing.staging import CHUNK_BYTES, MAX_CHUNK_ELEMENTS, Arena, Chunk, Step
from registry.breadcrumbs.formats.header import show
from registry.breadcrumbs.formats.recipe import Recipe, scale
from registry.breadcrumbs.kernels.compose import CODES, METHODS, SUM, compose_chunk
from registry.errors import NotFinite

if TYPE_CHECKING:
    from registry.breadcrumbs.composing.residents import Resident


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


class Engine(Protocol):
    """Composes chunks that are staged.

    Attributes:
        step: How long chunks are.
        resident: The base's tensors that earlier compositions left on the GPU; None where nothing stays.
    """

    step: Step
    resident: "Resident | None"

    def depth(self, workers: int) -> int:
        """Return how many chunks the engine works on at a time, where `workers` processors are free."""

    def buffers(self) -> Buffers:
        """Return buffers for one chunk."""

    def compose(self, chunk: Chunk, buffers: Buffers) -> int:
        """Compose a chunk into `buffers.out`; return how many results are not finite where the base was."""


class CpuEngine:
    """Composes on the CPU, one chunk in each thread."""

    step = Step(CHUNK_BYTES, MAX_CHUNK_ELEMENTS)
    resident: "Resident | None" = None

    def __init__(self, phases: Phases, rule: Rule) -> None:
        self.phases, self.rule = phases, rule

    def depth(self, workers: int) -> int:
        """Return how many chunks are composed at a time."""
        return workers

    def buffers(self) -> Buffers:
        """Return buffers whose memory is touched when it is needed."""
        return Buffers(Arena(2 * CHUNK_BYTES), Arena(CHUNK_BYTES))

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
        chunk.read_rest(buffers.arena)
    lost = engine.compose(chunk, buffers)
    if lost:
        raise NotFinite(
            f"Tensor {show(chunk.tensor)} overflows {chunk.spec.dtype} in {lost} or more elements; "
            "choose a smaller alpha.",
            field=chunk.tensor,
        )
