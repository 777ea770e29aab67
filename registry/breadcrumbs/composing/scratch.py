"""Scratch weights: weight files that hold one composition after another; only tensors that differ are written again.

    part    what a tensor is composed of: the rule, and each patch that touches it with its scale; none for the base's

Equal parts give equal bytes, so a tensor whose part stays the same is left alone. A tensor that is being written is
stale until all of them are done: after an error, the next composition writes it again, whatever its part.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from registry.breadcrumbs.composing.compose import SPARE_CHUNKS, compose, find_touching, open_engine
from registry.breadcrumbs.composing.engines import Rule
from registry.breadcrumbs.composing.lanes import Crew, Phases
from registry.breadcrumbs.composing.writer import LANES, Writer
from registry.breadcrumbs.formats.checkpoint import Checkpoint
from registry.breadcrumbs.formats.patchfile import Patch
from registry.breadcrumbs.formats.recipe import Recipe
from registry.breadcrumbs.kernels.devices import pick_device
from registry.files.progress import Meter, Progress
from registry.files.threads import processors

Touching = Mapping[str, Sequence[tuple[Patch, float]]]
Part = tuple[Rule, tuple[tuple[Patch, float], ...]]


class ScratchWeights:
    """Weight files in a folder, for one thread at a time and one composition after another.

    Args:
        base: The base.
        patches: By the sha256 of their files; the caller has checked the files.
        folder: An existing folder, in which nobody else changes these files.
        device: `auto`, `cpu` or `cuda`; it changes no byte.
    """

    def __init__(self, base: Checkpoint, patches: Mapping[str, Patch], folder: Path, device: str = "cpu") -> None:
        self.base, self.patches, self.folder, self.device = base, patches, folder, device
        self._parts: dict[str, Part] | None = None  # of the files; None while there are none
        self._stale: set[str] = set()

    def compose(self, recipe: Recipe, progress: Progress | None = None, *, check_base: bool = True) -> int:
        """Make the files those of a composition, and return how many bytes of tensors were written.

        The first composition writes all of them, which appear together or not at all. Each later one writes over them
        in place; after an error they hold neither composition, until the next one is done.

        Args:
            recipe: What to compose.
            progress: Called with (bytes begun, bytes to write).
            check_base: Whether the first composition checks that the base is the recipe's.

        Raises:
            BaseMismatch, InvalidRecipe, InvalidPatch, NotFinite: As of `compose`.
        """
        touching = find_touching(self.base, self.patches, recipe)
        parts = _parts(touching, recipe)
        if self._parts is None:
            compose(self.base, self.patches, recipe, self.folder, self.device, progress, digests=check_base)
            written = self.base.size
        else:
            held, names = self._parts, parts.keys() | self._parts.keys()
            self._stale |= {name for name in names if parts.get(name) != held.get(name)}
            written = self._rewrite(recipe, touching, self._stale, progress)
        self._parts, self._stale = parts, set()
        return written

    def _rewrite(self, recipe: Recipe, touching: Touching, names: Collection[str], progress: Progress | None) -> int:
        """Write these tensors again; return their bytes."""
        entries = {
            file: [entry for entry in header.entries.values() if entry.name in names]
            for file, header in self.base.headers.items()
        }
        size = sum(entry.stop - entry.start for of_file in entries.values() for entry in of_file)
        phases = Phases()
        with (
            ExitStack() as files,
            open_engine(pick_device(self.device), None, phases, recipe, self.base.size) as engine,
        ):
            depth = engine.depth(processors())
            with Crew(depth, LANES, [engine.buffers() for _ in range(depth + SPARE_CHUNKS)]) as crew:
                writer = Writer(self.base, touching, engine, crew, phases, (), Meter(size, progress))
                for name, chosen in entries.items():
                    if chosen:
                        file = files.enter_context((self.folder / name).open("r+b", buffering=0))
                        writer.write_tensors(name, file, chosen)
                crew.drain()
        return size


def _parts(touching: Touching, recipe: Recipe) -> dict[str, Part]:
    rule = Rule() if recipe.method == "sum" else Rule.of(recipe)  # with `sum`, alpha is part of the scales
    return {name: (rule, tuple(patches)) for name, patches in touching.items()}
