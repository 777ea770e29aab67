"""Bound weights: a module whose tensors are known by the names of the base that its weights are composed of.

base      embed   layers.0.q   layers.0.k   head   old_buffer
            |          |            |         |        |
module    embed ◄──────┼────────────┼──── (tied)    (not in it: such a tensor stays the base's)
                   layers.0.qk  (a view of each part)
"""

from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch

from client.live.module import ModuleWeights
from client.live.naming import has_adapter, unwrap, whereabouts
from registry.breadcrumbs.composing.held import Sinks
from registry.breadcrumbs.composing.ranges import ComposedWeights
from registry.breadcrumbs.composing.writer import READ_BYTES
from registry.breadcrumbs.diffing.faults import ADDED, MISSING
from registry.breadcrumbs.diffing.pairing import Choice, pair
from registry.breadcrumbs.diffing.ties import Copies, equal_bits
from registry.breadcrumbs.formats.blocks import blocks
from registry.breadcrumbs.formats.checkpoint import Checkpoint
from registry.breadcrumbs.formats.digest import digest_checkpoint
from registry.breadcrumbs.formats.header import Entry, show
from registry.breadcrumbs.formats.patchfile import Patch
from registry.breadcrumbs.formats.recipe import Recipe
from registry.errors import CheckpointMismatch, InvalidRequest
from registry.files.progress import Progress


class BoundWeights:
    """The weights of a module under the names of a base.

    Args:
        module: The module.
        base: The base, which has to stay open.

    Attributes:
        tensors: dtype and shape of every tensor of the base.
        left_out: The base's tensors that the module has no place for, and the module's that the base does not have.

    Raises:
        CheckpointMismatch: The module is of another architecture, or has a tensor in another shape or dtype.
        InvalidRequest: A tensor of the module is not in this process's memory, is quantised, or has an adapter on it.
    """

    shared: frozenset[str] = frozenset()

    def __init__(self, module: torch.nn.Module, base: Checkpoint) -> None:
        if has_adapter(unwrap(module)):
            raise InvalidRequest(
                "The model has a PEFT adapter, which adds to its weights in a way of its own; merge it or take it off "
                "(merge_and_unload, unload), and pass the model that comes out.",
                field="model",
            )
        self._module, self._whereabouts = module, whereabouts(module)
        self._weights, self._base, self.tensors = ModuleWeights(module), base, base.tensors
        self._weights.check_apart()
        pairing = pair(base, self._weights, Choice(shared_only=True))
        wrong = [fault for fault in pairing.left_out if fault.kind not in (MISSING, ADDED)]
        for name, other in pairing.partner.items():
            ours, theirs = self._weights.tensors[other].dtype, base.tensors[name].dtype
            if ours != theirs:
                raise CheckpointMismatch(
                    f"{show(name)} is {ours} in the model and {theirs} in the base, whose bits it cannot hold then; "
                    'load it with dtype="auto".',
                    field=name,
                )
        if wrong:
            raise CheckpointMismatch(f"The model does not fit the base: {wrong[0]}.", field=wrong[0].name)
        self._places = {name: [other] for name, other in pairing.partner.items()}
        of = {other: name for name, other in pairing.partner.items()}
        for extra, kept in pairing.same:  # the module holds a tensor twice that the base ties
            if not equal_bits(self._weights, extra, kept):
                raise CheckpointMismatch(
                    f"The base ties {show(extra)} to {show(kept)}, and the model holds two that differ; load it anew.",
                    field=extra,
                )
            self._places[of[kept]].append(extra)
        left, copies = {fault.name for fault in pairing.left_out}, Copies(self._weights)
        for extra in self._weights.tensors.keys() - of.keys() - dict(pairing.same).keys() - left:  # copies of others
            copied = next((of[other] for other in copies.of(extra) if other in of), None)
            if copied is None:
                left.add(extra)
            else:
                self._places[copied].append(extra)
        self.left_out = tuple(sorted(left))

    def moved(self) -> bool:
        """Say whether the module has its tensors elsewhere by now, as after `module.to`: then this is of no use."""
        return whereabouts(self._module) != self._whereabouts

    def anew(self) -> "BoundWeights":
        """Return the weights of the module as it is by now; errors as of the class."""
        return BoundWeights(self._module, self._base)

    def bytes_of(self, name: str) -> int:
        """Return how many bytes a tensor has."""
        return self.tensors[name].bytes

    def dtype_of(self, name: str) -> str:
        """Return the dtype of a tensor."""
        return self.tensors[name].dtype

    def fill(self, view: memoryview, name: str, start: int) -> None:
        """Fill a view with a tensor's bytes in the module, or with the base's where the module has none."""
        if name in self._places:
            self._weights.fill(view, self._places[name][0], start)
        else:
            self._base.fill(view, name, start)

    def write(self, view: memoryview, name: str, start: int) -> None:
        """Write a tensor's bytes to all of its places in the module."""
        for place in self._places.get(name, ()):
            self._weights.write(view, place, start)

    def digest(self, progress: Progress | None = None) -> str:
        """Read the whole module, and return its weights digest."""
        return digest_checkpoint(self, progress)

    @contextmanager
    def open_sinks(self) -> Iterator[Sinks]:
        """Yield where the tensors of a weight file are."""
        yield lambda name: ModuleSink(list(self._base.headers[name].entries.values()), self._base, self)

    def memory(self, names: Collection[str]) -> dict[str, torch.Tensor]:
        """Return the memory of those tensors that have one place, as in a file: uint8 [bytes], on multiples of 16."""
        found = {}
        for name in names:
            places = self._places.get(name, [])
            octets = self._weights.octets(places[0]) if len(places) == 1 else None
            if octets is not None and octets.data_ptr() % 16 == 0:
                found[name] = octets
        return found

    def check_fits(self, names: Collection[str], patches: Mapping[str, Patch], recipe: Recipe) -> None:
        """Check, before anything is written, that the module has places for what a composition changes.

        Args:
            names: The tensors that it writes.
            patches: By the sha256 of their files.
            recipe: What is composed.

        Raises:
            CheckpointMismatch: The module has no place for a tensor, or one place for two that would differ.
        """
        for name in sorted(names):
            if name not in self._places:
                raise CheckpointMismatch(
                    f"The composition changes {show(name)}, and the model has no such tensor; load the model with the "
                    "class that config.json names.",
                    field=name,
                )
        by_memory: dict[tuple[object, ...], set[str]] = {}
        for name, places in self._places.items():
            for place in places:
                by_memory.setdefault(self._weights.memory(place), set()).add(name)
        composed: ComposedWeights | None = None
        for tied in map(sorted, by_memory.values()):
            if len(tied) > 1 and not set(tied).isdisjoint(names):
                composed = composed or ComposedWeights(self._base, patches, recipe)
                for other in tied[1:]:
                    if not _equal(composed, self._base, tied[0], other):
                        raise CheckpointMismatch(
                            f"The model ties {show(tied[0])} and {show(other)}, and this composition makes them "
                            "differ; load it with tie_word_embeddings=False.",
                            field=other,
                        )


