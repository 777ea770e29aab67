"""Ranges: a task that composes some bytes of a composition's weight file, in a process that is kept for the next.

The bytes go into memory that the caller has made, a file that both of them map. The compositions that were read last
stay open, with what is known of their masks.
"""

import mmap
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from registry.breadcrumbs.composing.ranges import ComposedWeights
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.breadcrumbs.formats.recipe import make_recipe
from registry.errors import InvalidInput, StorageFailed
from registry.sandboxes.inputs import require_files

OPEN = 4
"""Compositions that stay open."""

_opened: "OrderedDict[str, tuple[ExitStack, ComposedWeights]]" = OrderedDict()
_memory: dict[str, mmap.mmap] = {}


def compose_range(
    key: str,
    base: Mapping[str, str],
    patches: Mapping[str, str],
    recipe: Mapping[str, Any],
    name: str,
    start: int,
    stop: int,
    out: str,
    progress: Callable[[float], None],
) -> int:
    """Compose bytes start..stop - 1 of a weight file.

    Args:
        key: Names the composition and the very files that it is made of.
        base: Path of each file of the base (weights, index, config) by its name in the folder.
        patches: Path of each patch file by its sha256.
        recipe: `base`, `alpha`, `items` and `method`, as `make_recipe` takes them.
        name: The weight file's path in the model.
        start, stop: The bytes.
        out: A file that is mapped into memory, and has room for them. It may be gone once it has been used.
        progress: Not called.

    Returns:
        The number of bytes.

    Raises:
        StorageFailed: An input is missing or damaged.
        NotFinite: The result overflows, which was not so when the recipe was composed first.
    """
    if out not in _memory:
        with Path(out).open("r+b") as file:
            _memory[out] = mmap.mmap(file.fileno(), os.fstat(file.fileno()).st_size)
    view = memoryview(_memory[out])
    at = 0
    try:
        for piece in _open(key, base, patches, recipe).read(name, start, stop, threads=1):
            view[at : at + len(piece)] = piece
            at += len(piece)
    except InvalidInput as problem:  # all inputs were sound when they were accepted, so one must be damaged
        raise StorageFailed(f"A file that the composition is made of is damaged: {problem}") from None
    return at


def _open(key: str, base: Mapping[str, str], patches: Mapping[str, str], recipe: Mapping[str, Any]) -> ComposedWeights:
    """Return a composition that is open, or open it and close the one that was read least recently."""
    if key not in _opened:
        require_files([*base.values(), *patches.values()])
        with ExitStack() as stack:
            checkpoint = stack.enter_context(open_checkpoint({path: Path(file) for path, file in base.items()}))
            opened = {sha256: stack.enter_context(open_patch(Path(path))) for sha256, path in patches.items()}
            _opened[key] = stack.pop_all(), ComposedWeights(checkpoint, opened, make_recipe(**recipe))
        if len(_opened) > OPEN:
            _, (files, _) = _opened.popitem(last=False)
            files.close()
    _opened.move_to_end(key)
    return _opened[key][1]
