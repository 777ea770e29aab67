"""Residents: bases that stay on a GPU between the compositions of one process; the least recently used leaves first.

A tensor stays once all of it has been copied there and the composition that copied it has verified the base. What stays
is neither read nor hashed again.
"""

import threading
from collections import OrderedDict

import torch


class Resident:
    """One base on the GPU.

    Attributes:
        tensors: The bytes of its tensors, uint8 [bytes] each, by name.
        digests: The sha256 of those that are there whole and verified.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self._lock = device, threading.Lock()
        self.tensors: dict[str, torch.Tensor] = {}
        self.digests: dict[str, str] = {}

    def holds(self, name: str) -> bool:
        """Say whether a tensor is on the GPU, whole and verified."""
        return name in self.digests

    def room_for(self, name: str, length: int) -> torch.Tensor:
        """Return the memory for a tensor of `length` bytes: uint8 [length]."""
        with self._lock:
            if name not in self.tensors:
                self.tensors[name] = torch.empty(length, dtype=torch.uint8, device=self.device)
            return self.tensors[name]

    def settle(self, digests: dict[str, str]) -> None:
        """Keep the tensors that were copied, now that the base is verified; drop those without a digest."""
        self.digests |= {name: digests[name] for name in self.tensors if name in digests}
        self.tensors = {name: tensor for name, tensor in self.tensors.items() if name in self.digests}


class Residents:
    """The bases on a GPU, by weights digest, the most recently used last."""

    def __init__(self) -> None:
        self._bases: OrderedDict[str, tuple[Resident, int]] = OrderedDict()

    def use(self, digest: str, size: int, room: int, device: torch.device) -> Resident | None:
        """Return the resident of a base, and drop others to make room for it; None if it does not fit.

        Args:
            digest: Weights digest of the base.
            size: Bytes of all its tensors.
            room: Most bytes of all bases together.
            device: The GPU.
        """
        if digest in self._bases:
            self._bases.move_to_end(digest)
        elif size <= room:
            self._bases[digest] = Resident(device), size
        else:
            return None
        while sum(held for _, held in self._bases.values()) > room:
            self._bases.popitem(last=False)
        return self._bases[digest][0] if digest in self._bases else None

    def drop(self, digest: str) -> None:
        """Drop a base, after an error."""
        self._bases.pop(digest, None)


RESIDENTS = Residents()
"""The residents of this process."""
