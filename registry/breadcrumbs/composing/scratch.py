"""Scratch weights: weight files that hold one composition after another, for what reads models from a folder."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from registry.breadcrumbs.composing.compose import compose
from registry.breadcrumbs.composing.held import HeldWeights, Sinks
from registry.breadcrumbs.composing.writer import FileSink
from registry.breadcrumbs.formats.checkpoint import Checkpoint
from registry.breadcrumbs.formats.patchfile import Patch
from registry.breadcrumbs.formats.recipe import Recipe
from registry.files.progress import Progress


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
        self._held: HeldWeights | None = None  # while there are no files

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
        if self._held is not None:
            return self._held.compose(recipe, progress)
        compose(self.base, self.patches, recipe, self.folder, self.device, progress, digests=check_base)
        self._held = HeldWeights(self.base, self.patches, self._open_sinks, self.device)
        self._held.hold(recipe)
        return self.base.size

    @contextmanager
    def _open_sinks(self) -> Iterator[Sinks]:
        with ExitStack() as files:

            def open_sink(name: str) -> FileSink:
                file = files.enter_context((self.folder / name).open("r+b", buffering=0))
                return FileSink(file, self.base.file(name), name)

            yield open_sink
