"""Small tensors: many that follow each other in a file, composed in one call, where a call for each would cost more.

out   | room for one tensor | all of them, composed | all of them, as they are in the base |
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from registry.breadcrumbs.composing import staging
from registry.breadcrumbs.composing.engines import Buffers, Engine, compose_staged
from registry.breadcrumbs.composing.lanes import Phases
from registry.breadcrumbs.composing.staging import Placed
from registry.breadcrumbs.formats.header import Entry
from registry.breadcrumbs.formats.patchfile import Patch

JOINED_BYTES = 2**20
"""About how many bytes of small tensors are composed in one call."""

Seen = Callable[[str, memoryview, memoryview], None]
"""Takes a tensor's name, its bytes in the base, and its composed bytes."""


@dataclass(frozen=True)
class Joined:
    """Small tensors that are composed together.

    Args:
        entries: Where they are in the file; each begins where the one before ends.
        old, new: Room for their bytes in the base, and for those that come out.
    """

    entries: Sequence[Entry]
    old: memoryview
    new: memoryview


def is_small(entry: Entry) -> bool:
    """Say whether a tensor is composed in one chunk of the least size, or in less."""
    return entry.numel <= staging.MIN_CHUNK_ELEMENTS


def joins(entries: Sequence[Entry], entry: Entry) -> bool:
    """Say whether a small tensor may be composed together with others."""
    return not entries or (entries[-1].stop == entry.start and entry.stop - entries[0].start <= JOINED_BYTES)


def make_room(buffers: Buffers, entries: Sequence[Entry]) -> Joined:
    """Make room for small tensors in `buffers.out`."""
    out, length = buffers.out, entries[-1].stop - entries[0].start
    out.clear()
    out.place(max(entry.stop - entry.start for entry in entries))
    new, old = out.place(length), out.place(length)
    return Joined(entries, out.view[old : old + length], out.view[new : new + length])


def compose_small(
    base: Placed,
    touching: Mapping[str, Sequence[tuple[Patch, float]]],
    engine: Engine,
    joined: Joined,
    buffers: Buffers,
    phases: Phases,
    seen: Seen | None = None,
) -> None:
    """Compose small tensors, one after another; errors as of `Stager.stage` and `compose_staged`.

    Args:
        base: The base.
        touching: The patches that touch each tensor, ascending by sha256, each with its scale.
        engine: Composes a chunk.
        joined: The tensors, with room for them in `buffers`.
        buffers: For one tensor at a time.
        phases: Where time is counted.
        seen: Called for each tensor once it is composed.
    """
    at = 0
    for entry in joined.entries:
        stager = engine.stager(base, entry.name, touching[entry.name])
        with phases.of("masks"):
            chunk = stager.stage(buffers.arena, 0, entry.numel)
        compose_staged(engine, chunk, buffers, phases)
        old, new = joined.old[at : at + chunk.length], joined.new[at : at + chunk.length]
        old[:] = buffers.arena.view[chunk.base_at : chunk.base_at + chunk.length]
        new[:] = buffers.out.view[: chunk.length]
        if seen is not None:
            seen(entry.name, old, new)
        at += chunk.length
