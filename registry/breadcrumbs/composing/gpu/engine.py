"""The engine that composes chunks on a GPU, through pinned buffers, to the CPU's bytes.

    arena as it was read --copy in--> kernel --copy out--> out        a stream for each chunk in work
    what stays there      ---------->                                 residents.py; nothing is read or copied in

More threads read than chunks are on the GPU, since reading takes longest. How many are there at a time, and so the
memory they take, is fixed when the engine is opened: a chunk that turns out to need more room than that is composed on
the CPU.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from queue import LifoQueue

import torch

from registry.breadcrumbs.composing.engines import Buffers, CpuEngine, Rule, Staying, Touches
from registry.breadcrumbs.composing.gpu.direct import DirectReader, open_direct_reader
from registry.breadcrumbs.composing.gpu.held import LONGEST, HeldTensor, Wholly, compose_wholly, size_of
from registry.breadcrumbs.composing.gpu.launches import CudaLaunch, HeldLaunch, Launch, pick_launch
from registry.breadcrumbs.composing.gpu.residents import RESIDENTS, Copying
from registry.breadcrumbs.composing.gpu.tensor_arena import TensorArena
from registry.breadcrumbs.composing.gpu.work import Work
from registry.breadcrumbs.composing.lanes import Phases
from registry.breadcrumbs.composing.staging import CHUNK_BYTES, Arena, Chunk, Placed, Stager, Step, read_all
from registry.breadcrumbs.formats.header import DTYPES
from registry.breadcrumbs.formats.patchfile import Patch
from registry.breadcrumbs.kernels.cuda.compose import BLOCKS
from registry.breadcrumbs.kernels.devices import find_gpu
from registry.errors import NotFinite, Unavailable

MOST = 2**31 - 1
"""Most elements of a tensor of which patches stay: how many values come before an element is an int32."""


class GpuEngine:
    """Composes on a GPU, a few chunks at a time, each with a stream and buffers of its own.

    Args:
        device: The GPU; a CPU only where Triton interprets.
        memory: Most bytes of its memory to use.
        phases: Where time is counted: that of copies and kernels as the GPU has it.
        rule: How patches are combined.
        base, base_size: Weights digest and bytes of the base, which stays there if it fits into what is left.
        patches: Those that are composed, by the sha256 of their files, which stay beside the base if they fit.
        direct: Reads values from the disk to the GPU, where that is possible.
    """

    CHUNKS = 3
    """Chunks on the GPU at a time: one copied in, one computed, one copied out."""

    READERS = 8
    """Most chunks besides that are read meanwhile."""

    ARENA_BYTES = 2**26
    """Most bytes that are copied in for a chunk."""

    OUT_BYTES = 2**25
    """Most bytes of a chunk's result."""

    def __init__(
        self,
        device: torch.device,
        memory: int,
        phases: Phases,
        rule: Rule,
        base: str,
        base_size: int,
        patches: Mapping[str, Patch],
        direct: DirectReader | None = None,
    ) -> None:
        self.device, self.phases, self.rule, self.cpu = device, phases, rule, CpuEngine(phases, rule)
        if device.type == "cuda":  # torch may hand out memory that its own stream still works with
            torch.cuda.synchronize(device)
        share = memory // self.CHUNKS  # arena and result of one chunk, the arena with room for uneven masks
        self._out_room = min(self.OUT_BYTES, share // 4)
        self._arena_room = min(self.ARENA_BYTES, share - self._out_room)
        self.step = Step(self._arena_room // 2, self._out_room // 8)
        self._launch, self.direct = pick_launch(device), direct
        kept = [(sha256, size_of(patch)) for sha256, patch in patches.items()] if self._launch is CudaLaunch else []
        left = memory - self.CHUNKS * (self._arena_room + self._out_room)
        self._base, found = RESIDENTS.use((base, base_size), kept, left, device)
        staying = {patches[sha256]: patch for sha256, patch in found.items()}
        self.resident: Staying | None = self._base
        self._copying = Copying(self._base, staying, BLOCKS[rule.method])
        self._copying.settle({})  # counts what another method did not want counted
        self._wholly: dict[str, Wholly] = {}
        self._touching: dict[str, Touches] = {}
        self._works: LifoQueue[Work | None] = LifoQueue()
        for _ in range(self.CHUNKS):
            self._works.put(None)  # made when it is first wanted

    def depth(self, workers: int) -> int:
        """Return how many chunks are in work at a time: those on the GPU, and those that are read."""
        return self.CHUNKS + min(workers, self.READERS)

    def buffers(self) -> Buffers:
        """Return pinned buffers."""
        pinned = self.device.type == "cuda"
        return Buffers(TensorArena(self.step.staged, pinned), TensorArena(CHUNK_BYTES, pinned))

    def stager(self, base: Placed, name: str, touching: Touches) -> Stager:
        """Return what stages the chunks of a tensor: of one that is composed of residents alone, at most the base."""
        self._touching[name] = touching
        wholly = self._find(base, name, touching)
        if wholly is None:
            return Stager(base, name, touching, self.step)
        self._wholly[name] = wholly
        stager = Stager(base, name, (), self.step)
        stager.step = max(stager.step, LONGEST)
        return stager

    def read(self, chunk: Chunk, arena: Arena) -> None:
        """Read the rest of a chunk into the arena; values are left to direct reading where there is that."""
        if self.direct is None:
            chunk.read_rest(arena)
            return
        of_base = chunk.parts[:, 2] == chunk.base_at
        read_all(chunk.parts[of_base], arena, chunk.tensor)
        chunk.parts = chunk.parts[~of_base]

    def compose(self, chunk: Chunk, buffers: Buffers) -> int:
        """Compose a chunk into `buffers.out`; return how many results are not finite where the base was."""
        arena = buffers.arena
        assert isinstance(arena, TensorArena)
        if chunk.tensor in self._wholly:
            return self._compose(chunk, buffers, HeldLaunch(chunk, self.rule, self._wholly[chunk.tensor]))
        launch = self._launch(chunk, arena, self.rule)
        if launch.end + launch.extra > self._arena_room or chunk.length > self._out_room:
            return self._compose_here(chunk, buffers)
        try:
            return self._compose(chunk, buffers, launch)
        except torch.OutOfMemoryError:  # others use the GPU, too
            return self._compose_here(chunk, buffers)

    def _compose(self, chunk: Chunk, buffers: Buffers, launch: Launch) -> int:
        arena, out = buffers.arena, buffers.out
        assert isinstance(arena, TensorArena) and isinstance(out, TensorArena)
        kept, read = self._kept(chunk), slice(chunk.base_at, chunk.base_at + chunk.length)
        held = self.resident is not None and self.resident.holds(chunk.tensor)
        with self._working() as work, work.stream():
            work.mark()
            there, base = work.arena, work.arena[read]
            begin = read.stop if held else 0  # the base comes first in an arena, then masks, then values
            stop = int(chunk.parts[:, 2].min()) if len(chunk.parts) else arena.used
            there[begin:stop].copy_(arena.tensor[begin:stop], non_blocking=True)
            if stop < arena.used and not self._read_directly(chunk, there):
                chunk.read_rest(arena)
                there[stop : arena.used].copy_(arena.tensor[stop : arena.used], non_blocking=True)
            if kept is not None and held:
                base = kept
            elif kept is not None:
                kept.copy_(base)
            parts = work.send(launch.parts)
            work.mark()
            there_out = work.out[: chunk.length]
            launch.compose(there, base, there_out, work.lost(), parts)
            work.mark()
            out.tensor[: chunk.length].copy_(there_out, non_blocking=True)
            work.mark()
            self._keep_patches(chunk, there)
            return work.finish(self.phases)

    def _read_directly(self, chunk: Chunk, there: torch.Tensor) -> bool:
        """Read a chunk's values from the disk to the GPU; say whether that went well."""
        direct = self.direct
        try:
            if direct is not None:
                direct.read(chunk.parts.tolist(), there)
        except RuntimeError:  # the file system cannot, say; the next chunks need not try
            self.direct = direct = None
        return direct is not None

    def _compose_here(self, chunk: Chunk, buffers: Buffers) -> int:
        """Compose a chunk on the CPU, for which there is no room on the GPU."""
        chunk.read_rest(buffers.arena)
        arena, kept = buffers.arena, self._kept(chunk)
        assert isinstance(arena, TensorArena)
        base = arena.tensor[chunk.base_at : chunk.base_at + chunk.length]
        if self.resident is not None and kept is not None and self.resident.holds(chunk.tensor):
            base.copy_(kept)
        elif kept is not None:
            kept.copy_(base)
        self._copying.leave_out(chunk.tensor)
        return self.cpu.compose(chunk, buffers)

    def write_there(
        self, base: Placed, touching: Mapping[str, Touches], outs: Mapping[str, torch.Tensor]
    ) -> dict[str, int]:
        """Compose tensors into memory on the GPU, those of which all is there that they are composed of.

        Args:
            base: The base.
            touching: The patches that touch each tensor, ascending by sha256, each with its scale.
            outs: uint8, room for the bytes of each tensor, on multiples of 16.

        Returns:
            Of each tensor that was composed: how many results are not finite where the base was.
        """
        tensors: dict[str, Wholly] = {}
        for name, out in outs.items():
            wholly = self._find(base, name, touching.get(name, ()))
            if wholly is not None and out.device == self.device:
                tensors[name] = wholly
        return compose_wholly(tensors, self.rule, outs)

    def settle(self, digests: Mapping[str, str]) -> None:
        """Keep what was copied, now that all has ended well; of the base, tensors with these digests."""
        self._copying.settle(digests)

    def _find(self, base: Placed, name: str, touching: Touches) -> Wholly | None:
        """Return what a tensor is composed of, if all of that is on the GPU."""
        if self._base is None or not self._base.holds(name):
            return None
        held: list[tuple[HeldTensor, float]] = []
        for patch, by in touching:
            one = self._copying.find(patch, name)
            if one is None:
                return None
            held.append((one, by))
        return Wholly(self._base.tensors[name], base.tensors[name].dtype, held)

    def _kept(self, chunk: Chunk) -> torch.Tensor | None:
        """Return the memory in which the chunk's part of the base stays, or is to stay; None where nothing stays."""
        width = DTYPES[chunk.spec.dtype]
        whole = self._copying.base(chunk.tensor, chunk.spec.numel * width)
        return None if whole is None else whole[chunk.first * width : chunk.stop * width]

    def _keep_patches(self, chunk: Chunk, there: torch.Tensor) -> None:
        """Copy what patches do to a chunk to where it is to stay, unless it stays already."""
        numbers, table, before = chunk.numbers.tolist(), chunk.table.tolist(), chunk.before.tolist()
        rows = {number: (row, earlier) for number, row, earlier in zip(numbers, table, before, strict=True)}
        for number, (patch, _) in enumerate(self._touching[chunk.tensor]):
            room = None if chunk.spec.numel > MOST else self._copying.room_for(patch, chunk.tensor)
            if room is None:
                continue
            if number in rows:
                room.keep(chunk, *rows[number], there)
            else:
                room.keep_none(chunk)

    @contextmanager
    def _working(self) -> Iterator[Work]:
        """Yield what a chunk needs on the GPU, once it is free."""
        work = self._works.get()
        try:
            work = work or Work(self.device, self._arena_room, self._out_room)
            yield work
        finally:
            self._works.put(work)


@contextmanager
def open_gpu_engine(
    device_memory: int | None,
    phases: Phases,
    rule: Rule,
    base: str,
    base_size: int,
    patches: Mapping[str, Patch],
) -> Iterator[GpuEngine]:
    """Open the GPU's engine; on an error, what stays of base and patches there is dropped.

    Args:
        device_memory: Most bytes of its memory; the smaller of 4 GiB and a quarter of what is free when None.
        phases: Where time is counted.
        rule: How patches are combined.
        base, base_size: Weights digest and bytes of the base.
        patches: Those that are composed, by the sha256 of their files.

    Raises:
        Unavailable: The GPU has no memory left.
    """
    try:
        device, memory = find_gpu(device_memory)
        with open_direct_reader(device) or nullcontext() as direct:
            yield GpuEngine(device, memory, phases, rule, base, base_size, patches, direct)
    except NotFinite:  # which says nothing against what is there
        raise
    except BaseException as why:
        RESIDENTS.drop(base, *patches)
        if isinstance(why, torch.OutOfMemoryError):
            raise Unavailable(
                "The GPU has no memory left beside what other programs use; allow less of it (--device-memory, "
                "REGISTRY_DEVICE_MEMORY), or choose the device cpu."
            ) from why
        raise
