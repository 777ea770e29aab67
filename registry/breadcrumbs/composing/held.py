"""Held weights: weights that hold one composition after another; only tensors that differ are written again.

    part    what a tensor is composed of: the rule, and each patch that touches it with its scale; none for the base's

Equal parts give equal bytes, so a tensor whose part stays the same is left alone: neither read nor written. A tensor
that is being written is stale until all of them are done: after an error, the next composition writes it again,
whatever its part. They are in files (scratch.py), or in the memory of a model that runs (client/live).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from registry.breadcrumbs.composing.compose import SPARE_CHUNKS, find_touching, open_engine
from registry.breadcrumbs.composing.engines import Engine, Rule, overflow
from registry.breadcrumbs.composing.lanes import Crew, Phases
from registry.breadcrumbs.composing.variances import is_variance
from registry.breadcrumbs.composing.writer import LANES, Sink, Writer
from registry.breadcrumbs.formats.checkpoint import Checkpoint
from registry.breadcrumbs.formats.patchfile import Patch
from registry.breadcrumbs.formats.recipe import Recipe
from registry.breadcrumbs.kernels.devices import pick_device
from registry.files.progress import Meter, Progress
from registry.files.threads import processors

Touching = Mapping[str, Sequence[tuple[Patch, float]]]
Part = tuple[Rule, tuple[tuple[Patch, float], ...]]
Sinks = Callable[[str], Sink]
"""Returns where the tensors of a weight file go."""
Memory = Callable[[Collection[str]], Mapping[str, Any]]
"""Returns the memory of those tensors that are on a GPU as in a file, on multiples of 16: torch uint8 [bytes] each."""


def nowhere(names: Collection[str]) -> dict[str, Any]:
    """Return no memory: the tensors are in files."""
    return {}


class HeldWeights:
    """The weights of one composition after another, for one thread at a time.

    Args:
        base: The base.
        patches: By the sha256 of their files; the caller has checked the files, and may add others.
        open_sinks: Opens the places where tensors are, for one composition.
        device: `auto`, `cpu` or `cuda`; it changes no byte.
        device_memory: Most bytes to use on a GPU; the smaller of 4 GiB and a quarter of what is free when None.
        memory: Finds tensors that are on a GPU: what stays there of base and patches is composed right into them.

    Attributes:
        stale: The tensors that an error left half written.
        negative: How many variances of batch norm the last composition made negative, by tensor, of those it wrote.
    """

    def __init__(
        self,
        base: Checkpoint,
        patches: Mapping[str, Patch],
        open_sinks: Callable[[], AbstractContextManager[Sinks]],
        device: str = "cpu",
        device_memory: int | None = None,
        memory: Memory = nowhere,
    ) -> None:
        self.base, self.patches, self.open_sinks = base, patches, open_sinks
        self.device, self.device_memory, self.memory = device, device_memory, memory
        self.stale: set[str] = set()
        self.negative: dict[str, int] = {}
        self._parts: dict[str, Part] = {}

    def hold(self, recipe: Recipe) -> None:
        """Take it that the weights are those of a composition, which the caller has written or verified."""
        self._parts, self.stale = _parts(find_touching(self.base, self.patches, recipe), recipe), set()

    def changed_by(self, recipe: Recipe) -> set[str]:
        """Return the names of the tensors that a composition would write."""
        return self._changed(_parts(find_touching(self.base, self.patches, recipe), recipe))

    def compose(self, recipe: Recipe, progress: Progress | None = None) -> int:
        """Make the weights those of a composition, and return how many bytes of tensors were written.

        After an error the tensors that are `stale` hold neither composition, until the next one is done.

        Args:
            recipe: What to compose.
            progress: Called with (bytes begun, bytes to write).

        Raises:
            BaseMismatch, InvalidRecipe, InvalidPatch, NotFinite: As of `compose`.
        """
        touching = find_touching(self.base, self.patches, recipe)
        parts = _parts(touching, recipe)
        self.stale = self._changed(parts)
        written = self._write(recipe, touching, self.stale, progress)
        self._parts, self.stale = parts, set()
        return written

    def _changed(self, parts: Mapping[str, Part]) -> set[str]:
        return self.stale | {
            name for name in parts.keys() | self._parts.keys() if parts.get(name) != self._parts.get(name)
        }

    def _write(self, recipe: Recipe, touching: Touching, names: Collection[str], progress: Progress | None) -> int:
        """Write these tensors; return their bytes."""
        device, phases = pick_device(self.device), Phases()
        size = sum(self.base.bytes_of(name) for name in names)
        meter = Meter(size, progress)
        with (
            self.open_sinks() as sinks,
            open_engine(device, self.device_memory, phases, recipe, self.base.size, self.patches) as engine,
        ):
            there = self._write_there(engine, touching, names)
            meter.add(sum(self.base.bytes_of(name) for name in there))
            entries = {
                file: [entry for entry in header.entries.values() if entry.name in names and entry.name not in there]
                for file, header in self.base.headers.items()
            }
            self.negative = {}
            if not any(entries.values()):
                return size
            depth = engine.depth(processors())
            hashed = ["base tensors"] if engine.resident else []  # what stays on the GPU is known by its digest
            with Crew(depth, LANES, [engine.buffers() for _ in range(depth + SPARE_CHUNKS)]) as crew:
                writer = Writer(self.base, touching, engine, crew, phases, hashed, meter)
                for name, chosen in entries.items():
                    if chosen:
                        writer.write_tensors(name, sinks(name), chosen)
                writer.run()
                crew.drain()
            self.negative = writer.variances.counts
            if engine.resident:
                engine.settle(writer.digests("base tensors"))
        return size

    def _write_there(self, engine: Engine, touching: Touching, names: Collection[str]) -> Collection[str]:
        """Write those of these tensors that are on the GPU, as is all that they are composed of; return their names.

        Raises:
            NotFinite: A result overflows where the base was finite.
        """
        outs = self.memory([name for name in names if not is_variance(name)])  # which are looked at on the CPU
        written = engine.write_there(self.base, touching, outs)
        for name, lost in written.items():
            if lost:
                raise overflow(name, self.base.tensors[name].dtype, lost)
        return written.keys()


def _parts(touching: Touching, recipe: Recipe) -> dict[str, Part]:
    rule = Rule() if recipe.method == "sum" else Rule.of(recipe)  # with `sum`, alpha is part of the scales
    return {name: (rule, tuple(patches)) for name, patches in touching.items()}


def changed_tensors(base: Checkpoint, patches: Mapping[str, Patch], before: Recipe, after: Recipe) -> set[str]:
    """Return the names of the tensors that may differ between two compositions; those of equal parts do not.

    Args:
        base: Their base.
        patches: Those of both recipes by the sha256 of their files.
        before, after: The recipes.
    """
    old, new = (_parts(find_touching(base, patches, recipe), recipe) for recipe in (before, after))
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
