"""Changes: what differs between two revisions of a model, element by element, as engines that serve take it.

    tensor name, flat indices (int32), new values        in the names and shapes of the checkpoint, to the bit

They are streamed, tensor after tensor and a part of a large one after another: out of a delta file, or of base and
patches, of which only the tensors are composed that may differ. So nothing of the size of the model is written or held.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from client.actions.composing import open_cached, recipe_of
from client.actions.snapshots import find_snapshot
from client.api.client import Client
from client.terminal.console import Console
from registry.breadcrumbs.composing.held import changed_tensors
from registry.breadcrumbs.composing.ranges import ComposedWeights
from registry.breadcrumbs.deltas.applying import check_tensors, read_changes
from registry.breadcrumbs.deltas.delta_file import Delta, units
from registry.breadcrumbs.formats.arrays import octets
from registry.breadcrumbs.formats.blocks import blocks
from registry.breadcrumbs.formats.checkpoint import Checkpoint
from registry.breadcrumbs.formats.header import DTYPES, TensorSpec, show
from registry.breadcrumbs.formats.patchfile import Patch
from registry.breadcrumbs.formats.recipe import ALONE, Recipe, make_recipe
from registry.errors import InvalidRequest

QUIET = Console(quiet=True)
PIECE = 2**26
"""Most elements of a tensor that are looked at for one change, so that a change is bounded."""


@dataclass(frozen=True)
class Changed:
    """Elements of one tensor that differ, or those of a part of it.

    Args:
        name: The tensor's name in the checkpoint.
        spec: Its dtype and shape there.
        indices: Of the elements in the flattened tensor, ascending: int32, or int64 for a tensor that needs it.
        values: Their new bits, as unsigned integers of the width of the dtype, [len(indices)].
    """

    name: str
    spec: TensorSpec
    indices: npt.NDArray[np.signedinteger[Any]]
    values: npt.NDArray[np.unsignedinteger[Any]]


def changes_of(delta: Delta, before: Checkpoint | None = None, piece: int = PIECE) -> Iterator[Changed]:
    """Yield what a delta file changes; its digests are for the caller to compare.

    Args:
        delta: The delta, open.
        before: The earlier revision, open; needed where the delta tells by how much elements change, as one made with
            `--values` does not.
        piece: Most elements of a tensor that are looked at for one change; 8 at least.

    Raises:
        InvalidPatch: The delta contradicts itself.
        BaseMismatch: The earlier revision has not the tensors that the delta changes.
        InvalidRequest: The earlier revision is needed and not given.
    """
    if before is not None:
        check_tensors(before, delta)
    for name, spec in delta.info.tensors.items():
        _size(name, spec)
        for start, indices, values in read_changes(delta, name, max(8, piece // 8 * 8), before):
            if len(indices):
                yield Changed(name, spec, (indices + start).astype(_kind(spec)), values)


def changes_between(
    base: Checkpoint, patches: Mapping[str, Patch], before: Recipe, after: Recipe, piece: int = PIECE
) -> Iterator[Changed]:
    """Yield what differs between two compositions of one base.

    Args:
        base: The base.
        patches: Those of both recipes by the sha256 of their files; the caller has checked the files.
        before, after: The recipes.
        piece: Most elements of a tensor that are looked at for one change.

    Raises:
        InvalidRequest: They are of two bases.
        NotFinite: A result overflows where the base was finite.
    """
    if before.base != after.base:
        raise InvalidRequest(f"One recipe is for base {before.base}, the other for {after.base}; both need the same.")
    old, new = (ComposedWeights(base, patches, recipe) for recipe in (before, after))
    names = changed_tensors(base, patches, before, after)
    for file, header in base.headers.items():
        for entry in header.entries.values():
            if entry.name not in names:
                continue
            spec = base.tensors[entry.name]
            size, width = _size(entry.name, spec)
            for start, stop in blocks(size, piece):
                ask = file, entry.start + start * width, entry.start + stop * width
                first, second = (_gather(side.read(*ask), stop - start, width) for side in (old, new))
                indices = np.flatnonzero(first != second)
                if len(indices):
                    yield Changed(entry.name, spec, (indices + start).astype(_kind(spec)), second[indices])


@contextmanager
def open_changes(
    client: Client, model: str, before: str, after: str, *, piece: int = PIECE, console: Console = QUIET
) -> Iterator[Iterable[Changed]]:
    """Fetch what two revisions of a model are composed of, and yield what differs between them.

    Args:
        client: The registry.
        model: NS/NAME.
        before, after: References, as `pull` takes them.
        piece: Most elements of a tensor that are looked at for one change.
        console: Where notes and progress go.

    Raises:
        NotFound: There is no such model or snapshot.
        InvalidRequest: They are of two bases.
    """
    snapshots = [find_snapshot(client, model, ref, console) for ref in (before, after)]
    old, new = (recipe_of(one) or make_recipe(one.weights_digest, ALONE, []) for one in snapshots)
    items = {item.sha256: item for it in snapshots if it.recipe is not None for item in it.recipe.patches}
    with open_cached(client, model, old.base, items.values(), console=console) as (_, base, patches):
        yield changes_between(base, patches, old, new, piece)


def _size(name: str, spec: TensorSpec) -> tuple[int, int]:
    """Return the number of a tensor's elements, and their width in bytes."""
    size, dtype = units(spec)
    if dtype != spec.dtype:
        raise InvalidRequest(f"{show(name)} is {spec.dtype}, whose elements have no bytes of their own.", field=name)
    return size, DTYPES[dtype]


def _kind(spec: TensorSpec) -> type[np.signedinteger[Any]]:
    return np.int32 if spec.numel <= 2**31 else np.int64


def _gather(views: Iterable[memoryview], count: int, width: int) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Join the bytes of elements, which hold until the next ones are asked for: unsigned integers [count]."""
    out, at = np.empty(count, f"<u{width}"), 0
    whole = octets(out)
    for view in views:
        whole[at : at + len(view)] = view
        at += len(view)
    return out
