"""Scratch models: a model folder that holds one candidate after another; only weights that differ are composed again.

    .composing  --whole-->  NAME  --a command runs on it--  NAME  --the next candidate-->  .composing  --whole-->  OTHER

So a path names one model only, and what is half written has no model's name. A command that changed anything in the
folder, or linked a file of it to another place, has the next candidate composed from the beginning, elsewhere.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from client.machine.folders import copy_files
from registry.files.progress import Progress

if TYPE_CHECKING:
    from registry.breadcrumbs.composing.scratch import ScratchWeights
    from registry.breadcrumbs.formats.recipe import Recipe

COMPOSING = ".composing"
Stamps = dict[str, tuple[int, int, int, int]]


class ScratchModel:
    """A model folder that is used again, by one candidate at a time.

    Args:
        place: An empty folder, for this alone.
        others: Files that go beside the weights: path in the folder -> file.
        weights: Makes scratch weights in a folder.
    """

    def __init__(self, place: Path, others: Mapping[str, Path], weights: "Callable[[Path], ScratchWeights]") -> None:
        self._place, self._others, self._make_weights = place, others, weights
        self._weights: ScratchWeights | None = None
        self._folder = place / COMPOSING
        self._stamps: Stamps | None = None  # of the folder as the last candidate left it; None while there is none

    def compose(
        self, recipe: "Recipe", name: str, progress: Progress | None = None, *, check_base: bool = True
    ) -> Path:
        """Make the folder the model of a recipe, give it a name, and return it.

        Args:
            recipe: What to compose.
            name: The folder's, from now until the next composition.
            progress: See `ScratchWeights.compose`.
            check_base: See `ScratchWeights.compose`.
        """
        composing = self._place / COMPOSING
        if self._weights is not None and self._stamps in (None, _stamps(self._folder)):
            weights = self._weights
            self._folder.rename(composing)
        else:
            weights = self._begin(composing)
        self._weights, self._folder, self._stamps = weights, composing, None
        weights.compose(recipe, progress, check_base=check_base)
        self._folder = composing.rename(self._place / name)
        self._stamps = _stamps(self._folder)
        return self._folder

    def _begin(self, folder: Path) -> "ScratchWeights":
        """Make the folder without weights, in place of whatever is there."""
        self._weights = None
        for old in self._place.iterdir():
            if old.is_dir() and not old.is_symlink():
                shutil.rmtree(old)
            else:
                old.unlink()
        folder.mkdir()
        copy_files(self._others, folder)
        return self._make_weights(folder)


def _stamps(folder: Path) -> Stamps:
    """Return what changes when files do: by path their inode, size, and times; ctime also tells of new hard links."""
    stamps = {}
    for where, folders, names in os.walk(folder):
        for name in (*folders, *names):
            status = Path(where, name).lstat()
            times = (0, 0) if name in folders else (status.st_mtime_ns, status.st_ctime_ns)
            stamps[str(Path(where, name).relative_to(folder))] = (status.st_ino, status.st_size, *times)
    return stamps
