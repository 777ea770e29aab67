"""The engine that measures chunks by torch, on a GPU or on any other device of torch's.

arena --copy in--> bits, float32 values where they are --> for each pair: places of both --> sums
"""

import torch

from registry.breadcrumbs.comparing.engines import CpuConflictEngine, Measured, Numbers, zeros
from registry.breadcrumbs.composing.gpu.tensor_arena import TensorArena
from registry.breadcrumbs.composing.staging import ALIGN, CHUNK_BYTES, Arena, Chunk, Step
from registry.breadcrumbs.kernels.constants import CODES
from registry.breadcrumbs.kernels.dtypes import TORCH_DTYPES

DTYPE_OF_CODE = {code: TORCH_DTYPES[dtype] for dtype, code in CODES.items()}
"""torch's dtypes by the kernels' codes."""


class TorchEngine:
    """Measures on a device by torch, a few chunks at a time; chunks that do not fit there are measured on the CPU.

    Args:
        device: The GPU; other devices of torch's give the same.
        memory: Most bytes of its memory to use.
    """

    WORKERS = 2
    """Chunks in work at a time: one is read, one is measured."""

    ARENA_BYTES = 2**27
    """Most bytes that are copied in for a chunk."""

    PATCH_BYTES, PAIR_BYTES = 5, 96
    """Most bytes of an element: for each patch, its bit and its value; for the pair in work, all that is computed."""

    def __init__(self, device: torch.device, memory: int) -> None:
        self.device, self._cpu = device, CpuConflictEngine()
        share = memory // self.WORKERS
        self._room = min(self.ARENA_BYTES, share // 2)
        self._left = share - self._room
        self._places = torch.arange(8, dtype=torch.uint8, device=device)

    def step(self, patches: int) -> Step:
        """Return how long chunks are; there is twice the room that even masks need."""
        return Step(self._room // 2, max(64, self._left // (self.PATCH_BYTES * patches + self.PAIR_BYTES)))

    def workers(self, processors: int) -> int:
        """Return how many chunks are in work at a time."""
        return self.WORKERS

    def arena(self) -> Arena:
        """Return room, pinned where a GPU copies from it."""
        return TensorArena(2 * CHUNK_BYTES, self.device.type == "cuda")

    def measure(self, chunk: Chunk, arena: Arena, patches: int, pairs: Numbers) -> Measured:
        """Measure a chunk; arguments as of `ConflictEngine.measure`."""
        assert isinstance(arena, TensorArena)
        start = (chunk.base_at + chunk.length) // ALIGN * ALIGN  # of the base, which comes first, nothing was read
        if not len(chunk.table):
            return zeros(patches, len(pairs))
        if arena.used - start > self._room:
            return self._cpu.measure(chunk, arena, patches, pairs)
        return self._measure(chunk, arena, start, patches, pairs)

    def _measure(self, chunk: Chunk, arena: TensorArena, start: int, patches: int, pairs: Numbers) -> Measured:
        """Measure a chunk on the device, whose masks and values begin at byte `start` of the arena."""
        measured = zeros(patches, len(pairs))
        rows = {int(number): row for number, row in zip(chunk.scales, chunk.table.tolist(), strict=True)}
        there = arena.tensor[start : arena.used].to(self.device, non_blocking=True)
        touched = torch.zeros(chunk.size, dtype=torch.int32, device=self.device)
        bits, values, own = {}, {}, []
        for number, (mask_at, values_at, code, width, count) in rows.items():
            bits[number] = self._bits(there, mask_at - start, width, count, chunk)
            touched += bits[number]
            dtype = DTYPE_OF_CODE[code]
            kept = there[values_at - start :][: count * dtype.itemsize].view(dtype)
            values[number] = torch.zeros(chunk.size, device=self.device).masked_scatter_(bits[number], kept.float())
            doubles = kept.double()
            own.append(torch.stack([doubles.abs().sum(), doubles.square().sum()]))
        measured.own[list(rows)] = torch.stack(own).cpu().numpy()
        measured.census[1:] = touched.bincount(minlength=patches + 1)[1:].cpu().numpy()
        known = [number for number, pair in enumerate(pairs.tolist()) if pair[0] in rows and pair[1] in rows]
        if known:
            rows_of_pairs = [_measure_pair(one, two, bits, values) for one, two in pairs[known].tolist()]
            table = torch.stack(rows_of_pairs).cpu().numpy()
            measured.counts[known], measured.sums[known] = table[:, :2], table[:, 2:]
        return measured

    def _bits(self, there: torch.Tensor, at: int, width: int, count: int, chunk: Chunk) -> torch.Tensor:
        """Return the mask of a patch, bool [size of the chunk]."""
        if not width:
            octets = there[at : at + (chunk.size + 7) // 8]
            return (octets[:, None] >> self._places & 1).bool().view(-1)[: chunk.size]
        indices = there[at : at + width * count].view(torch.int32 if width == 4 else torch.int64)
        bits = torch.zeros(chunk.size, dtype=torch.bool, device=self.device)
        bits[indices.long() - chunk.first] = True
        return bits


def _measure_pair(one: int, two: int, bits: dict[int, torch.Tensor], values: dict[int, torch.Tensor]) -> torch.Tensor:
    """Return the counts and sums of a pair, float64 [7]; counts are exact."""
    where = (bits[one] & bits[two]).nonzero().view(-1)
    a, b = values[one][where].double(), values[two][where].double()
    less, product = torch.minimum(a.abs(), b.abs()), a * b
    against = product < 0
    return torch.stack(
        [
            torch.full((), where.numel(), dtype=torch.float64, device=where.device),
            against.sum().double(),
            less.sum(),
            (less * against).sum(),
            product.sum(),
            a.square().sum(),
            b.square().sum(),
        ]
    )
