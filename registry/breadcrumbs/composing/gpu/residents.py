"""Residents: bases and patches that stay on a GPU for later compositions; the least recently used leaves first.

A tensor stays once all of it has been copied there, and the composition that copied it has ended well. Of a base, that
has verified it. What stays is neither read nor hashed again.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch

from registry.breadcrumbs.composing.gpu.held import HeldTensor, make_room
from registry.breadcrumbs.formats.patchfile import Patch


class Resident:
    """One base on a GPU.

    Attributes:
        tensors: The bytes of its tensors that are there whole and verified, uint8 [bytes] each, by name.
        digests: Their sha256.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self._lock = device, threading.Lock()
        self.tensors: dict[str, torch.Tensor] = {}
        self.digests: dict[str, str] = {}

    def holds(self, name: str) -> bool:
        """Say whether a tensor is on the GPU, whole and verified."""
        return name in self.digests

    def settle(self, copied: Mapping[str, torch.Tensor], digests: Mapping[str, str]) -> None:
        """Keep those of the tensors that were copied which have a digest, now that the base is verified."""
        with self._lock:
            for name in copied.keys() & digests.keys() - self.digests.keys():
                self.tensors[name] = copied[name]
                self.digests[name] = digests[name]  # last: whoever finds it finds the tensor


class ResidentPatch:
    """One patch on a GPU.

    Attributes:
        tensors: What it does to each tensor that is there whole, by name.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self._lock = device, threading.Lock()
        self.tensors: dict[str, HeldTensor] = {}

    def settle(self, copied: Mapping[str, HeldTensor], block: int) -> None:
        """Keep tensors that were copied, and wait until the values before each block of elements are counted."""
        with self._lock:
            tensors = {**copied, **self.tensors}
            counted = [(held, held.count(block)) for held in tensors.values() if block not in held.starts]
            if counted and self.device.type == "cuda":
                torch.cuda.current_stream(self.device).synchronize()
            for held, starts in counted:  # other streams find them from here on
                held.starts[block] = starts
            self.tensors = tensors


class Copying:
    """What one composition copies to a GPU; it stays there once that has ended well.

    Args:
        base: What stays of the base; None where it is not to stay.
        patches: What stays of each patch that is to stay.
        block: The elements of a block before which the values of patches are to be counted.
    """

    def __init__(self, base: Resident | None, patches: Mapping[Patch, ResidentPatch], block: int) -> None:
        self._base, self._patches, self._block, self._lock = base, patches, block, threading.Lock()
        self._tensors: dict[str, torch.Tensor] = {}
        self._copied: dict[Patch, dict[str, HeldTensor]] = {patch: {} for patch in patches}
        self._left_out: set[str] = set()

    def base(self, name: str, length: int) -> torch.Tensor | None:
        """Return the memory of a tensor of the base, which has `length` bytes, filled if the base holds it."""
        if self._base is None:
            return None
        if self._base.holds(name):
            return self._base.tensors[name]
        with self._lock:
            if name not in self._tensors:
                self._tensors[name] = torch.empty(length, dtype=torch.uint8, device=self._base.device)
            return self._tensors[name]

    def find(self, patch: Patch, name: str) -> HeldTensor | None:
        """Return what a patch does to a tensor; None if that is not on the GPU whole."""
        kept = self._patches.get(patch)
        held = None if kept is None else kept.tensors.get(name)
        return held if held is not None and self._block in held.starts else None

    def room_for(self, patch: Patch, name: str) -> HeldTensor | None:
        """Return the memory for what a patch does to a tensor, to be filled chunk by chunk; None if it needs none."""
        kept = self._patches.get(patch)
        if kept is None or name in kept.tensors:
            return None
        with self._lock:
            copied = self._copied[patch]
            if name not in copied:
                copied[name] = make_room(patch, name, kept.device)
            return copied[name]

    def leave_out(self, name: str) -> None:
        """Have a tensor not stay, a chunk of which was not copied."""
        self._left_out.add(name)

    def settle(self, digests: Mapping[str, str]) -> None:
        """Have stay what was copied: of the base, which is verified, tensors with these digests."""
        if self._base is not None:
            self._base.settle(self._tensors, digests)
        for patch, kept in self._patches.items():
            copied = self._copied[patch]
            kept.settle({name: held for name, held in copied.items() if name not in self._left_out}, self._block)
            copied.clear()


Kept = Resident | ResidentPatch


class Residents:
    """The bases and patches on GPUs, by device and digest, the most recently used last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[torch.device, str], tuple[Kept, int]] = OrderedDict()

    def use(
        self, base: tuple[str, int], patches: Sequence[tuple[str, int]], room: int, device: torch.device
    ) -> tuple[Resident | None, dict[str, ResidentPatch]]:
        """Return what stays of a base and of patches, and drop others to make room for it.

        Args:
            base: Its weights digest, and the bytes of all its tensors.
            patches: The sha256 of each file, and the bytes that it takes there.
            room: Most bytes of all that stays on this GPU.
            device: The GPU.

        Returns:
            The base, None if it does not fit; and by sha256 the patches that fit beside it, the first ones first.
        """
        with self._lock:
            found, patched, left = None, {}, room - base[1]
            if left >= 0:
                kept = self._take(device, base, Resident)
                assert isinstance(kept, Resident)
                found = kept
            for digest, size in patches if left >= 0 else ():
                if size <= left:
                    one = self._take(device, (digest, size), ResidentPatch)
                    assert isinstance(one, ResidentPatch)
                    patched[digest], left = one, left - size
            while self._used(device) > room:
                del self._kept[next(key for key in self._kept if key[0] == device)]
            return found, patched

    def _take(self, device: torch.device, of: tuple[str, int], kind: type[Kept]) -> Kept:
        kept = self._kept.setdefault((device, of[0]), (kind(device), of[1]))
        self._kept.move_to_end((device, of[0]))
        return kept[0]

    def _used(self, device: torch.device) -> int:
        return sum(size for (where, _), (_, size) in self._kept.items() if where == device)

    def drop(self, *digests: str) -> None:
        """Drop bases or patches from every GPU, after an error."""
        with self._lock:
            for key in [key for key in self._kept if key[1] in digests]:
                del self._kept[key]


RESIDENTS = Residents()
"""The residents of this process."""
