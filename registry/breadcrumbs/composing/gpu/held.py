"""Held tensors: what a patch does to one tensor, on a GPU, and tensors composed of them there.

    staged chunks --copy on the GPU--> mask, values of the whole tensor      as they are composed for the first time
    base's tensor on the GPU + those of each patch --> result on the GPU     one launch, to the CPU's bits

Staging has checked what is copied, so kernels may trust it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from registry.breadcrumbs.composing.engines import Rule
from registry.breadcrumbs.composing.staging import Chunk, room
from registry.breadcrumbs.formats.header import DTYPES
from registry.breadcrumbs.formats.patchfile import Patch
from registry.breadcrumbs.kernels.constants import CODES
from registry.breadcrumbs.kernels.cuda.compose import BLOCKS, compose_chunk, kind_of
from registry.breadcrumbs.kernels.cuda.counting import count_before

LONGEST = max(BLOCKS.values())
"""Elements of the longest block before which values are counted: a chunk of held patches begins on a multiple."""

WIDTHS = {CODES[dtype]: DTYPES[dtype] for dtype in CODES}
"""Bytes of a value by the kernels' codes."""


@dataclass(frozen=True)
class HeldTensor:
    """What a patch does to one tensor, on a GPU.

    Args:
        arena: uint8, the mask, then the values.
        values_at: Where the values begin in it.
        numel: Elements of the tensor.
        code, width: Dtype of the values, and bytes of an index or 0 for a bitmask.
        nnz: How many values there are.
        starts: int32 [B + 1] by the elements of a block: how many values come before each, then all.
    """

    arena: torch.Tensor
    values_at: int
    numel: int
    code: int
    width: int
    nnz: int
    starts: dict[int, torch.Tensor] = field(default_factory=dict)

    def keep(self, chunk: Chunk, row: Sequence[int], before: int, there: torch.Tensor) -> None:
        """Copy a chunk's mask and values; nothing waits for it.

        Args:
            chunk: The chunk.
            row: This patch's row of its table.
            before: How many values come before the chunk.
            there: uint8, the chunk's arena on the GPU.
        """
        mask_at, values_at, _, width, count = row
        to, length = (before * width, count * width) if width else (chunk.first // 8, (chunk.size + 7) // 8)
        self.arena[to : to + length].copy_(there[mask_at : mask_at + length])
        value = WIDTHS[self.code]
        to, length = self.values_at + before * value, count * value
        self.arena[to : to + length].copy_(there[values_at : values_at + length])

    def keep_none(self, chunk: Chunk) -> None:
        """Note that the patch has no values in a chunk; nothing waits for it."""
        if not self.width:
            self.arena[chunk.first // 8 : (chunk.stop + 7) // 8].zero_()

    def row(self, origin: int, first: int = 0) -> tuple[int, int, int, int, int]:
        """Return its row of a table whose offsets count from an address, where a chunk begins at element `first`."""
        at = self.arena.data_ptr() - origin
        return at + (0 if self.width else first // 8), at + self.values_at, self.code, self.width, self.nnz

    def count(self, block: int) -> torch.Tensor:
        """Count the values before each block, as `starts` has it; nothing waits for it."""
        table = torch.tensor([self.row(self.arena.data_ptr())], dtype=torch.int64).to(self.arena.device)
        return count_before(self.arena, table, self.numel, block)[0]


def make_room(patch: Patch, name: str, device: torch.device) -> HeldTensor:
    """Return the memory on a GPU for what a patch does to a tensor."""
    mask, values = patch.mask_entry(name), patch.value_entry(name)
    values_at = room(mask.stop - mask.start)
    arena = torch.empty(values_at + room(values.stop - values.start), dtype=torch.uint8, device=device)
    width = 0 if mask.dtype == "U8" else DTYPES[mask.dtype]
    return HeldTensor(arena, values_at, patch.info.tensors[name].numel, CODES[values.dtype], width, values.shape[0])


def size_of(patch: Patch) -> int:
    """Return how many bytes a patch takes on a GPU, with every count."""
    size = 0
    for name, spec in patch.info.tensors.items():
        entries = patch.mask_entry(name), patch.value_entry(name)
        size += sum(room(entry.stop - entry.start) for entry in entries)
        size += sum(4 * (-(-spec.numel // block) + 1) for block in BLOCKS.values())
    return size


@dataclass(frozen=True)
class Wholly:
    """A tensor that is composed of what is on the GPU.

    Args:
        base: uint8, the bytes of the base's.
        dtype: Its dtype.
        touching: What each patch does to it, ascending by sha256, with its scale there.
    """

    base: torch.Tensor
    dtype: str
    touching: Sequence[tuple[HeldTensor, float]]

    def kind(self, rule: Rule) -> int:
        """Return the kind of patches, as of `kind_of`."""
        return kind_of(((held.code, held.width) for held, _ in self.touching), rule.method)

    def rows(self, origin: int, first: int = 0) -> list[tuple[int, int, int, int, int]]:
        """Return the rows of a table; arguments as of `HeldTensor.row`."""
        return [held.row(origin, first) for held, _ in self.touching]

    def factors(self, rule: Rule) -> list[float]:
        """Return the scale of each patch, then alpha."""
        return [*(by for _, by in self.touching), rule.alpha]


def compose_wholly(tensors: Mapping[str, Wholly], rule: Rule, outs: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Compose tensors on the GPU: one copy of all tables to it, a launch for each tensor, and one wait at the end.

    Args:
        tensors: What they are composed of; their values are counted before each block of the rule's.
        rule: How patches are combined.
        outs: uint8, as many bytes for each, filled, on multiples of 16.

    Returns:
        Of each tensor: how many results are not finite where the base was.
    """
    touched = [name for name, one in tensors.items() if one.touching]
    others = [name for name, one in tensors.items() if not one.touching]
    for name in others:
        outs[name].copy_(tensors[name].base)
    if not touched:
        return dict.fromkeys(others, 0)
    device, block = tensors[touched[0]].base.device, BLOCKS[rule.method]
    origin = tensors[touched[0]].touching[0][0].arena
    rows = [row for name in touched for row in tensors[name].rows(origin.data_ptr())]
    scales = [factor for name in touched for factor in tensors[name].factors(rule)]
    tables = torch.tensor(rows, dtype=torch.int64).to(device)
    factors = torch.tensor(scales, dtype=torch.float64).to(device)
    starts = torch.cat([held.starts[block] for name in touched for held, _ in tensors[name].touching])
    lost = torch.zeros(len(touched), dtype=torch.int64, device=device)
    row = counted = 0
    for number, name in enumerate(touched):
        one = tensors[name]
        patches, counts = len(one.touching), len(one.touching) * len(one.touching[0][0].starts[block])
        compose_chunk(
            origin,
            one.base,
            outs[name],
            one.dtype,
            tables[row : row + patches],
            factors[row + number : row + number + patches + 1],
            starts[counted : counted + counts],
            lost[number : number + 1],
            rule.method,
            kind=one.kind(rule),
        )
        row, counted = row + patches, counted + counts
    return dict.fromkeys(others, 0) | dict(zip(touched, lost.tolist(), strict=True))  # waits