class ModuleSink:
    """The tensors of one weight file in a module.

    Args:
        entries: The file's entries, in the order of their data.
        base: The base.
        bound: The module's weights.
    """

    def __init__(self, entries: list[Entry], base: Checkpoint, bound: BoundWeights) -> None:
        self._entries, self._base, self._bound = entries, base, bound

    def put(self, view: memoryview, at: int) -> None:
        """Write bytes of the file to where their tensors are."""
        for entry, start, stop in self._split(at, at + len(view)):
            self._bound.write(view[start - at : stop - at], entry.name, start - entry.start)

    def copy(self, start: int, stop: int) -> None:
        """Write the base's bytes to where their tensors are."""
        for entry, first, last in self._split(start, stop):
            for begin, end in blocks(last - first, READ_BYTES):
                view = memoryview(bytearray(end - begin))
                self._base.fill(view, entry.name, first - entry.start + begin)
                self._bound.write(view, entry.name, first - entry.start + begin)

    def _split(self, start: int, stop: int) -> Iterator[tuple[Entry, int, int]]:
        """Yield the tensors of bytes start..stop - 1, and which of these bytes each has."""
        for entry in self._entries[bisect_right(self._entries, start, key=lambda entry: entry.stop) :]:
            if entry.start >= stop:
                return
            yield entry, max(start, entry.start), min(stop, entry.stop)


def _equal(composed: ComposedWeights, base: Checkpoint, one: str, other: str) -> bool:
    """Say whether two tensors of a composition are equal to the bit."""
    if base.tensors[one] != base.tensors[other]:
        return False
    first, second = (_place_in_file(base, name) for name in (one, other))
    return all(
        _read_composed(composed, first, start, stop) == _read_composed(composed, second, start, stop)
        for start, stop in blocks(base.bytes_of(one), READ_BYTES)
    )


def _place_in_file(base: Checkpoint, name: str) -> tuple[str, int]:
    """Return the weight file that has a tensor, and the byte at which the tensor starts in it."""
    file = next(file for file, header in base.headers.items() if name in header.entries)
    return file, base.headers[file].entries[name].start


def _read_composed(composed: ComposedWeights, place: tuple[str, int], start: int, stop: int) -> bytes:
    """Return bytes start..stop - 1 of a tensor of a composition."""
    file, at = place
    return b"".join(composed.read(file, at + start, at + stop))
