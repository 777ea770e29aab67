"""Held patches: masks and values that stay on a GPU, and tensors composed of them without leaving it.

    file --> mask, values, counts before each block, of one tensor          once, while there is room
    base's tensor on the GPU + those of each patch --> result on the GPU    one launch, to the CPU's bits

What was used longest ago leaves first. Kernels trust what they are given, so it is checked here when it is read.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from registry.breadcrumbs.composing.engines import Rule
from registry.breadcrumbs.composing.staging import room
from registry.breadcrumbs.formats.header import DTYPES, show
from registry.breadcrumbs.formats.patchfile import Patch
from registry.breadcrumbs.kernels.compose import CODES
from registry.breadcrumbs.kernels.cuda.compose import BLOCKS, compose_chunk, kind_of
from registry.breadcrumbs.kernels.cuda.counting import count_before
from registry.errors import InvalidPatch


@dataclass(frozen=True)
class HeldTensor:
    """What a patch does to one tensor, on a GPU.

    Args:
        arena: uint8, the mask, then the values.
        row: int64 [1, 5], the table's row of them, on the GPU.
        numel: Elements of the tensor.
        code, width: Dtype of the values, and bytes of an index or 0, as the row has them.
        starts: int32 [B + 1], by the elements of a block of each method: how many values come before each, then all.
    """

    arena: torch.Tensor
    row: torch.Tensor
    numel: int
    code: int
    width: int
    starts: dict[int, torch.Tensor]

    @property
    def size(self) -> int:
        """Bytes that it takes, with every count."""
        return self.arena.nbytes + sum(starts.nbytes for starts in self.starts.values())

    def keep(self) -> None:
        """Have its memory kept, once nobody has it, until torch's current stream has done what it was given."""
        if self.arena.is_cuda:
            stream = torch.cuda.current_stream(self.arena.device)
            for part in (self.arena, self.row, *self.starts.values()):
                part.record_stream(stream)


class HeldPatches:
    """Tensors of patches on a GPU, by the sha256 of the file and the tensor's name, the most recently used last.

    Args:
        device: The GPU.
        room: Most bytes that they may take together.
    """

    def __init__(self, device: torch.device, room: int) -> None:
        self.device, self.room, self.used = device, room, 0
        self._held: OrderedDict[tuple[str, str], HeldTensor] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, sha256: str, patch: Patch, name: str) -> HeldTensor:
        """Return what a patch does to a tensor, read from its file unless it is held; then held if it fits.

        Raises:
            InvalidPatch: Mask and values differ in number, padding is set, or indices do not increase, or leave the
                tensor.
        """
        with self._lock:
            if (sha256, name) in self._held:
                self._held.move_to_end((sha256, name))
                return self._held[sha256, name]
        held = read_held(patch, name, self.device)
        with self._lock:
            if held.size <= self.room and (sha256, name) not in self._held:
                self._held[sha256, name] = held
                self.used += held.size
                while self.used > self.room:
                    self.used -= self._held.popitem(last=False)[1].size
        return held

    def drop(self) -> None:
        """Drop all of them."""
        with self._lock:
            self._held.clear()
            self.used = 0


def read_held(patch: Patch, name: str, device: torch.device) -> HeldTensor:
    """Read what a patch does to a tensor, check it, and copy it to a GPU; errors as of `HeldPatches.take`."""
    mask, values = patch.mask_entry(name), patch.value_entry(name)
    numel, count = patch.info.tensors[name].numel, values.shape[0]
    width = 0 if mask.dtype == "U8" else DTYPES[mask.dtype]
    values_at = room(mask.stop - mask.start)
    arena = np.zeros(values_at + room(values.stop - values.start), np.uint8)
    for entry, at in ((mask, 0), (values, values_at)):
        patch.fill_from_file(memoryview(arena.data)[at : at + entry.stop - entry.start], entry.start)
    if width and not _increase(arena[: count * width].view(f"<i{width}"), numel):
        raise InvalidPatch(
            f"Entry {show(mask.name)}: its indices do not strictly increase, or leave the tensor.", field=mask.name
        )
    if not width and numel % 8 and arena[mask.stop - mask.start - 1] >> numel % 8:
        raise InvalidPatch(f"Entry {show(mask.name)}: a padding bit after its {numel} bits is set.", field=mask.name)
    code = CODES[values.dtype]
    row = torch.tensor([[0, values_at, code, width, count]], dtype=torch.int64).to(device)
    there = torch.from_numpy(arena).to(device)
    starts = {block: count_before(there, row, numel, block)[0] for block in BLOCKS.values()}
    if int(starts[min(starts)][-1]) != count:  # waits, so that other streams find every count
        raise InvalidPatch(f"The mask and values of {show(name)} differ in number.", field=name)
    return HeldTensor(there, row, numel, code, width, starts)


def _increase(indices: "np.ndarray[tuple[int], np.dtype[np.int64]]", numel: int) -> bool:
    inside = not len(indices) or (int(indices[0]) >= 0 and int(indices[-1]) < numel)
    return inside and bool((indices[1:] > indices[:-1]).all())


def compose_held(
    base: torch.Tensor, dtype: str, touching: Sequence[tuple[HeldTensor, float]], rule: Rule, out: torch.Tensor
) -> torch.Tensor:
    """Compose one tensor on the GPU; nothing waits for it.

    Args:
        base: uint8, the base's bytes, on a multiple of 16.
        dtype: The base's dtype.
        touching: What each patch does to the tensor, ascending by sha256, with its scale there.
        rule: How they are combined.
        out: uint8, as many, filled, on a multiple of 16; it may be `base`.

    Returns:
        int64 [1] on the GPU: how many results are not finite where the base was.
    """
    lost = torch.zeros(1, dtype=torch.int64, device=base.device)
    if not touching:
        out.copy_(base)
        return lost
    arena, block = touching[0][0].arena, BLOCKS[rule.method]
    offsets = [[held.arena.data_ptr() - arena.data_ptr()] * 2 + [0, 0, 0] for held, _ in touching]
    factors = [*(scale for _, scale in touching), rule.alpha]
    table = torch.cat([held.row for held, _ in touching]) + torch.tensor(offsets).to(base.device)
    scales = torch.tensor(factors, dtype=torch.float64).to(base.device)
    starts = torch.stack([held.starts[block] for held, _ in touching])
    kind = kind_of(((held.code, held.width) for held, _ in touching), rule.method)
    compose_chunk(arena, base, out, dtype, table, scales, starts, lost, rule.method, kind=kind)
    for held, _ in touching:
        held.keep()
    return lost
