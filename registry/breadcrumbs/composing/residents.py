"""Bases that stay on a GPU between the compositions of one process, the least recently used leaving first.

A tensor stays once all of it has been copied there and the composition that did so has found the base to be the
recipe's. What stays is neither read nor hashed again.
"""

import threading
from collections import OrderedDict

import torch


class Resident:
    """One base: the bytes of its tensors on the GPU, uint8 [bytes] each, and their sha256 where all are there."""

    def __init__(self, device: torch.device) -> None:
        self.device, self._lock = device, threading.Lock()
        self.tensors: dict[str, torch.Tensor] = {}
        self.digests: dict[str, str] = {}

    def holds(self, name: str) -> bool:
        """Say whether a tensor is there and known to be sound."""
        return name in self.digests

    def room_for(self, name: str, length: int) -> torch.Tensor:
        """Return where a tensor of so many bytes is to be copied."""
        with self._lock:
            if name not in self.tensors:
                self.tensors[name] = torch.empty(length, dtype=torch.uint8, device=self.device)
            return self.tensors[name]

    def settle(self, digests: dict[str, str]) -> None:
        """Keep the tensors that were copied, now that their digests are known to be the base's; forget others."""
        self.digests |= {name: digests[name] for name in self.tensors if name in digests}
        self.tensors = {name: tensor for name, tensor in self.tensors.items() if name in self.digests}


class Residents:
    """The bases on a GPU, by weights digest, the most recently used last."""

    def __init__(self) -> None:
        self._bases: OrderedDict[str, tuple[Resident, int]] = OrderedDict()

    def use(self, digest: str, size: int, room: int, device: torch.device) -> Resident | None:
        """Return the place of a base, having made others leave for it; None if it does not fit.

        Args:
            digest: Weights digest of the base.
            size: Bytes of all its tensors.
            room: Most bytes of all bases.
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
        """Let a base go: something was wrong."""
        self._bases.pop(digest, None)


RESIDENTS = Residents()
"""Those of this process."""
